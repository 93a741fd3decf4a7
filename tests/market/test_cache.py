"""The cache of offers: asked for once, shared by processes, honest about its age, and slow to believe in nothing."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import psycopg
import pytest
from tests.support.sandbox import SandboxProcess

from dumont.core import Clock
from dumont.db import Database, DatabaseUrls, psycopg_url
from dumont.market import Offers, ProviderDown, cache
from dumont.market.cache import Source
from dumont.market.service import choose, first_sources
from dumont.providers import Offer, OfferQuery, VastProvider

pytestmark = pytest.mark.requires_postgres
ANYTHING = OfferQuery()
SEARCHES = {"ops": ["search"], "status": 503}


class Counting(VastProvider):
    """The marketplace's plug-in, which counts how often it is asked."""

    asked = 0

    async def offers(self, query: OfferQuery) -> list[Offer]:
        self.asked += 1
        return await super().offers(query)


class Process:
    """What one API process has: a pool, its providers and its cache, at a moment of product time."""

    def __init__(self, urls: DatabaseUrls, url: str, key: str, ahead: float, gaps: bool) -> None:
        self.database = Database(urls.app, pool_size=3)
        self.provider = Counting("sandbox", url, key, enforce_gaps=gaps)
        clock = Clock(epoch=time.time() - ahead, speed=2) if ahead else Clock()
        self.offers = Offers({"sandbox": self.provider}, self.database, clock)

    async def look(self, query: OfferQuery = ANYTHING, max_age: float = 60) -> Source:
        return await self.offers.look("sandbox", query, max_age)

    async def close(self) -> None:
        await self.provider.close()
        await self.database.close()


Start = Callable[..., Process]


@pytest.fixture
async def start(database_urls: DatabaseUrls, market: SandboxProcess) -> AsyncIterator[Start]:
    """Start API processes over one database; `ahead` is how many seconds later the product's clock stands."""
    async with AsyncExitStack() as running:

        def begin(ahead: float = 0, gaps: bool = False, url: str = "") -> Process:
            process = Process(database_urls, url or market.url, market.key, ahead, gaps)
            running.push_async_callback(process.close)
            return process

        yield begin


@pytest.fixture
def bare() -> Iterator[str]:
    """The address of a marketplace that has nothing."""

    class Nothing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "14")
            self.end_headers()
            self.wfile.write(b'{"offers": []}')

        def log_message(self, *words: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Nothing) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def ids(source: Source) -> set[str]:
    return {offer_id for offer_id, _ in source.listing.offers} if source.listing else set()


async def until(what: Callable[[], Any], seconds: float = 60) -> Any:
    """Ask until the answer is true."""
    deadline = time.monotonic() + seconds
    while not (found := await what()):
        assert time.monotonic() < deadline, "it never came"
        await asyncio.sleep(0.1)
    return found


async def test_many_ask_and_the_marketplace_is_asked_once(start: Start) -> None:
    """Twenty requests at once, and later ones of another process, share one answer; offers keep their ids."""
    one, other = start(), start()
    found = await asyncio.gather(*(one.look() for _ in range(20)))
    assert one.provider.asked == 1
    assert {source.status for source in found} == {"ok"} and len({id(source.listing) for source in found}) == 1
    theirs = await other.look()
    assert other.provider.asked == 0
    assert theirs.listing == found[0].listing and ids(theirs)
    fresh = await other.look(max_age=0)
    assert other.provider.asked == 1 and fresh.listing != theirs.listing
    assert ids(fresh) == ids(theirs)
    assert (await one.look(max_age=0)).listing != fresh.listing


async def test_older_than_allowed_is_asked_again(start: Start) -> None:
    first, later = start(), start(ahead=100)
    old = await first.look()
    assert (await later.look(max_age=300)).listing == old.listing and later.provider.asked == 0
    assert (await later.look(max_age=60)).listing != old.listing and later.provider.asked == 1


@pytest.mark.checklist("INST-21")
async def test_a_marketplace_that_is_down_is_shown_as_it_was_for_ten_minutes(
    start: Start, market: SandboxProcess
) -> None:
    """Its last listing is shown with its age and the reason; later there is nothing to show, and that is a problem."""
    known = await start().look()
    market.control.add_fault("http_error", SEARCHES, times=1000)
    later = start(ahead=300)
    stale = await later.look()
    assert (stale.status, stale.listing) == ("stale", known.listing)
    assert stale.detail is not None and "503" in stale.detail
    assert (await later.look()).status == "stale" and later.provider.asked == 1, "it was asked again at once"
    much_later = start(ahead=700)
    gone = await much_later.look()
    assert (gone.status, gone.listing) == ("unreachable", None)
    with pytest.raises(ProviderDown):
        await first_sources(much_later.offers, ["sandbox"], ANYTHING, 600)
    market.control.clear_faults()

    async def is_back() -> bool:
        return (await much_later.look()).status == "ok"

    await until(is_back)


async def test_an_empty_market_is_believed_when_it_says_so_again(start: Start, bare: str) -> None:
    """One empty answer hides no offers; the second, some time later, does; and not for longer than a minute."""
    known = await start().look()
    process = start(url=bare)
    doubted = await process.look(max_age=0)
    assert (doubted.status, ids(doubted)) == ("stale", ids(known))
    assert doubted.detail is not None and "nothing" in doubted.detail

    async def is_empty() -> Source | None:
        found = await process.look(max_age=0)
        return found if found.status == "ok" else None

    empty = await until(is_empty)
    assert ids(empty) == set()
    page = choose([empty], ANYTHING, (("price_hour", False),), start=0, limit=10)
    assert (page.total, list(page.shown)) == (0, [])
    later = start(ahead=100)
    assert ids(await later.look(max_age=600)) == ids(known), "an empty listing was believed for too long"


async def test_a_provider_that_must_not_be_asked_for_everything(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for what fits alone; where more fit than were listed, that is said and nothing is counted."""
    monkeypatch.setattr(cache, "_SOME_OFFERS", 5)
    process = start(gaps=True)
    wide = await process.look()
    assert wide.listing is not None and len(wide.listing.offers) == 5 and not wide.listing.complete
    page = choose([wide], ANYTHING, (("price_hour", False),), start=0, limit=50)
    assert page.total is None and wide.detail is not None and "there are more" in wide.detail
    narrow = OfferQuery(gpu_names=("A100",), num_gpus=2)
    found = await process.look(narrow)
    assert found.listing is not None and found.listing.complete and found.detail is None
    assert {(offer.gpu_name[:4], offer.num_gpus) for _, offer in found.listing.offers} == {("A100", 2)}
    assert (await process.look(narrow)).listing is found.listing and process.provider.asked == 2


async def test_prices_of_an_offer_are_kept_when_they_change(start: Start, database_urls: DatabaseUrls) -> None:
    one, other, last = start(), start(ahead=100), start(ahead=200)
    await one.look()
    await other.look()
    with psycopg.connect(psycopg_url(database_urls.owner), autocommit=True) as connection:
        count = "SELECT count(*), count(DISTINCT offer_id) FROM offer_price"
        before = connection.execute(count).fetchone()
        assert before is not None and before[0] == before[1] > 0
        connection.execute(
            "UPDATE offer_price SET gpu_hour_nano = 1 WHERE offer_id = (SELECT min(offer_id) FROM offer_price)"
        )
        await last.look()
        assert connection.execute(count).fetchone() == (before[0] + 1, before[1])


@pytest.mark.parametrize("moment", ["rented_at", "released_at"])
async def test_a_machine_that_we_took_or_gave_back_is_looked_at_anew(
    start: Start, database_urls: DatabaseUrls, moment: str
) -> None:
    """Whichever team it was: the listing from before has an offer that is gone, or lacks one that is back."""
    process = start()
    first = await process.look()
    assert await process.look() == first and process.provider.asked == 1
    with psycopg.connect(psycopg_url(database_urls.owner)) as connection:
        connection.execute("SET dumont.sweep = 'on'")
        foreign = "SELECT conname FROM pg_constraint WHERE conrelid = 'rental'::regclass AND contype = 'f'"
        for row in connection.execute(foreign).fetchall():
            connection.execute(f"ALTER TABLE rental DROP CONSTRAINT {row[0]}".encode())
        connection.execute(
            "INSERT INTO rental (id, team_id, instance_id, operation_id, provider, label, state, offer, machine_id, "
            f"created_at, {moment}) VALUES (%s, 'team_x', 'ins_x', 'op_x', 'sandbox', %s, 'released', '{{}}', 'm', "
            "now(), clock_timestamp())".encode(),
            [f"rnt_{moment}", moment],
        )
    await process.look()
    assert process.provider.asked == 2
    await process.look()
    assert process.provider.asked == 2, "once is enough"
