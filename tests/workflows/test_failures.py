"""A step that fails, a wish to cancel, a passed deadline: every workflow goes back to a state that is true."""

from dataclasses import dataclass, field

import pytest
from tests.support.world import Stage

from .engine import FIXED
from .scenarios import SCENARIOS, Case, Scenario

CANCEL = "UPDATE operation SET cancel_requested = true, status = 'cancelling' WHERE id = %s"
LATE = "UPDATE operation SET deadline_at = now() - interval '1 second' WHERE id = %s"
RECORDED_ONLY = frozenset(
    {"read instance", "intend 1", "begin snapshot", "commit", "hibernated", "list machines", "ready", "gone"}
)
"""Steps of our own rows alone: they fail as a whole, so before and after are the same."""


@dataclass
class Fails:
    """Lets one step fail once."""

    when: str
    name: str
    happened: bool = False

    async def __call__(self, when: str, name: str) -> str | None:
        if self.happened or (when, name) != (self.when, self.name):
            return None
        self.happened = True
        return "fail"


@dataclass
class Changes:
    """Changes the operation's row just before one step."""

    stage: Stage
    statement: str
    name: str
    operation_id: str = ""
    happened: list[str] = field(default_factory=list)

    async def __call__(self, when: str, name: str) -> str | None:
        if when == "before" and name == self.name and not self.happened:
            self.happened.append(name)
            found = await self.stage.rows("SELECT id FROM operation ORDER BY id DESC LIMIT 1")
            await self.stage.write(self.statement, found[0][0])
        return None


async def steps_of(stage: Stage, scenario: Scenario) -> tuple[Case, list[str]]:
    """Run a scenario without any fault and return its case and its steps."""
    case = await scenario.ready(stage, None)
    operation, trial = await scenario.try_out(stage, case)
    assert operation.status == "succeeded", operation.problem
    return case, [name for name in trial.names() if name not in FIXED]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
async def test_every_step_fails_once(stage: Stage, scenario: Scenario) -> None:
    """Whichever step fails, before its work or after it, what is left is true and costs what is written."""
    case, names = await steps_of(stage, scenario)
    points = [(when, name) for name in names for when in ("before", "after")]
    for when, name in points:
        if when == "before" and name in RECORDED_ONLY:
            continue
        case = await scenario.ready(stage, case)
        moment = Fails(when, name)
        operation, trial = await scenario.try_out(stage, case, moment)
        assert moment.happened, f"{name} was not reached: {trial.names()}"
        assert (operation.status, (operation.problem or {}).get("code")) == ("failed", "step-failed"), (when, name)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
async def test_cancelled_or_late_between_steps(stage: Stage, scenario: Scenario) -> None:
    """Up to its point of no return an operation turns back; beyond it, it goes on to its end."""
    case, names = await steps_of(stage, scenario)
    last = names.index(scenario.turning)
    points = [name for name in names if name not in RECORDED_ONLY]
    for number, name in enumerate(points):
        code, statement = [("cancelled", CANCEL), ("deadline-exceeded", LATE)][number % 2]
        case = await scenario.ready(stage, case)
        operation, _ = await scenario.try_out(stage, case, Changes(stage, statement, name))
        expected = (
            (code, "cancelled" if code == "cancelled" else "failed")
            if names.index(name) <= last
            else (None, "succeeded")
        )
        assert ((operation.problem or {}).get("code"), operation.status) == expected, name
