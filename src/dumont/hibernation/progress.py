"""Tell people how far a save or restore is, from callbacks that must not wait."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from dumont.agent import Progress
from dumont.durable import Run


@asynccontextmanager
async def telling(run: Run, step: str) -> AsyncIterator[Callable[[Progress], None]]:
    """Yield a callback that remembers the newest progress; it is written about three times a second."""
    newest: list[Progress] = []

    async def write() -> None:
        told: Progress | None = None
        while True:
            await asyncio.sleep(0.35)
            if newest and newest[-1] is not told:
                told = newest[-1]
                newest[:] = [told]
                await run.progress(step, done=told.bytes_done, total=told.bytes_total, detail=told.phase)

    task = asyncio.create_task(write())
    try:
        yield newest.append
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
