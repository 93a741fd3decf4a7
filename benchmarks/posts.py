"""What one API process does with postings over HTTP: people who move a cent between accounts of their own."""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count

from benchmarks.installation import BenchmarkError, Laboratory, connect
from benchmarks.metrics import Metric, median
from benchmarks.processes import cpu_seconds, family, own_cpu_seconds
from benchmarks.rows import Person, register
from dumont.core import new_id

PEOPLE = 8
_PATH = "/api/v1/transfers"
_END = b"\r\n\r\n"


def measure(laboratory: Laboratory, quick: bool) -> Iterator[Metric]:
    """Count transfers that eight people make at once, each in a team of his own."""
    _, _, database_pid = laboratory.database()
    api, url = laboratory.api()
    senders = [_Sender(url, *_person(url)) for _ in range(PEOPLE)]
    rates, cpu, database_cpu = [], [], []
    for _ in range(2 if quick else 7):
        used, database_used = own_cpu_seconds(api.pid), cpu_seconds(family(database_pid)[0])
        begun = time.monotonic()
        posted = _all_post(senders, begun + (1 if quick else 3))
        rates.append(posted / (time.monotonic() - begun))
        cpu.append(1000 * (own_cpu_seconds(api.pid) - used) / posted)
        database_cpu.append(1000 * (cpu_seconds(family(database_pid)[0]) - database_used) / posted)
    yield Metric("http_posts_per_second", median(rates), "1/s", more={"people": float(PEOPLE)})
    more: dict[str, float | str] = {"database_cpu_ms": median(database_cpu)}
    yield Metric("http_cpu_ms_per_post", median(cpu), "ms", more=more)


def _all_post(senders: "list[_Sender]", until: float) -> int:
    with ThreadPoolExecutor(len(senders)) as pool:
        return sum(pool.map(lambda sender: sender.post_until(until), senders))


def _person(url: str) -> tuple[Person, str, str]:
    """Register somebody with two accounts, the first of which has money."""
    person = register(url)
    ids = []
    for name, opening in (("everyday", "1000000.00"), ("reserve", "0")):
        body = {"name": name, "type": "checking", "opening_balance": opening}
        headers = {"Authorization": f"Bearer {person.token}", "Content-Type": "application/json"}
        with closing(connect(url)) as connection:
            sent = {**headers, "Idempotency-Key": new_id("key")}
            connection.request("POST", "/api/v1/accounts", json.dumps(body), sent)
            answer = connection.getresponse()
            made = json.loads(answer.read())
        if answer.status != 201:
            raise BenchmarkError(f"an account could not be opened: {made}")
        ids.append(made["id"])
    return person, ids[0], ids[1]


class _Sender:
    """One connection at a time that posts transfers, one after the other."""

    def __init__(self, url: str, person: Person, source: str, target: str) -> None:
        self._host, _, port = url.removeprefix("http://").partition(":")
        self._port = int(port)
        self._body = json.dumps({"from_account_id": source, "to_account_id": target, "amount_cents": 1}).encode()
        self._token = person.token
        self._run = new_id("run")
        self._numbers = count()

    def post_until(self, until: float) -> int:
        """Post until a moment of `time.monotonic()`; returns how many stand.

        Errors: BenchmarkError for any answer but 201.
        """
        posted = 0
        with socket.create_connection((self._host, self._port), timeout=30) as wire:
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while time.monotonic() < until:
                wire.sendall(self._question())
                _take(wire)
                posted += 1
        return posted

    def _question(self) -> bytes:
        lines = [
            f"POST {_PATH} HTTP/1.1",
            f"Host: {self._host}:{self._port}",
            f"Authorization: Bearer {self._token}",
            "Content-Type: application/json",
            f"Content-Length: {len(self._body)}",
            f"Idempotency-Key: {self._run}-{next(self._numbers)}",
        ]
        return "\r\n".join([*lines, "", ""]).encode() + self._body


def _take(wire: socket.socket) -> None:
    read = b""
    while _END not in read:
        read += _more(wire)
    head, _, body = read.partition(_END)
    if not head.startswith(b"HTTP/1.1 201"):
        raise BenchmarkError(f"an unexpected answer: {read[:500]!r}")
    length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-l"))
    while len(body) < length:
        body += _more(wire)


def _more(wire: socket.socket) -> bytes:
    found = wire.recv(65_536)
    if not found:
        raise BenchmarkError("the server closed the connection")
    return found
