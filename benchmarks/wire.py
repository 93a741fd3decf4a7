"""Ask one HTTP/1.1 server again and again at the least cost, and keep how long each answer took."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from benchmarks.installation import BenchmarkError

_HEAD_END = b"\r\n\r\n"


class Wire:
    """One connection that asks one question."""

    def __init__(self, url: str, path: str, token: str | None = None) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._address = host, int(port)
        self._socket = self._connect()
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}:{port}", "Accept: application/json"]
        lines += [f"Authorization: Bearer {token}"] if token else []
        self._question = "\r\n".join([*lines, "", ""]).encode()

    def _connect(self) -> socket.socket:
        found = socket.create_connection(self._address, timeout=30)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return found

    def ask(self) -> bytes:
        """Ask once and return the body.

        Errors: BenchmarkError for any answer but 200.
        """
        self._socket.sendall(self._question)
        read = b""
        while _HEAD_END not in read:
            read += self._more()
        head, _, body = read.partition(_HEAD_END)
        if not head.startswith(b"HTTP/1.1 200"):
            raise BenchmarkError(f"an unexpected answer: {read[:500]!r}")
        length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-l"))
        while len(body) < length:
            body += self._more()
        return body

    def timed(self, count: int) -> list[float]:
        """Ask `count` times, one after the other, on a fresh connection: an idle one is closed by the server.

        Units: milliseconds.
        """
        self._socket.close()
        self._socket = self._connect()
        self.ask()
        times = []
        for _ in range(count):
            begun = time.perf_counter()
            self.ask()
            times.append((time.perf_counter() - begun) * 1000)
        return times

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _more(self) -> bytes:
        found = self._socket.recv(262_144)
        if not found:
            raise BenchmarkError("the server closed the connection")
        return found


def crowd(url: str, path: str, token: str | None, *, people: int, each: int) -> float:
    """Let several people ask at once, `each` times; returns how long it took. Units: seconds."""

    def person(_: int) -> None:
        with closing(Wire(url, path, token)) as wire:
            wire.timed(each)

    begun = time.perf_counter()
    with ThreadPoolExecutor(people) as pool:
        list(pool.map(person, range(people)))
    return time.perf_counter() - begun
