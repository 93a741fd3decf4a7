"""Whichever step of a workflow fails, what is left is true, and costs what is written."""

from dataclasses import dataclass

import pytest
from tests.support.world import Stage

from .scenarios import WIDEST, Scenario, steps_of

UNDONE = frozenset({"rent", "snapshot", "stop", "start kept machine", "start", "reboot"})
"""Steps with an undo, which must also be right where nothing was done; elsewhere the step before shows the same."""


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


@pytest.mark.parametrize("scenario", WIDEST, ids=str)
async def test_every_step_fails_once(stage: Stage, scenario: Scenario) -> None:
    """Whichever step fails, before its work or after it, what is left is true and costs what is written."""
    case, names = await steps_of(stage, scenario)
    befores = [("before", name) for name in names if name in UNDONE]
    for when, name in [*befores, *(("after", name) for name in names)]:
        case = await scenario.ready(stage, case)
        moment = Fails(when, name)
        operation, trial = await scenario.try_out(stage, case, moment)
        assert moment.happened, f"{name} was not reached: {trial.names()}"
        assert (operation.status, (operation.problem or {}).get("code")) == ("failed", "step-failed"), (when, name)
