"""A worker that dies by SIGKILL before and after the body of every step, once each, and starts anew each time.

`mortal_process.py DOCUMENT` imports everything once and forks the workers; it ends, with its worker, when its standard
input ends. Every death is a line `WHEN<tab>STEP` in the document's `deaths` file.
"""

import asyncio
import json
import os
import select
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import dbos  # noqa: E402, F401 - imported once, before the workers are forked
from tests.support.world import worker_world  # noqa: E402

import dumont.hibernation  # noqa: E402, F401 - its workflows are bound by the worker
from dumont.durable import Worker  # noqa: E402
from dumont.durable.record import StepRecord  # noqa: E402


class MortalEngine(StepRecord):
    """The product's engine, in a process that kills itself at every boundary that nobody died at yet."""

    deaths: Path

    async def step(self, name: str, body: Callable[[], Awaitable[Any]]) -> Any:
        """Die before the body, or after it and before its outcome is recorded."""

        async def mortal() -> Any:
            self._die_once("before", name)
            outcome = await body()
            self._die_once("after", name)
            return outcome

        return await super().step(name, mortal)

    async def transaction(self, name: str, body: Callable[[Any], Awaitable[Any]]) -> Any:
        """Die before the rows are written, or with the rows written and not committed."""

        async def mortal(session: Any) -> Any:
            self._die_once("before", name)
            outcome = await body(session)
            await session.flush()
            self._die_once("after", name)
            return outcome

        return await super().transaction(name, mortal)

    async def write(self, name: str, *arguments: Any) -> Any:
        """Die before the statement, or when it is committed."""
        self._die_once("before", name)
        outcome = await super().write(name, *arguments)
        self._die_once("after", name)
        return outcome

    def _die_once(self, when: str, name: str) -> None:
        line = f"{when}\t{name.partition(' (')[0]}\n"
        with self.deaths.open("a+") as file:
            file.seek(0)
            if line in file.readlines():
                return
            file.write(line)
        os.kill(os.getpid(), signal.SIGKILL)


async def work(given: dict[str, str]) -> None:
    """Take a slot, go on with what its last holder left, and listen."""
    import dumont.durable.worker as room

    MortalEngine.deaths = Path(given["deaths"])
    room.StepRecord = MortalEngine  # type: ignore[misc]
    world = worker_world(Path(given["home"]), given["worker_url"], given["sandbox_url"], given["sandbox_key"])
    worker = Worker(given["worker_url"], world, world.database, concurrency=2, poll_seconds=0.05)
    await worker.start()
    await asyncio.Event().wait()


def main() -> None:
    """Fork a worker whenever there is none, until standard input ends."""
    given = json.loads(sys.argv[1])
    child = 0
    while not select.select([sys.stdin], [], [], 0.01)[0]:
        if child and os.waitpid(child, os.WNOHANG)[0] == 0:
            continue
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            asyncio.run(work(given))
            os._exit(1)
    if child:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
