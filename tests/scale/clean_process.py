"""Runs the nightly cleaning once in a worker and ends: `clean_process.py WORKER_URL`."""

import asyncio
import sys
from datetime import datetime, timezone
from types import SimpleNamespace

from dumont.db import Database
from dumont.durable import REGISTRY, Worker
from dumont.operations import clean


async def main() -> None:
    """Start a worker, clean, stop."""
    database = Database(sys.argv[1])
    world = SimpleNamespace(database=database)
    REGISTRY.schedules = {}
    worker = Worker(sys.argv[1], world, database, poll_seconds=0.05)
    await worker.start()
    await clean(world, datetime.now(timezone.utc))
    await worker.stop()
    await database.close()


asyncio.run(main())
