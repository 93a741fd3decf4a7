"""The endpoint as an attacker meets it, who has a rented host and the password of its session."""

import base64
import hashlib
import http.client
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dumont.sync.endpoint import OWNER, READER, USER, Endpoint, Rights, host_rights
from dumont.vault import LocalStore

MINE, OTHERS = "wsp_01JQ8Z7C5T2V9K4M6N8P0R2S4T", "wsp_01JQ8Z7C5T2V9K4M6N8P0R2S4V"
GB = 1 << 30


@dataclass
class Caller:
    """Somebody who speaks HTTP with an endpoint, in whatever way he likes."""

    endpoint: Endpoint
    port: int
    password: str

    def __call__(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        token = base64.b64encode(f"{USER}:{self.password}".encode()).decode()
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in {"Authorization": f"Basic {token}", **headers}.items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers
        finally:
            connection.close()

    def add(self, kind: str, content: bytes, name: str | None = None) -> int:
        return self("POST", f"/{MINE}/{kind}/{name or named(content)}", content)[0]


def named(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with two workspaces' repositories, each with an object of every type."""
    for workspace in (MINE, OTHERS):
        store = LocalStore(tmp_path / "restic" / workspace)
        store.put("config", b"config of " + workspace.encode())
        for kind in ("data", "index", "keys", "locks", "snapshots"):
            content = f"{kind} of {workspace}".encode()
            folder = f"data/{named(content)[:2]}" if kind == "data" else kind
            store.put(f"{folder}/{named(content)}", content)
    return tmp_path / "restic"


def open_to(folder: Path, rights: Rights, seconds: float = 60) -> Iterator[Caller]:
    endpoint = Endpoint(LocalStore(folder / MINE), MINE, rights, seconds=seconds)
    yield Caller(endpoint, endpoint.start(), endpoint.password)
    endpoint.stop()


@pytest.fixture
def host(folder: Path) -> Iterator[Caller]:
    yield from open_to(folder, host_rights(GB))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def old(kind: str, workspace: str = MINE) -> str:
    return named(f"{kind} of {workspace}".encode())


def test_a_host_deletes_nothing_of_the_history(host: Caller, folder: Path) -> None:
    """No object, no foreign lock and no repository can be deleted; only locks of this very session can."""
    before = tree(folder)
    for kind in ("data", "index", "keys", "snapshots", "locks"):
        status, said, _ = host("DELETE", f"/{MINE}/{kind}/{old(kind)}")
        assert status == 403, (kind, said)
    for path in (f"/{MINE}/config", f"/{MINE}/", f"/{MINE}/data/", f"/{MINE}/?create=true"):
        assert host("DELETE", path)[0] in (403, 404), path
    assert tree(folder) == before
    assert host.add("locks", b"my lock") == 200
    assert host("DELETE", f"/{MINE}/locks/{named(b'my lock')}")[0] == 200
    assert tree(folder) == before


def test_a_host_overwrites_nothing(host: Caller, folder: Path) -> None:
    """Other content under an old name is refused by its hash; the same content again changes nothing."""
    before = tree(folder)
    for kind in ("data", "index", "snapshots", "locks"):
        assert host.add(kind, b"other content", old(kind)) == 400, kind
        assert host("PUT", f"/{MINE}/{kind}/{old(kind)}", b"other content")[0] == 405
        assert host("PATCH", f"/{MINE}/{kind}/{old(kind)}", b"other content")[0] == 405
    assert host.add("data", f"data of {MINE}".encode()) == 200
    assert host("POST", f"/{MINE}/config", b"a config of mine")[0] == 403
    assert host("POST", f"/{MINE}/?create=true", b"")[0] == 403
    assert host.add("keys", b"a key of mine") == 403
    assert tree(folder) == before


def test_a_damaged_body_is_not_stored(host: Caller, folder: Path) -> None:
    """What does not have the hash of its name, or ends too early, leaves nothing behind."""
    before = tree(folder)
    assert host.add("data", b"flipped", named(b"original")) == 400
    with socket.create_connection(("127.0.0.1", host.port), timeout=60) as wire:
        token = base64.b64encode(f"{USER}:{host.password}".encode()).decode()
        head = f"POST /{MINE}/data/{named(b'whole')} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {token}\r\n"
        wire.sendall(f"{head}Content-Length: 5\r\n\r\nwho".encode())
        wire.shutdown(socket.SHUT_WR)
        assert wire.recv(100) == b""
    assert tree(folder) == before


def test_no_path_leads_elsewhere(host: Caller, folder: Path) -> None:
    """Neither another workspace's repository nor any file of the store can be named, in whatever spelling."""
    before = tree(folder)
    (folder.parent / "secret").write_text("a secret")
    other, name = OTHERS, old("data", OTHERS)
    paths = [
        f"/{other}/config",
        f"/{other}/data/{name}",
        f"/{other}/data/",
        f"/{MINE}/../{other}/config",
        f"/{MINE}/data/../../{other}/config",
        f"/{MINE}/..%2f{other}/config",
        f"/{MINE}/%2e%2e/{other}/config",
        f"/{MINE}/data/..%2f..%2f..%2fsecret",
        f"/{MINE}/../../secret",
        f"//{other}/config",
        f"/{MINE}//config",
        f"/{MINE}/config/",
        f"/{MINE}/.tmp/",
        f"/{MINE}/data/{old('data')}/../../config",
        f"/{MINE}/data/{old('data').upper()}",
        f"/{MINE}/data/{old('data')}\x00",
        f"/{MINE}/config?x=1",
        "/etc/passwd",
        "/",
        "*",
        f"http://127.0.0.1/{other}/config",
    ]
    for method in ("GET", "HEAD", "POST", "DELETE"):
        for path in paths:
            assert _raw(host, method, path) in (400, 404), (method, path)
    (folder.parent / "secret").unlink()
    assert tree(folder) == before


def _raw(host: Caller, method: str, path: str) -> int:
    """Send a request line as it is, and return the status of the answer."""
    token = base64.b64encode(f"{USER}:{host.password}".encode()).decode()
    with socket.create_connection(("127.0.0.1", host.port), timeout=60) as wire:
        body = "Content-Length: 0\r\n" if method == "POST" else ""
        wire.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {token}\r\n{body}\r\n".encode())
        return int(wire.recv(100).split()[1])


def test_a_session_is_one_password_for_a_while(folder: Path) -> None:
    """No password, a wrong one, one of another session and one that has expired or was ended open nothing."""
    for caller in open_to(folder, host_rights(GB)):
        (other,) = [one.password for one in open_to(folder, host_rights(GB))]
        good = caller.password
        assert caller("GET", f"/{MINE}/config")[0] == 200
        for wrong in ("", "dumont", other, good[:-1], good + "x", "ü"):
            caller.password = wrong
            assert caller("GET", f"/{MINE}/config")[0] == 401, wrong
        connection = http.client.HTTPConnection("127.0.0.1", caller.port, timeout=60)
        token = base64.b64encode(f"{USER}:{good}".encode()).decode()
        connection.request("GET", f"/{MINE}/config", headers={"Authorization": f"Basic {token}"})
        assert connection.getresponse().read() == b"config of " + MINE.encode()
        caller.endpoint.stop()
        connection.request("GET", f"/{MINE}/config", headers={"Authorization": f"Basic {token}"})
        assert connection.getresponse().status == 403, "a connection outlived its session"
        connection.close()
    for caller in open_to(folder, host_rights(GB), seconds=0):
        assert caller("GET", f"/{MINE}/config")[0] == 403


def test_a_host_fills_no_disk_and_adds_one_snapshot(folder: Path) -> None:
    """More than the machine's disk can hold is refused before it is read, and so is a second snapshot."""
    for caller in open_to(folder, host_rights(1000)):
        assert caller.add("data", os.urandom(600)) == 200
        assert caller.add("data", os.urandom(600)) == 413
        assert caller.add("snapshots", b"one") == 200
        assert caller.add("snapshots", b"one") == 200, "a lost answer must be asked for again"
        assert caller.add("snapshots", b"two") == 403
        assert caller.endpoint.added["snapshots"] == [named(b"one")]
        assert caller.endpoint.stored["data"] == 600


def test_a_reader_only_reads(folder: Path) -> None:
    """A restore's session adds nothing and deletes nothing, locks included."""
    before = tree(folder)
    for caller in open_to(folder, READER):
        for kind in ("data", "index", "keys", "snapshots", "locks"):
            assert caller.add(kind, b"new") == 403
            assert caller("DELETE", f"/{MINE}/{kind}/{old(kind)}")[0] == 403
            assert caller("GET", f"/{MINE}/{kind}/{old(kind)}")[1] == f"{kind} of {MINE}".encode()
    assert tree(folder) == before


def test_the_protocol_of_restic(folder: Path) -> None:
    """Lists, sizes, ranges and absences are as restic's REST protocol has them."""
    for caller in open_to(folder, OWNER):
        _, body, headers = caller("GET", f"/{MINE}/data/")
        assert headers["Content-Type"] == "application/vnd.x.restic.rest.v2"
        content = f"data of {MINE}".encode()
        assert json.loads(body) == [{"name": old("data"), "size": len(content)}]
        at = f"/{MINE}/data/{old('data')}"
        assert caller("HEAD", at)[2]["Content-Length"] == str(len(content))
        assert caller("GET", at, Range="bytes=2-5")[:2] == (206, content[2:6])
        assert caller("GET", at, Range="bytes=5-")[:2] == (206, content[5:])
        assert caller("GET", at, Range="bytes=5-9999")[:2] == (206, content[5:])
        assert caller("GET", at, Range="bytes=9999-")[0] == 416
        assert caller("HEAD", f"/{MINE}/data/{named(b'nothing')}")[0] == 404
        assert caller("GET", f"/{MINE}/snapshots/{named(b'nothing')}")[0] == 404
