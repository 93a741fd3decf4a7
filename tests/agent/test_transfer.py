"""Reading from a store that cuts its answers, or does not say their length, as some proxies before one do."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import ClassVar

import pytest

from dumont.agent import transfer
from dumont.agent.errors import AgentFailed
from dumont.agent.transfer import Blobs
from dumont.vault import QuietServer

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


@contextmanager
def serving(door: type[BaseHTTPRequestHandler]) -> Iterator[Blobs]:
    server = QuietServer(("127.0.0.1", 0), door)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield Blobs(lambda method, pack, size: f"http://127.0.0.1:{server.server_port}/{pack.hex()}?signed")
    server.shutdown()
    server.server_close()


@pytest.fixture
def blobs() -> Iterator[Blobs]:
    with serving(Chunked) as blobs:
        yield blobs


def test_a_body_without_a_length_fills_the_room(blobs: Blobs) -> None:
    room = bytearray(b"x" * 5000)
    blobs.reader(b"pack", 5100)(100, memoryview(room))
    assert bytes(room) == PACK[100:5100]


def test_a_body_without_a_length_that_is_too_short_is_no_success(blobs: Blobs) -> None:
    with pytest.raises(AgentFailed) as found:
        blobs.reader(b"pack", len(PACK) + 10)(len(PACK) - 10, memoryview(bytearray(20)))
    assert found.value.code == "store_missing"


class Cutting(BaseHTTPRequestHandler):
    """Says how long a body is, and at first goes away in the middle of it."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[str]] = []
    cuts: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        wanted = self.headers["Range"].removeprefix("bytes=")
        self.asked.append(wanted)
        first, last = map(int, wanted.split("-"))
        body = PACK[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.cuts:
            self.wfile.write(body[: self.cuts.pop()])
            self.close_connection = True
        else:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


def test_a_stretch_is_asked_for_again_from_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """One request for all that is read in turn, what lies between left out; after each cut one for what is left."""
    monkeypatch.setattr(transfer, "_FIRST_WAIT_SECONDS", 0.001)
    Cutting.asked[:], Cutting.cuts[:] = [], [700, 3000]
    with serving(Cutting) as blobs:
        for pack in (b"one", b"two"):
            fill = blobs.reader(pack, 9000)
            for offset, length in ((0, 1000), (1000, 1000), (2500, 2000), (4500, 4500)):
                room = bytearray(length)
                fill(offset, memoryview(room))
                assert bytes(room) == PACK[offset : offset + length], offset
    assert Cutting.asked == ["0-8999", "2500-8999", "2500-8999", "0-8999"]


def test_a_stretch_beyond_the_end_of_a_pack_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that has less than the index says is not believed, whatever of it could be read."""
    Cutting.asked[:], Cutting.cuts[:] = [], []
    with serving(Cutting) as blobs, pytest.raises(AgentFailed) as found:
        blobs.reader(b"pack", len(PACK) + 1)(0, memoryview(bytearray(10)))
    assert found.value.code == "store_missing"


class Slow(BaseHTTPRequestHandler):
    """Takes a body in piece by piece, without ever being silent for long."""

    protocol_version = "HTTP/1.1"
    taken: ClassVar[list[int]] = []

    def do_PUT(self) -> None:
        left = int(self.headers["Content-Length"])
        while left:
            left -= len(self.rfile.read(min(left, 1 << 20)))
            time.sleep(0.15)
        self.taken.append(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


def test_a_slow_line_is_no_silent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack may take longer than the silence after which a store counts as gone, as long as it is taken."""
    monkeypatch.setattr(transfer, "_SILENCE_SECONDS", 2.0)
    Slow.taken.clear()
    with serving(Slow) as blobs:
        blobs.put(b"pack", bytes(32 << 20))
    assert 32 << 20 in Slow.taken
