"""Where tests fill wallets: the API, the worker's turn, the sandbox's payment service, and what the rows say."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import psycopg
from tests.support.api import Api, Person, running_api
from tests.support.payments import Mailbox, Payer, pix_service
from tests.support.sandbox import SandboxProcess

from dumont import billing
from dumont.billing import Rate, TopupDesk, topups_turn
from dumont.core import Clock
from dumont.db import Database, DatabaseUrls, psycopg_url
from dumont.payments import PixService

TOPUPS = "/api/v1/wallet/topups"
RATE_MICRO = 5_432_100
HOUSE = "team_00000000000000000000000000"


class ShiftedClock(Clock):
    """The real clock, and as far ahead of it as it was turned."""

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "ahead", 0.0)

    def at_real(self, real_seconds: float) -> float:
        """Return the product time at a real time."""
        return real_seconds + float(self.__dict__["ahead"])

    def turn(self, seconds: float) -> None:
        """Turn it forward."""
        object.__setattr__(self, "ahead", self.__dict__["ahead"] + seconds)


@dataclass
class Counter:
    """An API, a worker that does one turn at a time, and payers. The notices of payments come into a mailbox."""

    urls: DatabaseUrls
    api: Api
    worker: Database
    clock: ShiftedClock
    service: PixService
    desk: TopupDesk
    sandbox: SandboxProcess
    payer: Payer
    mailbox: Mailbox

    async def person(self, *, operator: bool = True) -> Person:
        """Make somebody with a team of his own."""
        person = await self.api.person()
        if operator:
            self.rows("UPDATE user_account SET is_operator = true WHERE id = %s RETURNING id", person.user_id)
        return person

    async def ask(self, person: Person, method: str, path: str, *, key: str | None = "", **more: Any) -> httpx.Response:
        """Ask the API about top-ups; `key` "" is a fresh Idempotency-Key, None is none."""
        headers = {**person.headers, **({} if key is None else {"Idempotency-Key": key or uuid4().hex})}
        return await self.api.http.request(method, f"{TOPUPS}{path}", headers=headers, **more)

    async def topup(self, person: Person, amount: str = "100.00", **more: Any) -> dict[str, Any]:
        """Make a top-up."""
        answer = await self.ask(person, "POST", "", json={"amount": amount, **more})
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    async def show(self, person: Person, topup: dict[str, Any]) -> dict[str, Any]:
        """Read a top-up anew."""
        found: dict[str, Any] = (await self.ask(person, "GET", f"/{topup['id']}")).json()
        return found

    async def pay(self, **wish: Any) -> str:
        """Let somebody pay; its notice stays at the service. Returns the end-to-end id."""
        paid = await asyncio.to_thread(self.payer.pay, **{"copies": 0, **wish})
        return str(paid["endToEndId"])

    async def paid(self, person: Person, amount: str = "100.00") -> dict[str, Any]:
        """Make a top-up, pay it and let the worker find out."""
        made = await self.topup(person, amount)
        await self.tell(await self.pay(txid=made["txid"]), made["txid"])
        await self.turn()
        found = await self.show(person, made)
        assert found["status"] == "paid"
        return found

    async def tell(self, end_to_end_id: str, txid: str | None) -> None:
        """Let a notice be known, as if a callback had told of it."""
        self.rows("SELECT dumont_note_pix(%s, %s)", [end_to_end_id], [txid])

    async def call_back(self, notice: tuple[dict[str, str], bytes], **changed: str) -> httpx.Response:
        """Bring a notice from the mailbox to the API's door."""
        headers, body = notice
        sent = {"content-type": "application/json", **headers, **changed}
        return await self.api.http.post("/api/v1/wallet/pix/callback", content=body, headers=sent)

    async def turn(self) -> None:
        """Let a worker do all that is due."""
        await topups_turn(self.worker, self.desk)

    async def later(self, seconds: float) -> None:
        """Let time pass for us and for the payment service, and all looks be due."""
        self.clock.turn(seconds)
        await asyncio.to_thread(self.sandbox.control.turn_clock, advance_s=seconds)
        self.look_now()

    def look_now(self) -> None:
        """Let everything that waits be due."""
        self.rows("UPDATE topup SET look_at = now() RETURNING id")
        self.rows("UPDATE topup_refund SET due_at = now() RETURNING id")
        self.rows("UPDATE pix_notice SET due_at = now() RETURNING end_to_end_id")

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a query as the owner, over all teams."""
        with psycopg.connect(psycopg_url(self.urls.owner), autocommit=True) as connection:
            connection.execute("SET dumont.sweep = 'on'")
            return connection.execute(query.encode(), values).fetchall()

    def balances(self, team_id: str) -> dict[str, int]:
        """Read the balances of a team's accounts that have moved, as `type currency`."""
        rows = self.rows(
            "SELECT type || ' ' || currency, balance FROM ledger_account WHERE team_id = %s AND version > 0", team_id
        )
        return dict(rows)  # type: ignore[arg-type]

    def news(self, topic: str) -> Sequence[dict[str, Any]]:
        """Read what was published under a topic."""
        return [row[0] for row in self.rows("SELECT data FROM outbox_event WHERE topic = %s ORDER BY id", topic)]


def micro(amount: dict[str, str]) -> int:
    """Read Money of the API as millionths."""
    whole, _, rest = amount["amount"].partition(".")
    return int(whole) * 1_000_000 + int(rest.ljust(6, "0"))


@asynccontextmanager
async def open_counter(urls: DatabaseUrls, sandbox: SandboxProcess, mailbox: Mailbox) -> AsyncIterator[Counter]:
    """Open a counter over a database and a sandbox."""
    clock = ShiftedClock()
    face = await asyncio.to_thread(sandbox.control.turn_clock)
    clock.turn(float(face["now"]) - Clock().seconds())
    worker, service = Database(urls.worker, pool_size=12), pix_service(sandbox)
    desk = TopupDesk(service, Rate(RATE_MICRO, "operator", clock.now()), clock)
    try:
        async with running_api(urls, *billing.routers) as api:
            api.app.state.clock = clock
            api.app.state.topup_desk = desk
            await service.watch(mailbox.url)
            yield Counter(urls, api, worker, clock, service, desk, sandbox, Payer(sandbox), mailbox)
    finally:
        await service.close()
        await worker.close()
