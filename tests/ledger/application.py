"""A program that posts what a plan says and keeps a log, for tests that kill it: `application.py CONFIG`.

It tries each request until a definite answer. Started again with the same log it first asks again, under the same keys,
for what it never heard of. On SIGTERM it asks for nothing new, hears out what it asked, and ends.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from sqlalchemy import text

from dumont.core import Problem
from dumont.db import Database, DatabaseUnavailable, set_team
from dumont.ledger import Lane, Leg, Outcome, OutcomeUnknown, Posting, Writer, post

AGAIN_SECONDS = 0.03
_PLANNED = ("team_id", "scope", "key", "kind", "memo", "reverses", "leg")


def to_json(posting: Posting, **more: Any) -> dict[str, Any]:
    """Write a posting as a plan holds it; `more` says how it is asked for."""
    legs = [[leg.account_id, leg.amount] for leg in posting.legs]
    return {**{name: getattr(posting, name) for name in _PLANNED}, "date": str(posting.date), "legs": legs, **more}


def from_json(written: dict[str, Any]) -> Posting:
    """Read a posting of a plan."""
    legs = tuple(Leg(account, amount) for account, amount in written["legs"])
    known = {name: written[name] for name in _PLANNED}
    return Posting(**known, legs=legs, date=date.fromisoformat(written["date"]))


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read what a program has written; a line that a kill cut off tells nothing."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]


@dataclass
class Application:
    """The program: two writers, sessions, a plan and a log."""

    config: dict[str, Any]
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        url, lane = self.config["url"], self.config.get("lane", {})
        self.writers = [
            Writer(*(Lane(url, **lane) for _ in range(lanes)), **self.config.get("writer", {})) for lanes in (1, 2)
        ]
        self.database = Database(url, pool_size=3, glances=1)
        self.log = os.open(self.config["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.chance = random.Random(f"{self.config['log']} {time.monotonic_ns()}")

    async def run(self) -> None:
        """Ask for what was never answered, then for the rest of the plan."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.stopping.set)
        self._note({"up": os.getpid()})
        plan = [json.loads(line) for line in Path(self.config["plan"]).read_text().splitlines()]
        told = read_log(Path(self.config["log"]))
        done = {line["done"] for line in told if "done" in line}
        sent = {line["sent"] for line in told if "sent" in line} - done
        left = [item for item in plan if from_json(item[0]).id not in done]
        order = iter(sorted(left, key=lambda item: from_json(item[0]).id not in sent))
        reading = asyncio.create_task(self._read_balances())
        await asyncio.gather(*(self._client(order) for _ in range(self.config["clients"])))
        reading.cancel()
        for writer in self.writers:
            await writer.close()
        await self.database.close()

    async def _client(self, order: Any) -> None:
        for item in order:
            if self.stopping.is_set():
                return
            await self._ask([from_json(one) for one in item], item[0].get("way", "writer"), item[0].get("twice", False))
            await asyncio.sleep(self.config.get("pause_seconds", 0) * 2 * self.chance.random())

    async def _ask(self, postings: list[Posting], way: str, twice: bool) -> None:
        self._note(*({"sent": posting.id, "at": time.monotonic()} for posting in postings))
        asking = [self._until_told(postings, way, writer) for writer in self.writers[: 1 + twice]]
        told = [outcome for outcomes in await asyncio.gather(*asking) for outcome in outcomes]
        at = time.monotonic()
        self._note(*({"done": outcome.id, "said": _named(outcome), "at": at} for outcome in told))

    async def _until_told(self, postings: list[Posting], way: str, writer: Writer) -> list[Outcome]:
        told: dict[str, Outcome] = {}
        while left := [posting for posting in postings if posting.id not in told]:
            for posting, outcome in zip(left, await self._once(left, way, writer), strict=True):
                if not isinstance(outcome.problem, (DatabaseUnavailable, OutcomeUnknown)):
                    told[posting.id] = outcome
            await asyncio.sleep(AGAIN_SECONDS if len(told) < len(postings) else 0)
        return [told[posting.id] for posting in postings]

    async def _once(self, postings: Sequence[Posting], way: str, writer: Writer) -> list[Outcome]:
        if way != "session":
            return await writer.post_batch(postings)
        try:
            async with self.database.begin() as session:
                await set_team(session, postings[0].team_id)
                return [await post(session, postings[0])]
        except Problem as problem:
            return [Outcome(postings[0].id, problem=problem)]

    async def _read_balances(self) -> None:
        accounts = self.config.get("accounts", [])
        statement = text("SELECT version, balance FROM ledger_account WHERE id = :id")
        while accounts:
            account, begun = self.chance.choice(accounts), time.monotonic()
            try:
                async with self.database.begin() as session:
                    await set_team(session, self.config["team"])
                    version, balance = (await session.execute(statement, {"id": account})).one()
                line = {"read": account, "version": version, "balance": balance, "from": begun}
                self._note({**line, "to": time.monotonic()})
            except DatabaseUnavailable:
                await asyncio.sleep(AGAIN_SECONDS)
            await asyncio.sleep(0.1)

    def _note(self, *lines: dict[str, Any]) -> None:
        """Write lines at once, in one call of the system, so that a kill leaves whole ones."""
        os.write(self.log, "".join(f"{json.dumps(line)}\n" for line in lines).encode())


def _named(outcome: Outcome) -> str:
    return "posted" if outcome.problem is None else outcome.problem.code


if __name__ == "__main__":
    asyncio.run(Application(json.loads(Path(sys.argv[1]).read_text())).run())
