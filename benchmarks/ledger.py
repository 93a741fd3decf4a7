"""`ledger`: postings in slices of seconds, in turns with `pgbench -N` on the same server; an audit ends it."""

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from itertools import count

import psycopg
import uvloop

from benchmarks.installation import BenchmarkError, Laboratory
from benchmarks.metrics import Metric, median
from benchmarks.pgbench import Slice, pgbench_tables, run_pgbench
from benchmarks.processes import cpu_seconds, family
from dumont.core import new_id
from dumont.db import psycopg_url
from dumont.ledger import Lane, Leg, Outcome, Posting, Writer, audit

ACCOUNTS = 1000
WARM_SECONDS = 1.0
"""A server process plans anew for its first five calls; pgbench's slices leave out as much."""
_FUNDS = 10**12
_DAY = date(2026, 3, 14)
Work = Callable[["_Books", "_Watch"], Awaitable[int]]
"""Connects, posts while the watch runs, and returns how many postings stand of what it measured."""


@dataclass
class _Watch:
    """Measures a slice from its second second on, when every server process has its plans, as pgbench's is."""

    server_pid: int
    seconds: float
    begun: float = 0.0
    server_used: float = 0.0
    own_used: float = 0.0
    _until: float = 0.0

    async def take(self, clients: "Sequence[Callable[[], Awaitable[int]]]") -> int:
        """Let clients post for a second that does not count and for the slice; returns how many it posted."""
        self._until = time.monotonic() + WARM_SECONDS
        await asyncio.gather(*(client() for client in clients))
        self.server_used, self.own_used = cpu_seconds(family(self.server_pid)[0]), time.process_time()
        self.begun = time.monotonic()
        self._until = self.begun + self.seconds
        return sum(await asyncio.gather(*(client() for client in clients)))

    def runs(self) -> bool:
        """Tell whether clients go on."""
        return time.monotonic() < self._until

    def read(self, posted: int) -> tuple[Slice, float]:
        """Return the slice, and the CPU of this process for each posting."""
        seconds = time.monotonic() - self.begun
        server = cpu_seconds(family(self.server_pid)[0]) - self.server_used
        return Slice(posted / seconds, server / posted), (time.process_time() - self.own_used) / posted


@dataclass
class _Books:
    """A team's accounts with funds, in the database of the run."""

    url: str
    team: str
    accounts: list[str]
    run: str = field(default_factory=lambda: new_id("run"))
    numbers: "count[int]" = field(default_factory=count)

    def posting(self, *, hot: bool = False) -> Posting:
        """Move one cent between two accounts; where it is hot, one of them is always the same."""
        last = len(self.accounts) - 1
        one = 1 + int(random.random() * last)
        two = 0 if hot else 1 + (one + int(random.random() * (last - 1))) % last
        source, target = self.accounts[one], self.accounts[two]
        key = f"{self.run}-{next(self.numbers)}"
        return Posting(self.team, "bench", key, "transfer", (Leg(source, -1), Leg(target, 1)), _DAY)


@dataclass(frozen=True)
class _Kind:
    """One way to post, the metrics that it gives, and how many clients its peer has."""

    rate_metric: str
    cpu_metric: str | None
    work: Work
    peer_clients: int = 32


def measure(laboratory: Laboratory, quick: bool) -> Iterator[Metric]:
    """Measure each way to post in turns with pgbench, then audit all that was posted."""
    _, urls, server_pid = laboratory.database()
    books = _open_books(urls.owner, urls.app)
    with pgbench_tables(urls.owner, 1 if quick else 10) as peer_url:
        turns = _Turns(books, peer_url, server_pid, seconds=1 if quick else 3)
        for number in range(1 if quick else 6):
            turns.round(number)
    yield from turns.metrics()
    found = audit(urls.owner)
    if not found.sound:
        raise BenchmarkError(f"the ledger does not add up: {[check for check in found.checks if check.broken]}")


@dataclass
class _Turns:
    """Slices of ours and of the peer, one after the other."""

    books: _Books
    peer_url: str
    server_pid: int
    seconds: int
    ours: dict[str, list[tuple[Slice, Slice, float]]] = field(default_factory=dict)

    def round(self, number: int) -> None:
        """Run every kind once beside a slice of its peer; of two rounds one has the peer first, the other last.

        What a slice leaves to be done, such as a checkpoint or a vacuum, so falls to both alike.
        """
        pairs = [KINDS[:1], *(KINDS[at : at + 2] for at in range(1, len(KINDS), 2))]
        for pair in pairs if number % 2 == 0 else pairs[::-1]:
            self._pair(pair, peer_first=number % 2 == 0)

    def _pair(self, kinds: "Sequence[_Kind]", *, peer_first: bool) -> None:
        [clients] = {kind.peer_clients for kind in kinds}
        found: list[tuple[_Kind, Slice, float]] = []
        if not peer_first:
            found = [(kind, *self._own(kind)) for kind in reversed(kinds)]
        peer = run_pgbench(self.peer_url, self.server_pid, clients=clients, seconds=self.seconds)
        if peer_first:
            found = [(kind, *self._own(kind)) for kind in kinds]
        for kind, own, client_cpu in found:
            self.ours.setdefault(kind.rate_metric, []).append((own, peer, client_cpu))

    def _own(self, kind: _Kind) -> tuple[Slice, float]:
        watch = _Watch(self.server_pid, self.seconds)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            posted = runner.run(_done(kind.work, self.books, watch))
            return watch.read(posted)

    def metrics(self) -> Iterator[Metric]:
        """Say the median of each kind's ratio to the slice of its peer."""
        load = os.getloadavg()[0]
        for kind in KINDS:
            found = self.ours[kind.rate_metric]
            more: dict[str, float | str] = {
                "posts_per_second": median([own.rate for own, _, _ in found]),
                "pgbench_tps": median([peer.rate for _, peer, _ in found]),
                "client_cpu_ms": 1000 * median([cpu for _, _, cpu in found]),
                "load": load,
            }
            yield Metric(kind.rate_metric, median([own.rate / peer.rate for own, peer, _ in found]), "x", more=more)
        for kind in KINDS:
            if kind.cpu_metric is not None:
                yield self._cpu(kind, kind.cpu_metric)

    def _cpu(self, kind: _Kind, name: str) -> Metric:
        found = self.ours[kind.rate_metric]
        ratio = median([own.server_cpu / peer.server_cpu for own, peer, _ in found])
        more: dict[str, float | str] = {
            "server_cpu_us": 1e6 * median([own.server_cpu for own, _, _ in found]),
            "pgbench_cpu_us": 1e6 * median([peer.server_cpu for _, peer, _ in found]),
        }
        return Metric(name, ratio, "x", more=more)


def _open_books(owner_url: str, app_url: str) -> _Books:
    """Open accounts that may not go below zero, with funds from one that may."""
    team, accounts, source = new_id("team"), sorted(new_id("acc") for _ in range(ACCOUNTS)), new_id("acc")
    opened = "SELECT ledger_open_account(%s, %s, %s, %s, 'BRL', %s, now())"
    with psycopg.connect(psycopg_url(owner_url)) as connection:
        connection.execute("INSERT INTO team (id, name, created_at) VALUES (%s, 'bench', now())", [team])
        connection.execute(opened, [team, source, "opening", source, None])
        with connection.cursor() as cursor:
            cursor.executemany(opened, [(team, account, "checking", account, 0) for account in accounts])
    books = _Books(app_url, team, accounts)
    fund = [
        Posting(team, "bench", f"fund-{account}", "opening", (Leg(source, -_FUNDS), Leg(account, _FUNDS)), _DAY)
        for account in accounts
    ]
    asyncio.run(_post_all(app_url, fund))
    with psycopg.connect(psycopg_url(owner_url), autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
    return books


async def _post_all(url: str, postings: Sequence[Posting]) -> None:
    lane = Lane(url)
    _stood(await lane.post(postings))
    await lane.close()


async def _done(work: Work, books: _Books, watch: _Watch) -> int:
    return await work(books, watch)


def _singles(clients: int) -> Work:
    """Clients that have a connection each and post one after the other."""

    async def work(books: _Books, watch: _Watch) -> int:
        async with AsyncExitStack() as stack:
            lanes = [Lane(books.url) for _ in range(clients)]
            for lane in lanes:
                stack.push_async_callback(lane.close)
                _stood(await lane.post([books.posting()]))

            async def client(lane: Lane) -> int:
                posted = 0
                while watch.runs():
                    posted += _stood(await lane.post([books.posting()]))
                return posted

            return await watch.take([partial(client, lane) for lane in lanes])

    return work


def _coalesced(in_flight: int, *, hot: bool) -> Work:
    """So many who wait for their posting, all over the one writer of the process, which has two lanes."""

    async def work(books: _Books, watch: _Watch) -> int:
        async with AsyncExitStack() as stack:
            writer = Writer(Lane(books.url), Lane(books.url))
            stack.push_async_callback(writer.close)
            _stood(await writer.post_batch([books.posting(hot=hot) for _ in range(in_flight)]))

            async def client() -> int:
                posted = 0
                while watch.runs():
                    posted += _stood([await writer.post(books.posting(hot=hot))])
                return posted

            return await watch.take([client] * in_flight)

    return work


def _batches(size: int) -> Work:
    """One connection that posts batch after batch; one is made ready while the one before it is under way."""

    async def work(books: _Books, watch: _Watch) -> int:
        async with AsyncExitStack() as stack:
            lane = Lane(books.url)
            stack.push_async_callback(lane.close)
            _stood(await lane.post([books.posting() for _ in range(size)]))

            async def hand() -> int:
                posted = 0
                while watch.runs():
                    posted += _stood(await lane.post([books.posting() for _ in range(size)]))
                return posted

            return await watch.take([hand, hand])

    return work


def _stood(outcomes: Sequence[Outcome]) -> int:
    for outcome in outcomes:
        outcome.stands()
    return len(outcomes)


KINDS = (
    _Kind("single_8_vs_pgbench_n", "cpu_single_8", _singles(8), peer_clients=8),
    _Kind("single_32_vs_pgbench_n", None, _singles(32)),
    _Kind("coalesced_32_spread_vs_pgbench_n", None, _coalesced(32, hot=False)),
    _Kind("coalesced_32_hot_vs_pgbench_n", None, _coalesced(32, hot=True)),
    _Kind("coalesced_256_hot_vs_pgbench_n", None, _coalesced(256, hot=True)),
    _Kind("batch_100_vs_pgbench_n", "cpu_batch_100", _batches(100)),
    _Kind("batch_1000_vs_pgbench_n", "cpu_batch_1000", _batches(1000)),
)
