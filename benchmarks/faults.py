"""`faults`: many seeds of the simulation of faults, or one again by `--seed N`; what must hold is counted."""

import asyncio
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from benchmarks.installation import BenchmarkError, Laboratory, new_home, prepared_database
from benchmarks.metrics import Metric

if TYPE_CHECKING:
    from tests.simulation.simulate import Outcome

SEEDS = 1000
QUICK_SEEDS = 2
ARENAS = 3
"""How many run at once: seeds wait more than they work."""


@dataclass(frozen=True)
class Wish:
    """Which seeds: the first `count`, or one alone; `short` is the plan that `./test` runs."""

    seed: int | None = None
    count: int = SEEDS
    short: bool = False

    def seeds(self, *, quick: bool) -> list[int]:
        """Return the seeds in order."""
        if self.seed is not None:
            return [self.seed]
        return list(range(1, 1 + (min(self.count, QUICK_SEEDS) if quick else self.count)))


def measure(laboratory: Laboratory, quick: bool, wish: Wish = Wish()) -> Iterator[Metric]:
    """Run seeds, each arena with a database of its own, and sum up what happened.

    Errors: BenchmarkError where anything that must hold did not; what, stands on standard error, with the log's place.
    """
    seeds = wish.seeds(quick=quick)
    waiting: SimpleQueue[int] = SimpleQueue()
    for seed in seeds:
        waiting.put(seed)
    arenas = min(ARENAS, len(seeds))
    kept = Path(tempfile.mkdtemp(prefix="dumont-faults-"))
    with ThreadPoolExecutor(arenas) as lanes:
        done = [lane.result() for lane in [lanes.submit(_lane, waiting, wish, kept) for _ in range(arenas)]]
    outcomes = [outcome for lane in done for outcome in lane]
    yield from _summary(outcomes)
    bad = sorted(outcome.plan.seed for outcome in outcomes if outcome.complaints)
    if not bad and wish.seed is None:
        kept.rmdir()
    if bad:
        raise BenchmarkError(f"{len(bad)} of {len(seeds)} seeds: {bad}. Replay one by ./bench faults --seed N")


def _lane(waiting: "SimpleQueue[int]", wish: Wish, kept: Path) -> "list[Outcome]":
    """Run seeds in an arena until there are none; an arena that broke leaves the rest to the others."""
    from tests.simulation.arena import open_arena
    from tests.simulation.plan import plan_of
    from tests.simulation.simulate import simulate

    found = []
    with new_home() as home, prepared_database(home) as (urls, _), open_arena(urls, home.path / "arena") as arena:
        while not waiting.empty():
            seed = waiting.get_nowait()
            outcome = asyncio.run(simulate(arena, plan_of(seed, full=not wish.short)))
            found.append(outcome)
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
