"""A chaos run: two programs post through a proxy that loses things, over a server that dies and stops."""

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from tests.ledger.application import from_json, to_json
from tests.ledger.books import move, posting
from tests.ledger.history import REFUSED, STANDS, History
from tests.ledger.proxy import Cut, Proxy, never
from tests.ledger.stage import held, trapped, until
from tests.ledger.wreck import Program, Wreck, backends, programs, server_processes, stopped

from dumont.ledger import Leg, Posting

TWICE = 0.15
PLANNED = 20_000
_LEAST, _LATEST_SECONDS = 60, 120.0
_RATES = {Cut.DELAY: 0.03, Cut.MIDST: 0.004, Cut.ANSWER: 0.008, Cut.SILENCE: 0.002}
_CUTS = (Cut.DELAY, Cut.MIDST, Cut.ANSWER)
"""What a run must have met: chance alone decides when a cut falls, so a run goes on until each has."""
_RARE = ("kill server", "kill backend")
_IMPATIENT = {
    "lane": {"lock_timeout_ms": 100, "statement_timeout_ms": 400, "silence_seconds": 1.0},
    "writer": {"patience_seconds": 1.5},
}


@dataclass
class Chaos:
    """One run by one seed."""

    child: Wreck
    proxy: Proxy
    folder: Path
    seed: int
    seconds: float
    faults: Sequence[str] = ()
    done: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.books = self.child.books
        self.team = self.books.team()
        poor = [self.books.account(self.team, funds=self.chance.randint(100, 400)) for _ in range(4)]
        self.accounts = [*poor, *(self.books.account(self.team, floor=None) for _ in range(2))]
        url = self.proxy.through(self.child.urls.app)
        self.plans = [plan(self.chance, self.team, self.accounts) for _ in range(2)]
        config = {"url": url, "team": self.team, "accounts": self.accounts, "pause_seconds": 0.03, **_IMPATIENT}
        self.programs = [
            Program(self.folder, f"program-{self.seed}-{number}", made, **config)
            for number, made in enumerate(self.plans)
        ]

    def run(self) -> History:
        """Let the programs post while things break; at the end one is killed and one hears out its requests."""
        first, second = self.programs
        with programs(first, second):
            first.start()
            second.start()
            until(lambda: first.has_begun() and second.has_begun(), "both programs post", 60)
            dice = random.Random(self.seed + 1)
            self.proxy.decide = lambda request: _decide(dice)
            self._break_things()
            second.kill()
            self.proxy.decide = never
            self.child.await_up()
            first.stop()
            first.wait()
        return self._heard()

    def _heard(self) -> History:
        """Return what the programs were told so far."""
        asked = [from_json(one) for made in self.plans for item in made for one in item]
        history = History({posting.id: posting for posting in asked})
        for program in self.programs:
            history.take(program.lines())
        return history

    def _break_things(self) -> None:
        """Do each thing once, in an order of chance, then whatever comes, until time is over and enough was posted."""
        first = [*(self.faults or FAULTS)]
        self.chance.shuffle(first)
        often = [name for name in first if name not in _RARE]
        rare = [name for name in first if name in _RARE]
        end = time.monotonic() + self.seconds
        while first or time.monotonic() < end or not self._is_enough(time.monotonic() - end):
            name = first.pop() if first else self.chance.choice([*often, *often, *rare])
            try:
                FAULTS[name](self)
                self.done[name] += 1
            except psycopg.OperationalError:
                self.child.await_up()
            time.sleep(self.chance.uniform(0.1, 0.5))

    def _is_enough(self, late_seconds: float) -> bool:
        assert late_seconds < _LATEST_SECONDS, "the programs hardly post"
        if not all(program.has_begun(_LEAST) for program in self.programs) or not all(map(self.proxy.done.get, _CUTS)):
            return False
        history = self._heard()
        return history.counts[STANDS] > 2 * _LEAST and history.counts[REFUSED] > 0 and bool(history.reads)

    def some_account(self) -> str:
        """Choose an account."""
        return self.chance.choice(self.accounts)

    def some_backend(self) -> Sequence[int]:
        """Choose a server process that serves a program; none where there is none."""
        found = backends(self.child.urls, "application_name LIKE 'dumont%'")
        return [self.chance.choice(found)] if found else []


def plan(chance: random.Random, team: str, accounts: list[str]) -> list[list[dict[str, Any]]]:
    """Make what a program asks for: single transfers, batches, sessions and reversals, some of them sent twice."""
    made: list[list[dict[str, Any]]] = []
    singles: list[Posting] = []
    for _ in range(PLANNED // 20):
        for way in chance.choices(["writer", "batch", "session", "back"], [70, 10, 12, 8], k=20):
            items = [_transfer(chance, team, accounts) for _ in range(5 if way == "batch" else 1)]
            if way == "back" and singles:
                items = [_back(chance.choice(singles[-40:]))]
            singles += items
            twice = chance.random() < TWICE
            made.append([to_json(item, way=way, twice=twice) for item in items])
    return made[: PLANNED // 10]


def _transfer(chance: random.Random, team: str, accounts: list[str]) -> Posting:
    one, two, three = chance.sample(accounts, 3)
    amount, key = chance.randint(2, 120), f"{chance.getrandbits(64):x}"
    if chance.random() < 0.2:
        legs = (Leg(one, -amount), Leg(two, 1), Leg(three, amount - 1))
        return posting(team, legs, key=key)
    return move(team, one, two, amount, key=key)


def _back(target: Posting) -> Posting:
    legs = [Leg(leg.account_id, -leg.amount) for leg in target.legs]
    return posting(target.team_id, legs, key=f"back {target.id}", reverses=target.id)


def _decide(dice: random.Random) -> Cut:
    at = dice.random()
    for cut, rate in _RATES.items():
        at -= rate
        if at < 0:
            return cut
    return Cut.PASS


def _kill_server(chaos: Chaos) -> None:
    chaos.child.kill()
    chaos.child.await_up()


def _kill_backend(chaos: Chaos) -> None:
    for pid in chaos.some_backend():
        chaos.child.kill_backend(pid)
    chaos.child.await_up()


def _terminate(chaos: Chaos) -> None:
    for pid in chaos.some_backend():
        chaos.books.run("SELECT pg_terminate_backend(%s)", pid)


def _stop_backend(chaos: Chaos) -> None:
    with stopped(*chaos.some_backend()):
        time.sleep(chaos.chance.uniform(0.2, 0.8))


def _stop_server(chaos: Chaos) -> None:
    with stopped(*server_processes(chaos.child)):
        time.sleep(chaos.chance.uniform(0.2, 0.6))


def _lock(chaos: Chaos) -> None:
    with held(chaos.books, *{chaos.some_account(), chaos.some_account()}) as connection:
        connection.execute("SELECT pg_sleep(%s)", [chaos.chance.uniform(0.1, 0.6)])


def _slow_down(chaos: Chaos) -> None:
    sleep = f"PERFORM pg_sleep({chaos.chance.uniform(0.05, 0.6):.2f})"
    with trapped(chaos.books, chaos.some_account(), sleep):
        time.sleep(0.7)


def _kill_program(chaos: Chaos) -> None:
    program = chaos.chance.choice(chaos.programs)
    if program.has_moved():
        program.kill()
        program.start()


FAULTS: dict[str, Callable[[Chaos], None]] = {
    "kill server": _kill_server,
    "kill backend": _kill_backend,
    "terminate": _terminate,
    "stop backend": _stop_backend,
    "stop server": _stop_server,
    "lock": _lock,
    "slow down": _slow_down,
    "kill program": _kill_program,
}


def describe(chaos: Chaos, history: History) -> str:
    """Say what a run did."""
    cuts = {cut.name: count for cut, count in chaos.proxy.done.items()}
    return f"seed {chaos.seed}: {dict(history.counts)}, {len(history.reads)} reads, {dict(chaos.done)}, {cuts}"
