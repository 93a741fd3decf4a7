"""Every workflow, run by a real worker over the real engine, survives SIGKILL before and after each of its steps."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.world import Stage

from .conftest import Place
from .engine import Trial
from .scenarios import WIDEST, Scenario

SECONDS = 180.0
STATUS = "SELECT status FROM dbos.workflow_status WHERE workflow_uuid = %s"
RECORDED = "SELECT function_name FROM dbos.operation_outputs WHERE workflow_uuid = %s"


@contextmanager
def mortal_workers(place: Place, deaths: Path) -> Iterator[None]:
    """Let workers work that die at every boundary and come again; `deaths` says where they died."""
    document = json.dumps(
        {
            "home": str(place.home),
            "worker_url": place.urls.worker,
            "sandbox_url": place.sandbox.url,
            "sandbox_key": place.sandbox.key,
            "deaths": str(deaths),
        }
    )
    script = str(Path(__file__).with_name("mortal_process.py"))
    workers = subprocess.Popen([sys.executable, script, document], stdin=subprocess.PIPE)
    try:
        yield
    finally:
        workers.communicate(timeout=60)


async def die_everywhere(place: Place, stage: Stage, scenario: Scenario, deaths: Path) -> str:
    """Run a scenario by workers that die on either side of each step; see it succeed, its effects and the bill."""
    case = await scenario.ready(stage, None)
    await stage.write("DELETE FROM dbos.workflow_status")  # of trials, which have ended
    operation_id = await scenario.begin(stage, case)
    with mortal_workers(place, deaths):
        await recorded_end(stage, operation_id)
    operation = await Trial(stage, operation_id).operation()
    assert operation.status == "succeeded", operation.problem
    await scenario.succeeded(stage, case)
    (await stage.bills(case.instance_id)).agree()
    recorded = [name for (name,) in await stage.rows(RECORDED, operation_id)]
    assert len(recorded) == len(set(recorded)) >= 2, recorded
    steps = {name.partition(" (")[0] for name in recorded}
    died = [tuple(line.split("\t")) for line in deaths.read_text().splitlines()]
    assert sorted(died) == sorted((when, name) for when in ("before", "after") for name in steps)
    return operation_id


async def recorded_end(stage: Stage, operation_id: str) -> None:
    """Wait until the engine itself holds the workflow for done."""
    deadline = time.monotonic() + SECONDS
    while (status := await stage.rows(STATUS, operation_id)) != [("SUCCESS",)]:
        assert time.monotonic() < deadline, status
        await asyncio.sleep(0.1)


async def test_a_launch_dies_at_each_step(place: Place, stage: Stage, tmp_path: Path) -> None:
    """One machine is rented, whichever of its worker's lives it was asked for in."""
    operation_id = await die_everywhere(place, stage, WIDEST[0], tmp_path / "deaths")
    assert await stage.rows("SELECT count(*) FROM rental WHERE operation_id = %s", operation_id) == [(1,)]


@pytest.mark.long
@pytest.mark.parametrize("scenario", WIDEST[1:], ids=str)
async def test_each_step_dies_twice(place: Place, stage: Stage, scenario: Scenario, tmp_path: Path) -> None:
    """As the launch, so every other workflow."""
    await die_everywhere(place, stage, scenario, tmp_path / "deaths")
