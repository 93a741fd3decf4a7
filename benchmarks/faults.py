"""`faults`: many seeds of the simulation of faults, or one again by `--seed N`; what must hold is counted."""

import asyncio
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING

from benchmarks.installation import BenchmarkError, Laboratory, new_home, prepared_database
from benchmarks.metrics import Metric

if TYPE_CHECKING:
    from tests.simulation.simulate import Outcome

SEEDS = 1000
QUICK_SEEDS = 2
_TELL_EVERY = 25
ARENAS = 3
"""How many run at once: seeds wait more than they work."""


@dataclass(frozen=True)
class Wish:
    """Which seeds: the first `count`, or one alone; `short` is the plan that `./test` runs."""

    seed: int | None = None
    count: int = SEEDS
    short: bool = False
    first: int = 1

    def seeds(self, *, quick: bool) -> list[int]:
        """Return the seeds in order."""
        if self.seed is not None:
            return [self.seed]
        count = min(self.count, QUICK_SEEDS) if quick else self.count
        return list(range(self.first, self.first + count))


_PREPARING = Lock()
"""Migrations run one at a time in a process: their library keeps what it works on in globals."""


class _Course:
    """How far a long run is, told on standard error; an interrupt lets the seeds that run come to their end."""

    def __init__(self, seeds: list[int]) -> None:
        self._waiting: SimpleQueue[int] = SimpleQueue()
        for seed in seeds:
            self._waiting.put(seed)
        self._all, self._done, self._wrong = len(seeds), 0, 0
        self._began = time.monotonic()

    def next(self) -> int | None:
        """Take a seed; None where none is left."""
        try:
            return self._waiting.get_nowait()
        except Empty:
            return None

    def drop_the_rest(self, *_: object) -> None:
        """Leave the seeds out that nobody has begun."""
        while self.next() is not None:
            pass

    def tell(self, outcome: "Outcome") -> None:
        """Count a seed, and say every twenty-fifth time how far we are and how long it will take."""
        self._done += 1
        self._wrong += bool(outcome.complaints)
        if self._done % _TELL_EVERY == 0:
            left = (time.monotonic() - self._began) / self._done * (self._all - self._done) / 60
            sys.stderr.write(f"{self._done} of {self._all} seeds, {self._wrong} wrong, {left:.0f} min left\n")
            sys.stderr.flush()


def measure(laboratory: Laboratory, quick: bool, wish: Wish = Wish()) -> Iterator[Metric]:
    """Run seeds, each arena with a database of its own, and sum up what happened.

    Errors: BenchmarkError where anything that must hold did not; what, stands on standard error, with the log's place.
    """
    seeds = wish.seeds(quick=quick)
    course = _Course(seeds)
    before = signal.signal(signal.SIGINT, course.drop_the_rest)
    arenas = min(ARENAS, len(seeds))
    kept = Path(tempfile.mkdtemp(prefix="dumont-faults-"))
    try:
        with ThreadPoolExecutor(arenas) as lanes:
            done = [lane.result() for lane in [lanes.submit(_lane, course, wish, kept) for _ in range(arenas)]]
    finally:
        signal.signal(signal.SIGINT, before)
    outcomes = [outcome for lane in done for outcome in lane]
    yield from _summary(outcomes)
    bad = sorted(outcome.plan.seed for outcome in outcomes if outcome.complaints)
    if not bad and wish.seed is None:
        kept.rmdir()
    if len(outcomes) < len(seeds):
        sys.stderr.write(f"interrupted: {len(seeds) - len(outcomes)} of {len(seeds)} seeds were not run\n")
    if bad:
        raise BenchmarkError(f"{len(bad)} of {len(outcomes)} seeds: {bad}. Replay one by ./bench faults --seed N")


def _lane(course: _Course, wish: Wish, kept: Path) -> "list[Outcome]":
    """Run seeds in an arena until there are none; an arena that broke leaves the rest to the others."""
    from tests.simulation.arena import open_arena
    from tests.simulation.plan import plan_of
    from tests.simulation.simulate import simulate

    found = []
    with ExitStack() as parts:
        home = parts.enter_context(new_home())
        with _PREPARING:
            urls, _ = parts.enter_context(prepared_database(home))
        arena = parts.enter_context(open_arena(urls, home.path / "arena"))
        while (seed := course.next()) is not None:
            outcome = asyncio.run(simulate(arena, plan_of(seed, full=not wish.short)))
            found.append(outcome)
            course.tell(outcome)
            if outcome.complaints or wish.seed is not None:
                outcome.log = Path(shutil.copy(outcome.log, kept))
                sys.stderr.write(f"{outcome}\n")
    return found


def _summary(outcomes: "list[Outcome]") -> Iterator[Metric]:
    violated = [outcome for outcome in outcomes if outcome.complaints]
    seconds = sum(outcome.seconds for outcome in outcomes)
    more: dict[str, float | str] = {"seeds": str(len(outcomes)), "violations": str(_count(violated))}
    if violated:
        more["replay"] = ",".join(str(outcome.plan.seed) for outcome in violated)
    yield Metric("fault_seeds_wrong", len(violated), "seeds", more=more)
    yield Metric("fault_seed_s", seconds / max(1, len(outcomes)), "s")
    deaths = Counter(death.split()[0] for outcome in outcomes for death in outcome.deaths)
    yield _counted("fault_kills", deaths)
    yield _counted("fault_operations", _total(outcome.operations for outcome in outcomes))
    yield _counted("fault_strikes", _total(outcome.faults for outcome in outcomes))


def _count(outcomes: "list[Outcome]") -> int:
    return sum(len(outcome.complaints) for outcome in outcomes)


def _total(counters: Iterable[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for counter in counters:
        total.update(counter)
    return total


def _counted(name: str, counts: Counter[str]) -> Metric:
    more: dict[str, float | str] = {key.replace(" ", "_"): str(count) for key, count in sorted(counts.items())}
    return Metric(name, sum(counts.values()), "times", more=more)
