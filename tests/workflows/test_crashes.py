"""Every workflow survives the death of its worker at every step, and never rents, bills or loses anything twice."""

from collections import Counter
from importlib import import_module

import pytest
from tests.support.world import Stage

from dumont.durable import REGISTRY

from .engine import Trial
from .scenarios import SCENARIOS, WIDEST, Scenario, check_asleep, check_running, hibernate, running

TRIED_BESIDE = frozenset({"sync.sync", "sync.list", "sync.restore", "sync.check", "sync.prune", "snapshots.preview"})
"""Workflows that die at each step in tests/sync, where there is a restic, and in tests/snapshots, without a machine."""


def test_every_workflow_is_tried() -> None:
    """A workflow without a scenario is not trusted."""
    import_module("dumont.app.wiring")  # brings every room's workflows
    missing = set(REGISTRY.definitions) - {scenario.workflow for scenario in SCENARIOS} - TRIED_BESIDE
    assert not missing, f"write a scenario in tests/workflows/scenarios.py for {', '.join(sorted(missing))}"


class EachStepTwice:
    """Dies once before and once after the body of each step; later rounds of a step are spared."""

    def __init__(self) -> None:
        self.died: Counter[tuple[str, str]] = Counter()

    async def __call__(self, when: str, name: str) -> str | None:
        plain = name.partition(" (")[0]
        if when == "recorded" or self.died[when, plain]:
            return None
        self.died[when, plain] += 1
        return "die"


@pytest.mark.parametrize("scenario", WIDEST, ids=str)
async def test_each_step_twice(stage: Stage, scenario: Scenario) -> None:
    """Every step dies before it is done and again before it is recorded; the operation succeeds all the same."""
    case = await scenario.ready(stage, None)
    moment = EachStepTwice()
    operation, trial = await scenario.try_out(stage, case, moment)
    assert operation.status == "succeeded", operation.problem
    plain = {name.partition(" (")[0] for name in trial.names()}
    assert set(moment.died) == {(when, name) for when in ("before", "after") for name in plain}
    assert trial.deaths == 2 * len(plain)


class Once:
    """Dies, or fails a step, once, at one moment."""

    def __init__(self, when: str, name: str, wish: str = "die") -> None:
        self.when, self.name, self.wish = when, name, wish
        self.happened = False

    async def __call__(self, when: str, name: str) -> str | None:
        if self.happened or (when, name) != (self.when, self.name):
            return None
        self.happened = True
        return self.wish


@pytest.mark.parametrize("then", ["keep", "destroy"])
async def test_death_after_the_machine_stopped(stage: Stage, then: str) -> None:
    """The stop that nobody recorded is found, not repeated; the disk is kept, for its processes ran on for a moment."""
    case = await running(stage, None)
    trial = Trial(stage, await hibernate(stage, case, then), Once("after", "stop"))
    operation = await trial.run()
    assert (operation.status, trial.deaths) == ("succeeded", 1), operation.problem
    assert "snapshot (2)" not in trial.names()
    await check_asleep(stage, case, keeps=True)
    await running(stage, case)
    await check_running(stage, case)


@pytest.mark.parametrize("step", ["snapshot", "verify", "commit"])
async def test_death_while_frozen_saves_again(stage: Stage, step: str) -> None:
    """Processes that were thawed by the worker's death may have written: a new snapshot is made before the stop."""
    case = await running(stage, None)
    trial = Trial(stage, await hibernate(stage, case, "destroy"), Once("recorded", step))
    operation = await trial.run()
    assert (operation.status, trial.deaths) == ("succeeded", 1), operation.problem
    assert "snapshot (2)" in trial.names()
    asleep = await check_asleep(stage, case, keeps=False)
    newest = await stage.rows("SELECT max(id) FROM snapshot WHERE instance_id = %s", case.instance_id)
    assert newest == [(asleep.last_snapshot_id,)]
