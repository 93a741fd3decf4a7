"""A worker with two workflows of its own: one of many small steps, one that holds on until it is let go."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import Problem
from dumont.db import Database
from dumont.durable import Run, Worker, workflow

POOL = 6


async def _nothing_to_undo(session: AsyncSession, run: Run, problem: Problem) -> None:
    """Write nothing more than the operation's own end."""


@workflow("bench.steps", kind="bench", steps=("call", "record"), on_failure=_nothing_to_undo)
async def steps(run: Run, world: Any) -> dict[str, Any]:
    """Time `count` steps of each kind that do nothing. Units: milliseconds."""
    calls, records = [], []
    for number in range(int(run.input["count"])):
        begun = time.perf_counter()
        await run.call(f"call-{number}", _nothing)
        called = time.perf_counter()
        await run.record(f"record-{number}", _no_rows)
        records.append((time.perf_counter() - called) * 1000)
        calls.append((called - begun) * 1000)
    return {"calls": calls, "records": records}


@workflow("bench.hold", kind="bench", steps=("hold",), on_failure=_nothing_to_undo)
async def hold(run: Run, world: Any) -> None:
    """Write this process's number beside the path of the input, and wait until the file there exists."""
    path = Path(run.input["path"])

    async def body() -> None:
        path.with_name(f"held-by-{os.getpid()}").touch()
        while not path.exists():  # noqa: ASYNC110, ASYNC240 - another process lets go
            await asyncio.sleep(0.02)

    await run.call("hold", body)


async def _nothing() -> None:
    return None


async def _no_rows(session: AsyncSession) -> None:
    return None


async def serve(url: str) -> None:
    """Work until SIGTERM."""
    database = Database(url, pool_size=POOL, application_name="bench-worker")
    worker = Worker(url, None, database, on_fenced=lambda: os.kill(os.getpid(), signal.SIGKILL))
    await worker.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    sys.stdout.write("worker is ready\n")
    sys.stdout.flush()
    await stopped.wait()
    await worker.stop()
    await database.close()


if __name__ == "__main__":
    asyncio.run(serve(os.environ["BENCH_WORKER_URL"]))
