"""Every piece of work on a history survives the death of its worker at every step, and is done once."""

from typing import Any

import pytest
from tests.workflows.test_crashes import EachStepTwice

from .conftest import Machine

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("kind", ["sync", "list", "restore", "check", "prune"])
async def test_each_step_twice(machine: Machine, kind: str) -> None:
    """Every step dies before it is done and again before it is recorded; the work succeeds, and nothing is lost."""
    machine.write("kept/file", f"before {kind}")
    point = await machine.sync()
    machine.write("kept/file", f"changed before {kind}")
    inputs: dict[str, dict[str, Any]] = {
        "list": {"snapshot_id": point.snapshot_id, "path": "kept", "limit": 100},
        "restore": {"snapshot_id": point.snapshot_id, "paths": ["kept"], "to": "."},
        "check": {"read_data_percent": 100},
    }
    run = await machine.begin(kind, **inputs.get(kind, {}))
    trial = machine.trial(run)
    trial.moment = moment = EachStepTwice()
    done = await trial.run()
    assert done.status == "succeeded", (done.problem or {}).get("detail")
    names = {name.partition(" (")[0] for name in trial.names()}
    assert trial.deaths == 2 * len(names) == len(moment.died)
    ended = await machine.run(run.id)
    assert ended.finished_at is not None
    if kind == "list":
        assert [entry["path"] for entry in (done.result or {})["entries"]] == ["kept/file"]
    if kind == "restore":
        assert (machine.workspace / "kept/file").read_text() == f"before {kind}"
    if kind == "sync":
        back = await machine.restore(ended, "kept/file", to="back")
        assert back.status == "succeeded", (back.problem or {}).get("detail")
        assert (machine.workspace / "back/kept/file").read_text() == f"changed before {kind}"
    _, proof = await machine.ended("check", read_data_percent=100)
    assert proof.status == "succeeded", (proof.problem or {}).get("detail")
