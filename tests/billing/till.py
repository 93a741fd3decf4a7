"""What the tests of money for machines share: a clock that is turned by hand, meters, a writer, a team's API."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from tests.support.api import Api, Person, running_api
from tests.support.sandbox import SandboxProcess

from dumont import billing, bookkeeping
from dumont.app.wiring import give_wallet
from dumont.billing import Metering, Stretch, ensure_wallet, follow_stretch
from dumont.core import Clock, Settings, new_id
from dumont.db import Database, DatabaseUrls, psycopg_url, set_team
from dumont.ledger import Lane, Leg, Posting, Writer, post

NOON = datetime(2026, 3, 14, 12, tzinfo=timezone.utc)


class HandClock(Clock):
    """A clock that stands still until it is turned."""

    def __init__(self, at: datetime = NOON) -> None:
        super().__init__()
        object.__setattr__(self, "at", at)

    def at_real(self, real_seconds: float) -> float:
        """Return the moment that it was turned to."""
        return float(self.__dict__["at"].timestamp())

    def now(self) -> datetime:
        """Return that moment, to the microsecond."""
        shown: datetime = self.__dict__["at"]
        return shown

    def turn(self, **forward: float) -> datetime:
        """Turn it forward."""
        object.__setattr__(self, "at", self.now() + timedelta(**forward))
        return self.now()


class TurnedClock(Clock):
    """A sandbox's time, which may have been turned by others before, and what it is turned forward from now on."""

    def __init__(self, sandbox: SandboxProcess) -> None:
        super().__init__()
        shown = float(sandbox.control.turn_clock()["now"])
        object.__setattr__(self, "ahead", [shown - time.time()])

    def at_real(self, real_seconds: float) -> float:
        """Return the product time at a given real Unix time."""
        return real_seconds + sum(self.__dict__["ahead"])


def turn(clock: Clock, hours: float) -> None:
    """Turn such a clock forward."""
    clock.__dict__["ahead"].append(3600.0 * hours)


@dataclass
class Till:
    """Everything that charges, by hand."""

    urls: DatabaseUrls
    clock: HandClock
    worker: Database
    writer: Writer
    api: Api
    _spans: dict[str, Stretch] = field(default_factory=dict)

    def metering(self, writer: Writer | None = None) -> Metering:
        """Give another worker's sweep."""
        return Metering(self.worker, self.clock, writer or self.writer)

    async def charge(self) -> dict[str, Any]:
        """Sweep once."""
        return await self.metering().run()

    async def person(self) -> Person:
        """Make somebody with a team and its wallet."""
        person = await self.api.person()
        async with self.session(person.team_id) as session:
            await ensure_wallet(session, person.team_id, self.clock.now())
        return person

    @asynccontextmanager
    async def session(self, team_id: str) -> AsyncIterator[Any]:
        """Give one transaction of a team, as the worker."""
        async with self.worker.begin() as session:
            await set_team(session, team_id)
            yield session

    async def begin(
        self, team_id: str, *, rate: int = 1_000_000_000, kind: str = "gpu", instance: str | None = None
    ) -> Stretch:
        """Begin a stretch of cost now. Units: nano-dollars per hour."""
        stretch = Stretch(
            new_id("spn"), team_id, instance or new_id("ins"), new_id("rnt"), kind, rate, self.clock.now(), None
        )
        return await self.tell(stretch)

    async def end(self, stretch: Stretch, at: datetime | None = None) -> Stretch:
        """End it, now or at another moment."""
        return await self.tell(Stretch(**{**vars(stretch), "to_at": at or self.clock.now()}))

    async def tell(self, stretch: Stretch) -> Stretch:
        """Tell the meters of a stretch."""
        async with self.session(stretch.team_id) as session:
            await follow_stretch(session, stretch)
        return stretch

    async def fund(self, team_id: str, micro: int) -> None:
        """Put money into a wallet, from an account of the team without a floor."""
        async with self.session(team_id) as session:
            wallet = await ensure_wallet(session, team_id, self.clock.now())
            source = await billing.ensure_account(session, team_id, "clearing-test", "USD", self.clock.now())
            legs = (Leg(wallet.account_id, micro), Leg(source, -micro))
            key = new_id("fund")
            outcome = await post(session, Posting(team_id, "test", key, "topup", legs, self.clock.now().date()))
            outcome.stands()

    async def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Read rows as the owner."""
        return await asyncio.to_thread(self._rows, query, values)

    def _rows(self, query: str, values: tuple[object, ...] | dict[str, Any]) -> list[tuple[Any, ...]]:
        with psycopg.connect(psycopg_url(self.urls.owner)) as connection:
            connection.execute("SET dumont.sweep = 'on'")
            cursor = connection.execute(query.encode(), values)
            return cursor.fetchall() if cursor.description else []

    async def write(self, statement: str, values: dict[str, Any]) -> None:
        """Change rows as the owner, with named values."""
        await asyncio.to_thread(self._rows, statement, values)

    async def balance(self, team_id: str, kind: str) -> int:
        """Read the balance of a team's account of a kind, and see that it is the sum of its entries."""
        [(balance, total)] = await self.rows(
            "SELECT a.balance, (SELECT coalesce(sum(e.amount), 0) FROM ledger_entry e WHERE e.account = a.number) "
            "FROM ledger_account a WHERE a.team_id = %s AND a.type = %s AND a.currency = 'USD'",
            team_id, kind,
        )  # fmt: skip
        assert balance == total
        return int(balance)

    async def held(self, team_id: str) -> int:
        """Read what a team's wallet keeps aside."""
        [(held,)] = await self.rows("SELECT held FROM ledger_account WHERE team_id = %s AND type = 'wallet'", team_id)
        return int(held)

    async def get(self, person: Person, path: str, **query: Any) -> dict[str, Any]:
        """Ask the API."""
        answer = await self.api.http.get(f"/api/v1{path}", params=query, headers=person.headers)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def change(self, person: Person, **changes: Any) -> dict[str, Any]:
        """Change the wallet over the API."""
        answer = await self.api.http.patch("/api/v1/wallet", json=changes, headers=person.headers)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@asynccontextmanager
async def open_till(urls: DatabaseUrls) -> AsyncIterator[Till]:
    """Open a till over a database; its API makes wallets with teams, as the product's does."""
    clock = HandClock()
    worker = Database(urls.worker, pool_size=6)
    writer = Writer(Lane(urls.worker))
    try:
        async with running_api(urls, *billing.routers, *bookkeeping.routers) as api:
            api.app.state.clock = clock
            api.identity.on_team_created(partial(give_wallet, Settings(home=Path("/nonexistent"))))
            yield Till(urls, clock, worker, writer, api)
    finally:
        await writer.close()
        await worker.close()
