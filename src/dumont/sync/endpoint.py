"""The endpoint: restic's REST protocol over a store, with rights that a rented host cannot stretch.

Source: restic's REST backend, https://restic.readthedocs.io/en/stable/100_references.html#rest-backend (version 2). The
objects lie in restic's own layout, so that a folder or a bucket can be opened by a plain restic with the password.
"""

import base64
import hashlib
import hmac
import json
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

from dumont.vault import QuietServer, Store, StoreError, StoreExists, StoreMissing

USER = "dumont"
TYPES = ("data", "index", "keys", "locks", "snapshots")
_PATH = re.compile(r"/([a-z]+_[0-9A-Z]+)/(?:(config)|(data|index|keys|locks|snapshots)/([0-9a-f]{64})?)?")
_RANGE = re.compile(r"bytes=(\d{1,15})-(\d{1,15})?")
_LIST_TYPE = "application/vnd.x.restic.rest.v2"
_PIECE_BYTES = 1 << 20
_IDLE_SECONDS = 120
LARGEST_OBJECT = 256 << 20


@dataclass(frozen=True)
class Rights:
    """What the holder of a password may do beside reading.

    `adds` and `deletes` are types of objects; a deletion is of what was added in this session, unless `owns`. Units:
    `most_bytes` may be stored in a session.
    """

    adds: frozenset[str] = frozenset()
    deletes: frozenset[str] = frozenset()
    owns: bool = False
    most_bytes: int | None = None
    most_snapshots: int | None = None


def host_rights(most_bytes: int) -> Rights:
    """Return what a rented host may do: add to the history, once, and take away its own locks."""
    adds = frozenset({"data", "index", "snapshots", "locks"})
    return Rights(adds, frozenset({"locks"}), most_bytes=most_bytes, most_snapshots=1)


READER = Rights()
OWNER = Rights(frozenset({*TYPES, "config"}), frozenset(TYPES), owns=True)


class Refusal(Exception):
    """A request that the endpoint does not serve."""

    def __init__(self, status: int, detail: str) -> None:
        self.status, self.detail = status, detail
        super().__init__(detail)


class Endpoint:
    """Serve one workspace's repository to whoever has this session's password, until `stop` or the expiry.

    Guarantees: an object's name is the SHA-256 of its content, which is checked before it is stored; nothing is ever
    overwritten; no name leads out of the repository. `sent`, `stored` and `added` are what we saw ourselves.
    """

    def __init__(self, store: Store, workspace_id: str, rights: Rights, *, seconds: float) -> None:
        self.workspace_id = workspace_id
        self.rights = rights
        self.password = secrets.token_urlsafe(32)
        self.store = store
        self.sent = 0
        self.stored: Counter[str] = Counter()
        self.added: dict[str, list[str]] = {name: [] for name in TYPES}
        self.failure: StoreError | None = None
        self._ends = time.monotonic() + seconds
        self._serving = False
        self._claimed: set[str] = set()
        self._lock = threading.Lock()
        self._server: QuietServer | None = None

    def start(self) -> int:
        """Start serving on loopback in the background and return the port."""
        handler = type("Desk", (_Desk,), {"endpoint": self})
        server = self._server = QuietServer(("127.0.0.1", 0), handler)
        self._serving = True
        threading.Thread(target=server.serve_forever, name="restic endpoint", daemon=True, args=(0.1,)).start()
        return int(server.server_address[1])

    def stop(self) -> None:
        """Stop serving, also on connections that are open; doing it twice is fine."""
        self._serving = False
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def address(self, port: int) -> str:
        """Return restic's word for this repository at a loopback port, with the password in it: for environments."""
        return f"rest:http://{USER}:{self.password}@127.0.0.1:{port}/{self.workspace_id}/"

    def admit(self, header: str | None) -> None:
        """Check a request's password. Errors: Refusal."""
        known = base64.b64encode(f"{USER}:{self.password}".encode())
        told = (header or "").encode("latin-1", "replace")
        if not hmac.compare_digest(told, b"Basic " + known):
            raise Refusal(401, "This is not the password of this session.")
        if not self._serving or time.monotonic() > self._ends:
            raise Refusal(403, "This session has ended.")

    def may_add(self, kind: str, name: str, length: int) -> None:
        """Check that an object may be added. Errors: Refusal."""
        rights = self.rights
        if kind not in rights.adds:
            raise Refusal(403, f"Nothing may be added to {kind} here.")
        if length > LARGEST_OBJECT:
            raise Refusal(413, "An object of a repository is not that large.")
        if rights.most_bytes is not None and self.stored.total() + length > rights.most_bytes:
            raise Refusal(413, "This is more than the machine's disk can hold.")
        with self._lock:
            if kind == "snapshots" and name not in self._claimed and len(self._claimed) == rights.most_snapshots:
                raise Refusal(403, "One snapshot is added in one session.")
            self._claimed |= {name} if kind == "snapshots" else set()

    def note_added(self, kind: str, name: str, length: int) -> None:
        """Remember what was stored."""
        with self._lock:
            self.stored[kind] += length
            if kind in self.added and name not in self.added[kind]:
                self.added[kind].append(name)

    def may_delete(self, kind: str, name: str) -> None:
        """Check that an object may be deleted. Errors: Refusal."""
        if kind not in self.rights.deletes:
            raise Refusal(403, f"Nothing is deleted from {kind} here.")
        if not self.rights.owns and name not in self.added[kind]:
            raise Refusal(403, "Only what this session has added can be taken away again.")

    def note_sent(self, count: int) -> None:
        """Count bytes that were read."""
        with self._lock:
            self.sent += count


def object_name(kind: str, name: str) -> str:
    """Return where an object lies in the store, which is where restic itself would put it."""
    if kind == "config":
        return "config"
    return f"data/{name[:2]}/{name}" if kind == "data" else f"{kind}/{name}"


class _Desk(BaseHTTPRequestHandler):
    endpoint: Endpoint
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS

    def do_GET(self) -> None:
        self._serve(self._get)

    def do_HEAD(self) -> None:
        self._serve(self._head)

    def do_POST(self) -> None:
        self._serve(self._post)

    def do_DELETE(self) -> None:
        self._serve(self._delete)

    def do_PUT(self) -> None:
        self._serve(self._refuse_method)

    do_PATCH = do_OPTIONS = do_PUT

    def log_message(self, *_: Any) -> None:
        """Say nothing: there is nothing in these requests that a log may hold."""

    def _serve(self, verb: Any) -> None:
        try:
            self.endpoint.admit(self.headers.get("Authorization"))
            verb(*self._place())
        except Refusal as refused:
            self._answer(refused.status, refused.detail.encode(), close=True)
        except StoreMissing as error:
            self._answer(404, error.detail.encode())
        except StoreError as error:
            self.endpoint.failure = error
            self._answer(507 if error.full else 500, error.detail.encode(), close=True)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _place(self) -> tuple[str, str]:
        """Read type and name; ("", "") is the repository itself. Errors: Refusal."""
        path, _, query = self.path.partition("?")
        found = _PATH.fullmatch(path)
        if found is None or found[1] != self.endpoint.workspace_id or query not in ("", "create=true"):
            raise Refusal(404, "There is nothing here.")
        return found[2] or found[3] or "", found[4] or ""

    def _refuse_method(self, kind: str, name: str) -> None:
        raise Refusal(405, "This is not a method of restic's protocol.")

    def _head(self, kind: str, name: str) -> None:
        size = self._size(kind, name)
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def _size(self, kind: str, name: str) -> int:
        if kind == "" or (kind != "config" and name == ""):
            raise Refusal(404, "There is no such object.")
        size = self.endpoint.store.size(object_name(kind, name))
        if size is None:
            raise StoreMissing("There is no such object.")
        return size

    def _get(self, kind: str, name: str) -> None:
        if kind not in ("", "config") and name == "":
            self._list(kind)
            return
        size = self._size(kind, name)
        start, end, status = 0, size, 200
        if wanted := self.headers.get("Range"):
            start, end, status = *_parse_range(wanted, size), 206
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(end - start))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.end_headers()
        self._send_object(object_name(kind, name), start, end)

    def _send_object(self, name: str, start: int, end: int) -> None:
        try:
            for offset in range(start, end, _PIECE_BYTES):
                piece = self.endpoint.store.get(name, offset, min(_PIECE_BYTES, end - offset))
                self.wfile.write(piece)
                self.endpoint.note_sent(len(piece))
        except StoreError as error:
            self.endpoint.failure = error
            self.close_connection = True

    def _list(self, kind: str) -> None:
        found = self.endpoint.store.list(f"{kind}/")
        names = [{"name": name.rpartition("/")[2], "size": size} for name, size in found]
        self._answer(200, json.dumps(names).encode(), kind=_LIST_TYPE)

    def _post(self, kind: str, name: str) -> None:
        if kind == "" and self.path.endswith("?create=true") and self.endpoint.rights.owns:
            self._answer(200, b"")
            return
        if kind == "" or (kind != "config" and name == ""):
            raise Refusal(403, "Nothing can be made here.")
        text = self.headers.get("Content-Length", "")
        if not (text.isascii() and text.isdigit() and len(text) < 16):
            raise Refusal(411, "A body must say its length.")
        length = int(text)
        self.endpoint.may_add(kind, name, length)
        try:
            self.endpoint.store.put_stream(object_name(kind, name), self._body(length, name))
        except StoreExists:
            if kind == "config":
                raise Refusal(403, "The repository is there already.") from None
            length = 0  # the same name is the same content, so an answer was lost and the object is there
            self.close_connection = True
        self.endpoint.note_added(kind, name, length)
        self._answer(200, b"")

    def _body(self, length: int, name: str) -> Iterator[bytes]:
        digest, left = hashlib.sha256(), length
        while left:
            piece = self.rfile.read(min(left, _PIECE_BYTES))
            if not piece:
                raise ConnectionResetError("the body was cut short")
            digest.update(piece)
            left -= len(piece)
            yield piece
        if name and digest.hexdigest() != name:
            raise Refusal(400, "The content does not have the hash that its name says.")

    def _delete(self, kind: str, name: str) -> None:
        if kind in ("", "config") or name == "":
            raise Refusal(403, "A repository is not deleted here.")
        self.endpoint.may_delete(kind, name)
        self._size(kind, name)
        self.endpoint.store.delete(object_name(kind, name))
        self._answer(200, b"")

    def _answer(self, status: int, body: bytes, *, kind: str = "text/plain", close: bool = False) -> None:
        self.close_connection = self.close_connection or close
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="dumont"')
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _parse_range(text: str, size: int) -> tuple[int, int]:
    found = _RANGE.fullmatch(text)
    if found is None or int(found[1]) >= size or (found[2] is not None and int(found[2]) < int(found[1])):
        raise Refusal(416, f"The object has {size} bytes.")
    return int(found[1]), size if found[2] is None else min(int(found[2]) + 1, size)
