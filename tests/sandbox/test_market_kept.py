"""What the market keeps between two looks is what it would find by looking anew, whoever came, went or paid."""

import math
from pathlib import Path
from typing import Any

import pytest

from dumont.core import Clock
from dumont.sandbox.clock import DrivenClock
from dumont.sandbox.documents import offer_document
from dumont.sandbox.market import Market, read_wish
from dumont.sandbox.rows import OfferRows
from dumont.sandbox.settings import SandboxSettings
from dumont.sandbox.store import Store

_HOUR = 3600.0
_NOON = 1_790_000_000.0


@pytest.fixture
def settings(tmp_path: Path) -> SandboxSettings:
    clock = DrivenClock(Clock(_NOON))
    clock.turn(pause=True)
    return SandboxSettings(tmp_path, clock=clock, offers=60, seed=5)


def _turn(settings: SandboxSettings, hours: float) -> None:
    assert isinstance(settings.clock, DrivenClock)
    settings.clock.turn(advance_s=hours * _HOUR)


def _rent(market: Market, at: int, **body: Any) -> int:
    return market.rent(market.offers(bids="price" in body)[at].id, read_wish({"image": "ubuntu:22.04", **body}))


def _same(market: Market, settings: SandboxSettings, store: Store) -> list[int]:
    """Compare with a market that was never asked before; returns the numbers of the offers."""
    fresh = Market(settings, store)
    for bids in (False, True):
        assert market.offers(bids=bids) == fresh.offers(bids=bids)
    return [offer.id for offer in market.offers()]


def test_a_kept_market_is_the_market(settings: SandboxSettings, tmp_path: Path) -> None:
    """Hours, rentals, their ends, bids, traces and sent rivals all show at the next look."""
    store = Store(tmp_path / "sandbox.db")
    market = Market(settings, store)
    before = _same(market, settings, store)
    rented = _rent(market, 3)
    assert before[3] not in _same(market, settings, store)
    bid = _rent(market, 0, price=64)
    _turn(settings, 0.1)
    _same(market, settings, store)
    seen = {tuple(_same(market, settings, store)) for _ in range(6) if _turn(settings, 3) is None}
    assert len(seen) == 6
    for number in (rented, bid):
        store.update(number, destroyed_us=market.now_us())
        _same(market, settings, store)
    offer = market.offers()[0]
    market.rivals.send(offer.box, offer.gpus, None, market.now_s() + _HOUR)
    assert offer.id not in {one.id for one in market.offers()}
    _turn(settings, 2)
    _same(market, settings, store)
    model = market.offers()[0].box.model.name
    market.lay({"trace": {"metadata": {"gap_seconds": 60}, "data": [0]}, "bind": {"model": model}})
    _same(market, settings, store)
    assert all(one.box.model.name != model for one in market.offers())
    market.lift()
    _same(market, settings, store)
    store.close()


def test_kept_rows_are_what_would_be_written_now(settings: SandboxSettings, tmp_path: Path) -> None:
    """Each size of disk and kind of rental has its own rows; only what changed is written anew."""
    store = Store(tmp_path / "sandbox.db")
    market, rows = Market(settings, store), OfferRows()
    for hours in (0, 0.01, 6, 30):
        _turn(settings, hours)
        now = market.now_s()
        for gigabytes, bid in ((8.0, False), (200.0, False), (8.0, True)):
            offers = [offer for offer in market.offers() if "twice" not in offer.box.oddities]
            written = [offer_document(offer, now, gigabytes=gigabytes, bid=bid) for offer in offers]
            found = rows.of(offers, now, gigabytes=gigabytes, bid=bid)
            assert found == written and found
            again = rows.of(offers, now, gigabytes=gigabytes, bid=bid)
            assert all(one is other for one, other in zip(found, again, strict=True))
    store.close()


def test_no_rival_bids_what_the_machine_costs_on_demand(settings: SandboxSettings, tmp_path: Path) -> None:
    """Only a host's own floor can make an interruptible dearer than the same machine on demand."""
    store = Store(tmp_path / "sandbox.db")
    market, eager = Market(settings, store), 0
    for _ in range(12):
        _turn(settings, 7)
        for offer in market.offers():
            floor = math.ceil(market.rivals.floor(offer.box, market.now_s()) * len(offer.gpus) / 1000) * 1000
            assert floor <= offer.min_bid <= max(floor, offer.gpu_rate)
            eager += floor < 0.99 * offer.gpu_rate <= offer.min_bid
    assert eager > 0, "no rival ever wanted a machine so much"
    store.close()
