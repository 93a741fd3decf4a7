"""The gate's door: the HTTP server behind which a gate's paths are read and written."""

import hashlib
import hmac
import json
import re
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from dumont.vault.errors import StoreError, StoreExists, StoreMissing
from dumont.vault.gate import Gate, Refused

_PIECE_BYTES = 1 << 20
_RANGE = re.compile(r"^bytes=(\d{1,15})-(\d{1,15})$")
_IDLE_SECONDS = 120


class QuietServer(ThreadingHTTPServer):
    """Serve many at once, and say nothing of callers who go away."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet about callers who went away; show anything else."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Door(BaseHTTPRequestHandler):
    """Answers the requests of one caller of a gate."""

    gate: Gate
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS

    def do_PUT(self) -> None:
        self._serve(self._put)

    def do_GET(self) -> None:
        self._serve(self._get)

    def do_POST(self) -> None:
        self._serve(lambda: self._refuse_method())

    do_DELETE = do_HEAD = do_PATCH = do_OPTIONS = do_POST

    def log_message(self, *_: Any) -> None:
        """Say nothing: signed paths do not belong in logs."""

    def _serve(self, verb: Any) -> None:
        try:
            verb()
        except Refused as refused:
            self._answer(refused.status, {"code": refused.code, "detail": refused.detail}, close=True)
        except StoreMissing as error:
            self._answer(404, {"code": "not_found", "detail": error.detail})
        except StoreError as error:
            status, code = (507, "store_full") if error.full else (500, "store_failed")
            self._answer(status, {"code": code, "detail": error.detail}, close=True)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _refuse_method(self) -> None:
        raise Refused(405, "wrong_method", "Only PUT and GET are served here.")

    def _put(self) -> None:
        name, limit = self.gate.admit("PUT", self.path)
        text = self.headers.get("Content-Length", "")
        if not (text.isascii() and text.isdigit()):
            raise Refused(411, "length_required", "A PUT must say its length.")
        length = int(text)
        if length > limit:
            raise Refused(413, "too_large", f"This path allows {limit} bytes, not {length}.")
        digest = hashlib.sha256()
        try:
            self.gate.store.put_stream(name, self._body(length, digest))
            status = 201
        except StoreExists:
            status = 200
            if not self._same(name, digest, length):
                raise Refused(409, "exists", "Another object is already stored under this name.") from None
        self._answer(status, {"bytes": length})

    def _body(self, length: int, digest: Any) -> Iterator[bytes]:
        left = length
        while left:
            piece = self.rfile.read(min(left, _PIECE_BYTES))
            if not piece:
                raise ConnectionResetError("the body was cut short")
            digest.update(piece)
            left -= len(piece)
            yield piece

    def _same(self, name: str, digest: Any, length: int) -> bool:
        if self.gate.store.size(name) != length:
            return False
        stored = hashlib.sha256()
        for offset in range(0, length, _PIECE_BYTES):
            stored.update(self.gate.store.get(name, offset, _PIECE_BYTES))
        return hmac.compare_digest(stored.digest(), digest.digest())

    def _get(self) -> None:
        name, limit = self.gate.admit("GET", self.path)
        size = self.gate.store.size(name)
        if size is None:
            raise StoreMissing(f"The store has no object {name}.")
        start, end, status = 0, size - 1, 200
        if wanted := self.headers.get("Range"):
            start, end, status = *_parse_range(wanted, size), 206
        if end - start + 1 > limit:
            raise Refused(413, "too_large", f"This path allows {limit} bytes at once.")
        self.send_response(status)
        self.send_header("Content-Length", str(end - start + 1))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
        self.end_headers()
        try:
            for offset in range(start, end + 1, _PIECE_BYTES):
                self.wfile.write(self.gate.store.get(name, offset, min(_PIECE_BYTES, end + 1 - offset)))
        except StoreError:
            self.close_connection = True

    def _answer(self, status: int, document: dict[str, Any], *, close: bool = False) -> None:
        body = b"" if self.command == "HEAD" else json.dumps(document).encode()
        self.close_connection = self.close_connection or close
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


def _parse_range(text: str, size: int) -> tuple[int, int]:
    match = _RANGE.match(text)
    if match is None or int(match[1]) > int(match[2]) or int(match[1]) >= size:
        raise Refused(416, "bad_range", f"The object has {size} bytes; ask for a range within it.")
    return int(match[1]), min(int(match[2]), size - 1)
