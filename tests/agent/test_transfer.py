"""Reading from a store whose answers do not say their length, as some proxies before one send them."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dumont.agent.errors import AgentFailed
from dumont.agent.transfer import Blobs

PACK = bytes(range(256)) * 40


class Chunked(BaseHTTPRequestHandler):
    """Answers every read in chunks of 1,000 bytes; one that goes beyond the end is cut there."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        body = PACK[first : last + 1]
        self.send_response(206)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for at in range(0, len(body), 1000):
            piece = body[at : at + 1000]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def blobs() -> Iterator[Blobs]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Chunked)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Blobs(lambda method, pack, size: f"http://127.0.0.1:{server.server_port}/{pack.hex()}?signed")
    server.shutdown()
    server.server_close()


def test_a_body_without_a_length_fills_the_room(blobs: Blobs) -> None:
    room = bytearray(b"x" * 5000)
    blobs.reader(b"pack", 5100)(100, memoryview(room))
    assert bytes(room) == PACK[100:5100]


def test_a_body_without_a_length_that_is_too_short_is_no_success(blobs: Blobs) -> None:
    with pytest.raises(AgentFailed) as found:
        blobs.reader(b"pack", len(PACK) + 10)(len(PACK) - 10, memoryview(bytearray(20)))
    assert found.value.code == "store_missing"
