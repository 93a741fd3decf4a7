"""A worker in a process of its own, to be killed: `worker_process.py DOCUMENT` says `ready` and works until it dies."""

import asyncio
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.support.world import worker_world  # noqa: E402

from dumont.durable import Worker  # noqa: E402


async def main() -> None:
    """Take a slot, go on with what its last holder left, and listen."""
    given = json.loads(sys.argv[1])
    world = worker_world(Path(given["home"]), given["worker_url"], given["sandbox_url"], given["sandbox_key"])
    worker = Worker(given["worker_url"], world, world.database, concurrency=2, poll_seconds=0.05)
    await worker.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
