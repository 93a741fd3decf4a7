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
_URL_SECONDS = 600.0
"""Less than URLs are good for."""
_BROKEN = (OSError, http.client.HTTPException)

SignUrl = Callable[[str, bytes, int], str]
Body = bytes | memoryview
Answer = tuple[int, Body]


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
        self._patiently("PUT", pack, len(data), lambda url: self._once("PUT", url, data, {}))

    def get_into(self, pack: bytes, offset: int, room: memoryview) -> None:
        """Fill `room` with what a pack holds from an offset on.

        Errors: AgentFailed `store_missing`, `store_refused` or `store_unreachable`.
        """
        header = {"Range": f"bytes={offset}-{offset + len(room) - 1}"}
        body = self._patiently("GET", pack, len(room), lambda url: self._once("GET", url, None, header, room))
        if len(body) != len(room):
            raise AgentFailed("store_missing", "A pack in the store is shorter than the index says.")
        if body is not room:  # an answer that did not say its length
            room[:] = body

    def _patiently(self, method: str, pack: bytes, size: int, attempt: Callable[[str], Answer]) -> Body:
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
                self._forget()
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

    def _once(
        self, method: str, url: str, data: object, headers: dict[str, str], room: memoryview | None = None
    ) -> Answer:
        parts = urlsplit(url)
        connection = self._connection(parts.scheme, parts.netloc)
        body = memoryview(data) if isinstance(data, (bytes, bytearray, memoryview)) else None
        sized = {"Content-Length": str(len(body))} if body is not None else {}
        connection.request(method, f"{parts.path}?{parts.query}", body=body, headers={**sized, **headers})
        response = connection.getresponse()
        fits = room is not None and response.status in (200, 206) and response.length == len(room)
        content = _filled(response, room) if room is not None and fits else response.read()
        if response.will_close:
            self._forget()
        return response.status, content

    def _connection(self, scheme: str, netloc: str) -> http.client.HTTPConnection:
        held: http.client.HTTPConnection | None = getattr(self._local, netloc, None)
        if held is None:
            kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
            held = kind(netloc, timeout=_SILENCE_SECONDS, blocksize=1 << 20)
            setattr(self._local, netloc, held)
        return held

    def _forget(self) -> None:
        for connection in list(vars(self._local).values()):
            connection.close()
        vars(self._local).clear()


def _filled(response: http.client.HTTPResponse, room: memoryview) -> memoryview:
    """Take an answer's body straight into memory that is there already."""
    done = 0
    while done < len(room):
        count = response.readinto(room[done:])
        if not count:
            raise http.client.IncompleteRead(b"", len(room) - done)
        done += count
    return room


def _refuse(status: int, body: Body) -> None:
    if status in (403, 408, 429) or (status >= 500 and status != 507):
        return
    try:
        detail = str(json.loads(bytes(body))["detail"])
    except (ValueError, KeyError, TypeError):
        detail = f"The store answered {status}."
    codes = {404: "store_missing", 507: "store_full"}
    raise AgentFailed(codes.get(status, "store_refused"), detail)
