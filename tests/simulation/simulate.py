"""One seed from its plan to the judgement: people and faults, then calm, then what must hold, then nothing is left."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.simulation.arena import Arena
from tests.simulation.drive import FINAL, Driver, Thing
from tests.simulation.judge import Judge
from tests.simulation.plan import Act, Plan
from tests.simulation.script import Script, tell

QUIET_SECONDS = 120.0
"""How long after the faults the product may take to put everything right; real seconds."""
_END = Act("destroy")


@dataclass
class Outcome:
    """What became of a seed. `operations` counts kind and end, `faults` those that really struck."""

    plan: Plan
    log: Path
    complaints: list[str] = field(default_factory=list)
    operations: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    deaths: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        return "\n".join([str(self.plan), *self.complaints, f"what happened: {self.log}"])


async def simulate(
    arena: Arena, plan: Plan, *, broken: str | None = None, quiet_seconds: float = QUIET_SECONDS
) -> Outcome:
    """Run one seed and judge it; `broken` names a sabotage of the product."""
    begun = time.monotonic()
    outcome = Outcome(plan, arena.folder / f"seed-{plan.seed}.log")
    script = Script(plan.seed, str(outcome.log), list(plan.deaths), list(plan.rules), broken=broken)
    strangers = await asyncio.to_thread(arena.begin, script, plan.strangers)
    async with Driver(arena, plan, outcome.log) as driver:
        await driver.live()
        await asyncio.to_thread(_calm, arena, script)
        tell(script.log, "calm")
        judge = Judge(driver, strangers)
        outcome.complaints = await _quiet(arena, driver, judge, quiet_seconds)
        if plan.ends and not outcome.complaints:
            outcome.complaints = await _nothing_left(driver, judge)
        for kind, status in await driver.rows("SELECT kind, status FROM operation"):
            outcome.operations[f"{kind} {status}"] += 1
    _read(outcome)
    outcome.seconds = time.monotonic() - begun
    return outcome


def _calm(arena: Arena, script: Script) -> None:
    """End faults and deaths, and give every host its power back."""
    Script(script.seed, script.log, calm=True, broken=script.broken).write(arena.folder)
    arena.patiently(lambda control: control.clear_faults())


def _restore_hosts(arena: Arena) -> int:
    """Give dead hosts their power back; returns how many there were."""
    state = arena.patiently(lambda control: control.state())
    dead = set(state["dead_machine_ids"])
    for box in dead:
        number = next((x.instance_id for x in arena.patiently(lambda c: c.ledger()) if x.machine_id == box), None)
        if number is not None:
            arena.patiently(lambda control, one=number: control.restore_host(one))  # type: ignore[misc]
    return len(dead)


async def _quiet(arena: Arena, driver: Driver, judge: Judge, seconds: float) -> list[str]:
    """Wait until everything is right and the watch has looked since; returns what is still wrong after the bound."""
    calm, until = time.time() + driver.plan.echo_seconds, time.monotonic() + seconds
    while True:
        dead = await asyncio.to_thread(_restore_hosts, arena)
        busy = await driver.rows("SELECT 1 FROM operation WHERE status NOT IN ('succeeded', 'failed', 'cancelled')")
        looked = await driver.rows("SELECT count(*) FROM watch_turn WHERE ended_at > to_timestamp(%s)", calm)
        late = time.monotonic() > until
        if late or not (dead or busy or looked[0][0] < 2):
            complaints = await judge.complaints()
            if not complaints or late:
                return complaints
        await asyncio.sleep(0.25)


async def _nothing_left(driver: Driver, judge: Judge) -> list[str]:
    """Destroy what there is: whatever became of it, it can be destroyed, and then nothing costs."""
    ends = await asyncio.gather(*(_destroyed(driver, thing) for thing in driver.things if thing.instance_id))
    if not all(ends):
        return [f"not everything could be destroyed at the end: {ends}"]
    complaints = await judge.complaints()
    statuses = await driver.rows("SELECT id, status FROM instance WHERE status <> 'destroyed'")
    return complaints + [f"at the end {one} is {status}" for one, status in statuses]


async def _destroyed(driver: Driver, thing: Thing) -> bool:
    operation_id = await driver.begin(thing, _END)
    return operation_id is None or await driver.end_of(thing, operation_id) in FINAL


def _read(outcome: Outcome) -> None:
    for line in outcome.log.read_text().splitlines():
        parts = line.split("\t")
        if parts[1] == "fault":
            outcome.faults[parts[2]] += 1
        elif parts[1] == "death":
            outcome.deaths.append(parts[2])
