"""`instances`: offers of a market of 300, from the marketplace and from the cache."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from benchmarks.installation import COMMAND, NO_LIMITS, BenchmarkError, Home, Laboratory, connect, ready_url, running
from benchmarks.metrics import Metric, median
from benchmarks.processes import own_cpu_seconds
from benchmarks.rows import register
from benchmarks.wire import Wire
from dumont.db import DatabaseUrls

OFFERS = 300
LIST = "/api/v1/offers?limit=50"
_PAGE_ROWS = 64
_ROOM_FOR_WARM = 600
"""Seconds for which a warm listing may be shown, so that a slow run asks the marketplace no second time."""


@dataclass(frozen=True)
class Market:
    """A running sandbox marketplace."""

    url: str
    key: str


@contextmanager
def marketplace(home: Home) -> Iterator[Market]:
    """Run a sandbox whose prices stand still."""
    folder = home.path / "sandbox"
    arguments = ["--home", str(folder), "--port", "0", "--offers", str(OFFERS), "--root-ok"]
    with running(home, [sys.executable, "-m", "dumont.sandbox", *arguments]) as process:
        url = json.loads(process.line_with('"url"'))["url"]
        yield Market(url, (folder / "api.key").read_text().strip())


@contextmanager
def api_of(home: Home, urls: DatabaseUrls, market: Market) -> Iterator[tuple[int, str]]:
    """Run the API role over a marketplace; gives its process number and its address."""
    settings = {"DUMONT_SANDBOX_URL": market.url, "DUMONT_SANDBOX_KEY": market.key}
    settings |= NO_LIMITS
    with running(home, [*COMMAND, "serve", "api"], DUMONT_DATABASE_APP_URL=urls.app, **settings) as process:
        yield process.pid, ready_url(process)


def measure(laboratory: Laboratory, quick: bool) -> Iterator[Metric]:
    """Measure the list of offers over one API process."""
    home, urls, _ = laboratory.database()
    with marketplace(home) as market, api_of(home, urls, market) as (pid, url):
        yield from _offers(market, pid, url, rounds=2 if quick else 15)


def _offers(market: Market, pid: int, url: str, *, rounds: int) -> Iterator[Metric]:
    token = register(url).token
    with (
        closing(Wire(url, f"{LIST}&max_age_seconds=0", token)) as cold,
        closing(Wire(url, f"{LIST}&max_age_seconds={_ROOM_FOR_WARM}", token)) as warm,
    ):
        begun = time.perf_counter()
        total = json.loads(warm.ask())["total"]
        first = (time.perf_counter() - begun) * 1000
        times, bare = [], []
        for _ in range(rounds):
            times += cold.timed(1)
            bare.append(_bare_search(market))
        yield Metric("offers_cold_ms", median(times), "ms", peer=median(bare), more={"first_ms": first, "total": total})
        used = own_cpu_seconds(pid)
        times = warm.timed(rounds * 20)
        cpu = (own_cpu_seconds(pid) - used) * 1000 / (rounds * 20 + 1)
        more: dict[str, float | str] = {"cpu_ms": cpu, "kb": len(warm.ask()) / 1000}
        yield Metric("offers_warm_ms", median(times), "ms", more=more)


def _bare_search(market: Market) -> float:
    """Ask the marketplace alone for all its offers, page after page by price; returns milliseconds."""
    begun, lowest = time.perf_counter(), 0.0
    rows: list[dict[str, float]] = [{}] * _PAGE_ROWS
    headers = {"Authorization": f"Bearer {market.key}", "Content-Type": "application/json"}
    with closing(connect(market.url)) as connection:
        while len(rows) >= _PAGE_ROWS:
            body = {"order": [["dph_total", "asc"]], "dph_total": {"gte": lowest}, "limit": _PAGE_ROWS}
            connection.request("POST", "/api/v0/bundles/", json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise BenchmarkError(f"the marketplace answered {answer.status}: {text[:300]!r}")
            rows = json.loads(text)["offers"]
            lowest = rows[-1]["dph_total"] if rows else lowest
    return (time.perf_counter() - begun) * 1000
