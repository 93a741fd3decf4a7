"""A worker with one schedule that ticks every second: `tick_process.py WORKER_URL`."""

import asyncio
import os
import sys
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from sqlalchemy import text

from dumont.db import Database
from dumont.durable import REGISTRY, Worker, schedule


@schedule("test.tick", cron="* * * * * *")
async def tick(world: Any, at: datetime) -> None:
    """Write down that this tick fired, and in which process."""
    async with world.database.begin() as session:
        await session.execute(text("INSERT INTO tick (at, pid) VALUES (:at, :pid)"), {"at": at, "pid": os.getpid()})


async def main() -> None:
    """Work until the process is ended."""
    database = Database(sys.argv[1])
    REGISTRY.schedules = {"test.tick": REGISTRY.schedules["test.tick"]}
    worker = Worker(sys.argv[1], SimpleNamespace(database=database), database, poll_seconds=0.05)
    await worker.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
