"""An S3 service that fails as it is told: one scripted fault for each request, by its method."""

import hashlib
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from dumont.vault import S3Place

SLOW_DOWN = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Stub:
    """Objects in memory, and what is to go wrong next.

    Faults: `slow down` (503), `reset` before anything is done, `lost` (done, then the connection is reset), `cut` (half
    of the body is sent), `full` (507).
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.faults: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.lock = threading.Lock()

    def fail(self, method: str, *faults: str) -> None:
        """Let the next requests of a method fail, one each."""
        self.faults.setdefault(method, []).extend(faults)

    def next_fault(self, method: str) -> str:
        with self.lock:
            self.asked.append(method)
            waiting = self.faults.get(method)
            return waiting.pop(0) if waiting else ""


class _Door(BaseHTTPRequestHandler):
    stub: Stub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _begin(self) -> str:
        fault = self.stub.next_fault(self.command)
        if fault == "reset":
            self._reset()
        return fault

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    @property
    def key(self) -> str:
        return unquote(urlsplit(self.path).path).split("/", 2)[2]

    def do_PUT(self) -> None:
        fault = self._begin()
        if fault == "reset":
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if fault in ("slow down", "full"):
            self._answer(503 if fault == "slow down" else 507, SLOW_DOWN.encode())
            return
        with self.stub.lock:
            taken = self.key in self.stub.objects and self.headers.get("If-None-Match") == "*"
            if not taken:
                self.stub.objects[self.key] = body
        if fault == "lost":
            self._reset()
            return
        self._answer(412 if taken else 200, b"", ETag=f'"{hashlib.md5(body).hexdigest()}"')

    def do_GET(self) -> None:
        fault = self._begin()
        if fault == "reset":
            return
        if fault == "slow down":
            self._answer(503, SLOW_DOWN.encode())
            return
        parts = urlsplit(self.path)
        if "list-type" in parse_qs(parts.query):
            self._list(parse_qs(parts.query).get("prefix", [""])[0])
            return
        found = self.stub.objects.get(self.key)
        if found is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        self._send(found, cut=fault == "cut")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Delete the objects that a list names."""
        if self._begin() == "reset":
            return
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        keys = re.findall(r"<Key>(.*?)</Key>", body)
        for key in keys:
            self.stub.objects.pop(key, None)
        rows = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        self._answer(200, f"<DeleteResult>{rows}</DeleteResult>".encode())

    def _send(self, found: bytes, *, cut: bool) -> None:
        status, headers, body = 200, {"ETag": '"x"', "Last-Modified": "Sun, 22 Nov 2026 05:00:00 GMT"}, found
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            body = found[int(first) : int(last) + 1 if last else None]
            if not body:
                self._answer(416, b"<Error><Code>InvalidRange</Code></Error>")
                return
            status = 206
            headers["Content-Range"] = f"bytes {first}-{int(first) + len(body) - 1}/{len(found)}"
        if not cut:
            self._answer(status, body, **headers)
            return
        self._head(status, len(body), headers)
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        self.close_connection = True

    def _list(self, prefix: str) -> None:
        rows = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(body)}</Size><LastModified>2026-11-22T05:00:00.000Z"
            f"</LastModified><ETag>x</ETag></Contents>"
            for key, body in sorted(self.stub.objects.items())
            if key.startswith(prefix)
        )
        self._answer(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>".encode())

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self._head(status, len(body), headers)
        if self.command != "HEAD":
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: broken connections are what it is for."""


@contextmanager
def s3_stub() -> Iterator[tuple[Stub, S3Place]]:
    """Run a stub and yield it with the place of its bucket."""
    stub = Stub()
    server = _Server(("127.0.0.1", 0), type("Door", (_Door,), {"stub": stub}))
    threading.Thread(target=server.serve_forever, daemon=True, args=(0.05,)).start()
    try:
        yield stub, S3Place(f"http://127.0.0.1:{server.server_address[1]}", "bucket", "team/wsp", "id", "secret")
    finally:
        server.shutdown()
        server.server_close()
