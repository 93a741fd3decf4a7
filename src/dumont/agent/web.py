"""HTTP/1.1 as far as packs need it: one request after the other on a connection, bodies straight into our memory.

The standard library's client brings all that reads mail along, which takes a fifth of an agent's start.
Source: RFC 9112.
"""

import socket
from functools import lru_cache
from string import hexdigits
from typing import Any

_HEAD_BYTES = 64 << 10
_SOME_BYTES = 64 << 10


class Broken(OSError):
    """The connection ended, or what came over it is no answer."""


class Connection:
    """A connection to one host, made when something is asked; made anew after an answer that was not read to its end.

    Units: seconds of silence after which it counts as broken.
    """

    def __init__(self, scheme: str, netloc: str, silence_seconds: float) -> None:
        self._secure = scheme == "https"
        self._netloc = netloc
        self._silence = silence_seconds
        self._socket: Any = None
        self._answer: Answer | None = None

    def ask(self, method: str, target: str, headers: dict[str, str], body: memoryview | None = None) -> "Answer":
        """Send a request and return its answer, whose body is still to be read.

        Errors: OSError; what became of the request is unknown then.
        """
        if self._answer is not None and not self._answer.leaves_open:
            self.close()
        if self._socket is None:
            self._socket = self._connected()
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._netloc}", "Accept-Encoding: identity"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._socket.sendall("\r\n".join((*lines, "\r\n")).encode("ascii"))
        if body is not None:
            self._socket.sendall(body)
        self._answer = Answer(self._socket)
        return self._answer

    def close(self) -> None:
        """Close it; what is asked next opens another."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self._answer = None

    def _connected(self) -> Any:
        host, _, port = self._netloc.rpartition(":") if self._netloc[-1:].isdigit() else (self._netloc, "", "")
        if not host or (self._netloc.startswith("[") and not host.endswith("]")):
            host, port = self._netloc, ""
        address = host.strip("[]"), int(port or (443 if self._secure else 80))
        plain = socket.create_connection(address, self._silence)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return _trust().wrap_socket(plain, server_hostname=address[0]) if self._secure else plain


class Answer:
    """An answer: its status, and its body as it comes."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self._held = b""
        self._ended = False
        version, self.status, headers = self._head()
        while 100 <= self.status < 200:
            version, self.status, headers = self._head()
        words = headers.get("connection", "").lower()
        self._stays = "close" not in words and (version != "HTTP/1.0" or "keep-alive" in words)
        self._chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        self.left: int | None = 0 if self._chunked else _length(self.status, headers)
        """Bytes that are still to come, of the chunk where there are any; None where the connection's end is theirs."""
        self.length = None if self._chunked else self.left
        """How long the whole body is, where the answer says so."""

    @property
    def leaves_open(self) -> bool:
        """Whether the connection can be asked again: all of the body was read, and its end did not end it."""
        return self._stays and not self._held and (self._ended if self._chunked else self.left == 0)

    def readinto(self, room: memoryview) -> int:
        """Fill a part of `room` with what comes next and return how much; 0 at the end.

        Errors: OSError, also where the body ends before its length.
        """
        if self._chunked and not self.left and not self._ended:
            self._next_chunk()
        if self._ended or self.left == 0 or not len(room):
            return 0
        part = room if self.left is None else room[: self.left]
        if self._held:
            count = min(len(part), len(self._held))
            part[:count], self._held = self._held[:count], self._held[count:]
        else:
            count = self._source.recv_into(part)
        if not count and self.left is not None:
            raise Broken("The body of an answer was cut.")
        if self.left is not None:
            self.left -= count
            if self._chunked and not self.left and self._line():
                raise Broken("A chunk of an answer has another length than it says.")
        return count

    def read(self) -> bytes:
        """Return the rest of the body."""
        found, room = bytearray(), memoryview(bytearray(_SOME_BYTES))
        while count := self.readinto(room):
            found += room[:count]
        return bytes(found)

    def _head(self) -> tuple[str, int, dict[str, str]]:
        first = self._line()
        version, _, rest = first.partition(" ")
        if not version.startswith("HTTP/1.") or not rest[:3].isdecimal():
            raise Broken("What came is no answer.")
        headers: dict[str, str] = {}
        size = len(first)
        while line := self._line():
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
            size += len(line)
            if size > _HEAD_BYTES:
                raise Broken("The head of an answer is too long.")
        return version, int(rest[:3]), headers

    def _next_chunk(self) -> None:
        size = self._line().partition(";")[0].strip()
        if not size or not set(size) <= set(hexdigits):
            raise Broken("A chunk of an answer does not say how long it is.")
        self.left = int(size, 16)
        if not self.left:
            self._ended = True
            while self._line():
                pass

    def _line(self) -> str:
        """Return the next line, without its end."""
        while b"\n" not in self._held:
            more = self._source.recv(_SOME_BYTES)
            if not more or len(self._held) > _HEAD_BYTES:
                raise Broken("The connection ended before an answer came.")
            self._held += more
        line, _, self._held = self._held.partition(b"\n")
        return line.rstrip(b"\r").decode("latin-1")


def _length(status: int, headers: dict[str, str]) -> int | None:
    said = headers.get("content-length", "")
    if status in (204, 304):
        return 0
    if said and not said.isdecimal():
        raise Broken("An answer says no length that can be.")
    return int(said) if said else None


@lru_cache(maxsize=1)
def _trust() -> Any:
    """Return whom connections trust: the system's authorities, read once."""
    import ssl

    trust = ssl.create_default_context()
    trust.set_alpn_protocols(["http/1.1"])
    return trust
