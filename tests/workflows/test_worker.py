"""Real worker processes over the real durable engine, killed without warning: the next one goes on."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.support.world import Stage

from dumont.db import psycopg_url

from .conftest import Place

TAKE_OVER_SECONDS = 60.0


class Workers:
    """Starts workers and kills them with SIGKILL."""

    def __init__(self, place: Place) -> None:
        self._document = json.dumps(
            {
                "home": str(place.home),
                "worker_url": place.urls.worker,
                "sandbox_url": place.sandbox.url,
                "sandbox_key": place.sandbox.key,
            }
        )
        self._running: list[subprocess.Popen[str]] = []

    def start(self) -> None:
        """Start a worker and wait until it listens."""
        script = str(Path(__file__).with_name("worker_process.py"))
        child = subprocess.Popen([sys.executable, script, self._document], stdout=subprocess.PIPE, text=True)
        self._running.append(child)
        assert child.stdout is not None
        for line in child.stdout:
            if line.strip() == "ready":
                return
        pytest.fail(f"the worker ended with {child.wait()}")

    def kill(self) -> None:
        """Kill every worker and see it dead."""
        for child in self._running:
            child.kill()
            child.wait(60)
            if child.stdout is not None:
                child.stdout.close()
        self._running.clear()


@pytest.fixture
def workers(place: Place) -> Iterator[Workers]:
    """Workers of the module's place, all dead at the end."""
    made = Workers(place)
    yield made
    made.kill()


async def until(stage: Stage, statement: str, value: str, wanted: Callable[[Any], bool], seconds: float) -> None:
    """Read one value again and again, over one connection, until it is as wanted."""
    deadline = time.monotonic() + seconds
    async with await psycopg.AsyncConnection.connect(psycopg_url(stage.urls.owner), autocommit=True) as connection:
        while True:
            found = await (await connection.execute(statement.encode(), [value])).fetchall()
            if found and wanted(found[0][0]):
                return
            assert time.monotonic() < deadline, f"still {found} after {seconds:g} s: {statement}"
            await asyncio.sleep(0.01)


STATUS = "SELECT status FROM operation WHERE id = %s"
STEP = "SELECT current_step FROM operation WHERE id = %s"


async def test_the_next_worker_finishes_a_launch(stage: Stage, workers: Workers) -> None:
    """A worker is killed between renting and booting; the next one takes its slot and boots that same machine."""
    stage.sandbox.control.add_fault("slow_pull", {"s": 5})
    await asyncio.to_thread(workers.start)
    instance_id, operation_id = await stage.begin_launch()
    await until(stage, STEP, operation_id, lambda step: step == "boot", 60)
    await asyncio.to_thread(workers.kill)
    assert (await stage.rows(STATUS, operation_id))[0][0] == "running"
    await asyncio.to_thread(workers.start)
    await until(stage, STATUS, operation_id, lambda status: status == "succeeded", TAKE_OVER_SECONDS)
    bills = await stage.bills(instance_id)
    bills.agree()
    assert len(bills.made) == 1 and len(bills.running) == 1
    attempts = (await stage.rows("SELECT steps FROM operation WHERE id = %s", operation_id))[0][0]
    assert {entry["name"]: entry["attempts"] for entry in attempts}["rent"] == 1
