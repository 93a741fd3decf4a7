"""The offers of the marketplaces from a local cache that says its age, shared by all API processes.

A listing is asked for when somebody wants one younger than any that is kept: once at a time for each marketplace and
process, and after a look at what other processes have kept in the database.
"""

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta

from dumont.core import Clock, Problem
from dumont.db import Database
from dumont.market import queries
from dumont.market.listing import Listing, Status
from dumont.market.model import ProviderDown, ProviderNotConfigured, explain
from dumont.providers import Offer, OfferQuery, Provider, ProviderError, machine_type_of

STALE_SECONDS = 600
"""Older listings are not shown at all."""

EMPTY_SECONDS = 60
"""An empty listing is believed no longer than that, whatever a caller allows."""

_REST_SECONDS = 2.0
"""After a failure a marketplace is left alone for so long, unless it says itself for how long."""

_PAUSE_SECONDS = 10.0
"""A marketplace that is asked seldom is not asked again so soon because of a machine that we took or gave back."""

_HASTE_SECONDS, _PATIENCE_SECONDS = 3.0, 25.0
"""How long a request waits for a marketplace when there is something older to show, and when there is not."""

_LISTINGS_KEPT = 16
_WHOLE_OFFERS, _SOME_OFFERS = 3000, 250
_LEAST_DISK, _USUAL_DISK = 8.0, 20.0
"""GB of disk: nobody can rent less than the first; offers are kept with the price of the second."""


@dataclass(frozen=True)
class Source:
    """What one marketplace could tell; `problem` says why it is not better."""

    provider: str
    status: Status
    listing: Listing | None
    problem: Problem | None = None

    @property
    def detail(self) -> str | None:
        """A sentence for people where something is to be known."""
        if self.problem is not None:
            return str(self.problem)
        if self.listing is not None and not self.listing.complete:
            return f"The cheapest {len(self.listing.offers)}; there are more. Filter to see others."
        return None


@dataclass(frozen=True)
class _Ask:
    """One thing to ask of one marketplace; `wish` is empty for all offers of a machine type."""

    provider: str
    machine_type: str
    wish: str
    query: OfferQuery = field(compare=False)


@dataclass
class _Memory:
    """What this process knows of one thing to ask."""

    newest: Listing | None = None
    flight: "asyncio.Task[Problem | None] | None" = None
    rest_until: float = 0.0
    problem: Problem | None = None
    emptied: bool = False


@dataclass(frozen=True)
class _Need:
    """How fresh a listing must be for one request, judged by the moment at which the request came.

    One from before `moved`, the moment at which we last took a machine or gave one back, shows what is gone.
    """

    at: datetime
    max_age_seconds: float
    moved: datetime | None

    def is_met(self, listing: Listing | None) -> bool:
        if listing is None or (self.moved is not None and listing.as_of < self.moved):
            return False
        limit = self.max_age_seconds if listing.offers else min(self.max_age_seconds, EMPTY_SECONDS)
        return listing.as_of >= self.at - timedelta(seconds=limit)

    def is_usable(self, listing: Listing | None) -> bool:
        return listing is not None and listing.as_of >= self.at - timedelta(seconds=STALE_SECONDS)


class Offers:
    """The cache of one process. Belongs to the event loop that uses it first."""

    def __init__(self, providers: Mapping[str, Provider], database: Database, clock: Clock) -> None:
        self._providers = providers
        self._database = database
        self._clock = clock
        self._memory: OrderedDict[_Ask, _Memory] = OrderedDict()
        self._listings: OrderedDict[str, Listing] = OrderedDict()

    async def look(self, name: str, query: OfferQuery, max_age_seconds: float) -> Source:
        """Return a listing that holds all that fits a query, and more; call it outside any transaction.

        Guarantees: `ok` is not older than `max_age_seconds`, `stale` not older than ten minutes; a marketplace that
        answers with nothing is believed when it did so twice, some time apart.
        Errors: ProviderNotConfigured for an unknown name, DatabaseUnavailable.
        """
        if name not in self._providers:
            raise ProviderNotConfigured("This installation has no such provider. `dumont doctor` shows those it has.")
        ask = _ask(self._providers[name], name, query)
        memory = self._remember(ask)
        need = await self._need(name, max_age_seconds)
        problem: Problem | None = None
        for _ in range(2):
            if need.is_met(memory.newest) or problem is not None:
                break
            problem = await self._wait(ask, memory, need)
        if need.is_met(memory.newest):
            return Source(name, "ok", memory.newest)
        if need.is_usable(memory.newest):
            return Source(name, "stale", memory.newest, problem)
        return Source(name, "unreachable", None, problem or ProviderDown("The marketplace gave no answer in time."))

    async def _need(self, name: str, max_age_seconds: float) -> _Need:
        async with self._database.begin() as session:
            moved = await queries.market_moved(session, name)
        now = self._clock.now()
        if moved is not None and not self._providers[name].capabilities.whole_market:
            moved = min(moved, now - timedelta(seconds=_PAUSE_SECONDS))
        return _Need(now, max_age_seconds, moved)

    async def again(self, listing_id: str) -> Listing | None:
        """Return the listing with that id, from here or from the database; None once it is no longer kept."""
        found = self._listings.get(listing_id)
        if found is None:
            async with self._database.begin() as session:
                found = await queries.read_listing(session, listing_id)
            if found is not None:
                self._hold(found)
        return found

    async def _wait(self, ask: _Ask, memory: _Memory, need: _Need) -> Problem | None:
        """Join the flight that is in the air, or start one; a request that gives up leaves it flying."""
        if memory.flight is None:
            memory.flight = asyncio.create_task(self._fly(ask, memory, need))
            memory.flight.add_done_callback(lambda task: _land(memory, task))
        flight = memory.flight
        patience = _HASTE_SECONDS if need.is_usable(memory.newest) else _PATIENCE_SECONDS
        await asyncio.wait({flight}, timeout=patience)
        if not flight.done():
            return ProviderDown("The marketplace is slow to answer; ask again in a moment.", retry_after=5)
        return flight.result()

    async def _fly(self, ask: _Ask, memory: _Memory, need: _Need) -> Problem | None:
        """Get a newer listing from the database or from the marketplace; returns why there is none."""
        await self._read_newest(ask, memory)
        if need.is_met(memory.newest):
            return None
        if time.monotonic() < memory.rest_until:
            return memory.problem
        as_of = self._clock.now()
        try:
            found = await self._providers[ask.provider].offers(ask.query)
        except ProviderError as error:
            return _rest(memory, explain(error))
        had = memory.newest is not None and bool(memory.newest.offers) and need.is_usable(memory.newest)
        if not found and had and not memory.emptied:
            memory.emptied = True
            return _rest(
                memory, ProviderDown("The marketplace lists nothing, which is believed when it says so again.")
            )
        memory.emptied = False
        async with self._database.begin() as session:
            memory.newest = await queries.keep_listing(
                session,
                [offer for offer in map(_as_kept, found) if offer.price_hour_nano > 0],
                provider=ask.provider,
                machine_type=ask.machine_type,
                wish=ask.wish,
                as_of=as_of,
                complete=len(found) < ask.query.limit,
            )
        self._hold(memory.newest)
        return None

    async def _read_newest(self, ask: _Ask, memory: _Memory) -> None:
        """Take over a listing that another process has kept."""
        now = self._clock.now()
        async with self._database.begin() as session:
            newest = await queries.newest_listing(
                session, provider=ask.provider, machine_type=ask.machine_type, wish=ask.wish, now=now
            )
            known = memory.newest is not None and newest is not None and newest[1] <= memory.newest.as_of
            if newest is None or known:
                return
            found = await queries.read_listing(session, newest[0])
        if found is not None:
            memory.newest = found
            self._hold(found)

    def _remember(self, ask: _Ask) -> _Memory:
        memory = self._memory.setdefault(ask, _Memory())
        self._memory.move_to_end(ask)
        while len(self._memory) > _LISTINGS_KEPT:
            self._memory.popitem(last=False)
        return memory

    def _hold(self, listing: Listing) -> None:
        self._listings[listing.id] = listing
        while len(self._listings) > _LISTINGS_KEPT:
            self._listings.popitem(last=False)


def _ask(provider: Provider, name: str, query: OfferQuery) -> _Ask:
    """Ask for the whole market where the provider allows that, else only for what fits the query."""
    kind = machine_type_of(query)
    if provider.capabilities.whole_market:
        return _Ask(name, kind, "", OfferQuery(machine_type=kind, disk_gb=_LEAST_DISK, limit=_WHOLE_OFFERS))
    usual = OfferQuery(machine_type=query.machine_type)
    wishes = {f.name: getattr(query, f.name) for f in fields(query)}
    said = {name: value for name, value in wishes.items() if value != getattr(usual, name)}
    narrow = OfferQuery(**{**wishes, "limit": _SOME_OFFERS})
    return _Ask(name, kind, json.dumps(said, sort_keys=True) if said else "{}", narrow)


def _as_kept(offer: Offer) -> Offer:
    """Price an offer for the usual disk, under which it is kept."""
    return offer.with_disk(_USUAL_DISK)


def _rest(memory: _Memory, problem: Problem) -> Problem:
    memory.rest_until = time.monotonic() + (problem.retry_after or _REST_SECONDS)
    memory.problem = problem
    return problem


def _land(memory: _Memory, task: "asyncio.Task[Problem | None]") -> None:
    """End a flight; those who waited for it raise its error, and nobody else has to."""
    memory.flight = None
    if not task.cancelled():
        task.exception()
