"""Answers as services and what stands before them give them: in pieces, in chunks, without a length, or not at all."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dumont.agent import web

Say = Callable[..., web.Connection]
OK = b"HTTP/1.1 200 OK\r\n"


class Host:
    """Says prepared things, one for each request, and takes down which connection asked what.

    What is said in several pieces goes out one by one; None at the end of them closes the connection.
    """

    def __init__(self, trust: ssl.SSLContext | None = None) -> None:
        self.asked: list[tuple[int, bytes]] = []
        self.said: list[tuple[bytes | None, ...]] = []
        self._trust = trust
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._door.close()

    def _serve(self) -> None:
        for number in range(99):
            try:
                plain, _ = self._door.accept()
                with self._trust.wrap_socket(plain, server_side=True) if self._trust else plain as wire:
                    self._talk(number, wire)
            except OSError:
                if self._door.fileno() < 0:
                    return

    def _talk(self, number: int, wire: socket.socket) -> None:
        head = b""
        while more := wire.recv(4096):
            head += more
            if b"\r\n\r\n" not in head:
                continue
            self.asked.append((number, head))
            head = b""
            for piece in self.said.pop(0):
                if piece is None:
                    return
                wire.sendall(piece)


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()


@pytest.fixture
def say(host: Host) -> Say:
    def prepare(*said: tuple[bytes | None, ...]) -> web.Connection:
        host.said = [*said]
        return web.Connection("http", f"127.0.0.1:{host.port}", 20.0)

    return prepare


@pytest.mark.parametrize(
    "said",
    [
        (OK + b"Content-Length: 6\r\n\r\npieces",),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK[:7], OK[7:], b"content-length:6\r\n\r", b"\npie", b"ces"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n3;of=it\r\npie\r\n3\r\nc", b"es\r\n0\r\nTrailer: yes\r\n\r\n"),
        (b"HTTP/1.0 200 OK\r\n\r\npie", b"ces", None),
        (OK + b"Connection: close\r\nContent-Length: 6\r\n\r\npieces", None),
    ],
)
def test_a_body_comes_whole_however_it_is_sent(host: Host, say: Say, said: tuple[bytes | None, ...]) -> None:
    """And the next request is answered as well, over the same connection where that was left open."""
    connection = say(said, (OK + b"Content-Length: 4\r\n\r\nnext",))
    assert connection.ask("GET", "/a?b=c", {"Range": "bytes=0-5"}).read() == b"pieces"
    assert connection.ask("PUT", "/", {"Content-Length": "0"}).read() == b"next"
    assert host.asked[0] == (
        0,
        f"GET /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:{host.port}\r\nAccept-Encoding: identity\r\n".encode()
        + b"Range: bytes=0-5\r\n\r\n",
    )
    assert host.asked[1][0] == (1 if None in said else 0)


@pytest.mark.parametrize(
    "said",
    [
        (None,),
        (b"HTTP/1.1 200", None),
        (b"SSH-2.0-OpenSSH\r\n",),
        (OK + b"Content-Length: -1\r\n\r\n",),
        (OK + b"Content-Length: 6\r\n\r\npie", None),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nsix\r\npieces",),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n-6\r\npieces\r\n",),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\npieces\r\n",),
        (b"HTTP/1.1 \xb2\xb2\xb2 OK\r\n\r\n",),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\npie\r\n", None),
        (OK + b"X: " + b"x" * 200_000,),
    ],
)
def test_what_is_no_whole_answer_is_an_error(say: Say, said: tuple[bytes | None, ...]) -> None:
    with pytest.raises(web.Broken):
        say(said).ask("GET", "/", {}).read()


def test_who_leaves_a_body_unread_gets_another_connection(host: Host, say: Say) -> None:
    """What is left of the old answer is never taken for the next one."""
    connection = say((OK + b"Content-Length: 6\r\n\r\npieces",), (OK + b"Content-Length: 4\r\n\r\nnext",))
    room = memoryview(bytearray(3))
    assert connection.ask("GET", "/", {}).readinto(room) == 3 and bytes(room) == b"pie"
    assert connection.ask("GET", "/", {}).read() == b"next"
    assert [number for number, _ in host.asked] == [0, 1]


def test_a_host_must_prove_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over TLS only who has a certificate that the system trusts, for the name in the URL, is asked anything."""
    certificate = certified(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    host = Host(context)
    try:
        host.said = [(OK + b"Content-Length: 6\r\n\r\npieces",)]
        for netloc, trusted in (("127.0.0.1", None), ("localhost", certificate), ("127.0.0.1", certificate)):
            monkeypatch.setenv("SSL_CERT_FILE", str(trusted or tmp_path / "none"))
            web._trust.cache_clear()
            connection = web.Connection("https", f"{netloc}:{host.port}", 20.0)
            if (netloc, trusted) == ("127.0.0.1", certificate):
                assert connection.ask("GET", "/", {}).read() == b"pieces"
            else:
                with pytest.raises(ssl.SSLCertVerificationError):
                    connection.ask("GET", "/", {})
        assert len(host.asked) == 1
    finally:
        web._trust.cache_clear()
        host.close()


def certified(folder: Path) -> Path:
    """Write a key with a certificate for 127.0.0.1 and return the file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test")])
    now = datetime.now(timezone.utc)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    plain = serialization.NoEncryption()
    kept = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path = folder / "host.pem"
    path.write_bytes(kept + made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return path
