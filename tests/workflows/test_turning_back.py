"""A wish to cancel or a passed deadline: a workflow turns back while it can, and else goes on to its end."""

from dataclasses import dataclass

import pytest
from tests.support.world import Stage

from .scenarios import WIDEST, Scenario, steps_of

CANCEL = "UPDATE operation SET cancel_requested = true, status = 'cancelling' WHERE id = %s"
LATE = "UPDATE operation SET deadline_at = now() - interval '1 second' WHERE id = %s"
RECORDED_ONLY = frozenset(
    {
        *("read instance", "read snapshot", "intend 1", "begin snapshot", "commit", "hibernated", "paused"),
        *("list machines", "ready", "gone"),
    }
)
"""Steps of our own rows alone, which do not look whether to turn back."""


@dataclass
class Changes:
    """Changes the newest operation's row just before one step."""

    stage: Stage
    statement: str
    name: str
    happened: bool = False

    async def __call__(self, when: str, name: str) -> str | None:
        if when == "before" and name == self.name and not self.happened:
            self.happened = True
            found = await self.stage.rows("SELECT id FROM operation ORDER BY id DESC LIMIT 1")
            await self.stage.write(self.statement, found[0][0])
        return None


@pytest.mark.parametrize("scenario", WIDEST, ids=str)
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
