"""Carry packs between the machine and the store over presigned URLs, patiently."""

import http.client
import json
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from dumont.agent.errors import AgentFailed
from dumont.vault import MAX_PACK_BYTES

_ATTEMPTS = 6
_FIRST_WAIT_SECONDS = 0.2
_SILENCE_SECONDS = 60.0
_PART_BYTES = 1 << 20
"""What is sent with one call, which must be gone before that silence is over: a slow line takes minutes for a pack."""
_URL_SECONDS = 600.0
"""Less than URLs are good for."""
_BROKEN = (OSError, http.client.HTTPException)

SignUrl = Callable[[str, bytes, int], str]
Body = bytes | memoryview
Answer = tuple[int, Body]
Fill = Callable[[int, memoryview], None]


class Blobs:
    """PUT and GET by URLs; after a failure they are asked for anew, so that none can be too old.

    Guarantees: a broken connection or a 5xx answer is tried again with growing pauses; an object is never changed,
    because each has its own name and the store refuses to overwrite.
    """

    def __init__(self, sign: SignUrl) -> None:
        self._sign = sign
        self._urls: dict[bytes, tuple[str, float]] = {}
        self._local = threading.local()

    def put(self, pack: bytes, data: "bytes | bytearray | memoryview") -> None:
        """Store a pack.

        Errors: AgentFailed `store_full`, `store_refused` or `store_unreachable`.
        """
        self.patiently("PUT", pack, len(data), lambda url: self._once(url, data))

    def reader(self, pack: bytes, end: int) -> Fill:
        """Return what fills memory from an offset of a pack on, to be called with rising ones by one thread.

        All up to `end` is asked for at once and comes while it is read.
        Errors, of that: AgentFailed `store_missing`, `store_refused` or `store_unreachable`.
        """
        return _Stretch(self, pack, end).fill

    def patiently(self, method: str, pack: bytes, size: int, attempt: Callable[[str], Answer]) -> Body:
        """Return the body of an attempt that succeeds; each has a URL, which is another after a failure."""
        wait = _FIRST_WAIT_SECONDS
        last = "no answer"
        for number in range(_ATTEMPTS):
            try:
                url = self._sign(method, pack, size) if method == "PUT" else self._to_read(pack, again=number > 0)
                status, body = attempt(url)
                if status in (200, 201, 206):
                    return body
                last = f"status {status}"
                _refuse(status, body)
            except _BROKEN as error:
                self.forget()
                last = type(error).__name__
            time.sleep(wait)
            wait *= 2
        raise AgentFailed("store_unreachable", f"The store did not answer after {_ATTEMPTS} attempts ({last}).")

    def _to_read(self, pack: bytes, *, again: bool) -> str:
        """Return where to read a pack; one question serves for all of its ranges."""
        url, until = self._urls.get(pack, ("", 0.0))
        if again or until < time.monotonic():
            until = time.monotonic() + _URL_SECONDS
            url = self._sign("GET", pack, MAX_PACK_BYTES)
            self._urls[pack] = url, until
        return url

    def ask(self, method: str, url: str, body: memoryview | None, headers: dict[str, str]) -> http.client.HTTPResponse:
        """Send a request on this thread's own connection and return the answer, whose body is still to be read."""
        parts = urlsplit(url)
        connection = self._connection(parts.scheme, parts.netloc)
        sent = None if body is None else (body[at : at + _PART_BYTES] for at in range(0, len(body), _PART_BYTES))
        connection.request(method, f"{parts.path}?{parts.query}", body=sent, headers=headers)
        return connection.getresponse()

    def _once(self, url: str, data: "bytes | bytearray | memoryview") -> Answer:
        response = self.ask("PUT", url, memoryview(data), {"Content-Length": str(len(data))})
        content = response.read()
        if response.will_close:
            self.forget()
        return response.status, content

    def _connection(self, scheme: str, netloc: str) -> http.client.HTTPConnection:
        held: http.client.HTTPConnection | None = getattr(self._local, netloc, None)
        if held is None:
            kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
            held = kind(netloc, timeout=_SILENCE_SECONDS, blocksize=1 << 20)
            setattr(self._local, netloc, held)
        return held

    def forget(self) -> None:
        """Close this thread's connections."""
        for connection in list(vars(self._local).values()):
            connection.close()
        vars(self._local).clear()


class _Stretch:
    """A part of a pack, read from front to end; it is asked for again, from where it is, when the connection breaks."""

    def __init__(self, blobs: Blobs, pack: bytes, end: int) -> None:
        self._blobs = blobs
        self._pack = pack
        self._end = end
        self._at = 0
        self._answer: http.client.HTTPResponse | None = None

    def fill(self, offset: int, room: memoryview) -> None:
        self._blobs.patiently("GET", self._pack, len(room), lambda url: self._attempt(url, offset, room))

    def _attempt(self, url: str, offset: int, room: memoryview) -> Answer:
        answer, self._answer = self._answer, None
        if answer is None:
            asked = {"Range": f"bytes={offset}-{self._end - 1}"}
            answer, self._at = self._blobs.ask("GET", url, None, asked), offset
            if answer.status not in (200, 206):
                return answer.status, answer.read()
            if answer.length not in (None, self._end - offset):
                self._blobs.forget()
                raise _short()
        while self._at < offset:
            self._at += _some(answer, room[: offset - self._at])
        done = 0
        while done < len(room):
            done += _some(answer, room[done:])
        self._at += done
        if self._at < self._end:
            self._answer = answer
        elif answer.will_close:
            self._blobs.forget()
        return 206, room


def _some(answer: http.client.HTTPResponse, room: memoryview) -> int:
    """Take what is there of an answer's body straight into memory that is there already."""
    count = answer.readinto(room)
    if count:
        return count
    if answer.length is None:
        raise _short()
    raise http.client.IncompleteRead(b"", answer.length)


def _short() -> AgentFailed:
    return AgentFailed("store_missing", "A pack in the store is shorter than the index says.")


def _refuse(status: int, body: Body) -> None:
    if status in (403, 408, 429) or (status >= 500 and status != 507):
        return
    try:
        detail = str(json.loads(bytes(body))["detail"])
    except (ValueError, KeyError, TypeError):
        detail = f"The store answered {status}."
    codes = {404: "store_missing", 507: "store_full"}
    raise AgentFailed(codes.get(status, "store_refused"), detail)
