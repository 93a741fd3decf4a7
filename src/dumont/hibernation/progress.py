"""Tell people how far a save or restore is, from callbacks that must not wait, and end it when they cancel."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from dumont.agent import Progress
from dumont.durable import Cancelled, DeadlineExceeded, Run

_EVERY_SECONDS = 0.35
_ASK_EVERY = 3
_SURE_SECONDS = 1.0


class Pace:
    """How quickly a phase goes, from what was told of it."""

    def __init__(self) -> None:
        self._phase = ""
        self._began = 0.0
        self._first = 0

    def take(self, told: Progress, now: float) -> dict[str, Any]:
        """Return the rate, the time left and the ratio; None where they are not known yet.

        Units: bytes in a second, seconds; `ratio` is what was new to what it takes in the store.
        """
        if told.phase != self._phase:
            self._phase, self._began, self._first = told.phase, now, told.bytes_done
        elapsed, moved = now - self._began, told.bytes_done - self._first
        rate = moved / elapsed if elapsed >= _SURE_SECONDS and moved > 0 else None
        left = None
        if rate is not None and told.bytes_total is not None:
            left = max(0.0, told.bytes_total - told.bytes_done) / rate
        ratio = told.bytes_new / told.bytes_stored if told.bytes_stored else None
        return {
            "bytes_second": rate and round(rate),
            "seconds_left": None if left is None else round(left, 1),
            "ratio": ratio and round(ratio, 3),
        }


_TURNED = "turned"


class Told:
    """What was told last of a piece of work; called with each progress."""

    def __init__(self, run: Run, step: str) -> None:
        self.newest: list[Progress] = []
        self.turned = run.marked(step, _TURNED)
        self._run, self._step = run, step

    def __call__(self, progress: Progress) -> None:
        self.newest.append(progress)

    async def turn(self) -> None:
        """Heed for the last time what somebody wishes: from here on the work goes to its end, also in later tries.

        Errors: Cancelled, DeadlineExceeded.
        """
        if not self.turned:
            await self._run.check()
            await self._run.mark(self._step, **{_TURNED: True})
            self.turned = True


@asynccontextmanager
async def telling(run: Run, step: str) -> AsyncIterator[Told]:
    """Yield a callback that remembers the newest progress; it is written about three times a second.

    Guarantees: somebody who cancels, or a deadline that passes, ends what is done within, unless it has turned.
    Errors: Cancelled, DeadlineExceeded.
    """
    told_last = Told(run, step)
    newest = told_last.newest
    work = asyncio.current_task()
    ended: list[Cancelled | DeadlineExceeded] = []

    async def write() -> None:
        told: Progress | None = None
        pace = Pace()
        rounds = 0
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            if newest and newest[-1] is not told:
                told = newest[-1]
                newest[:] = [told]
                figures = pace.take(told, time.monotonic())
                await run.progress(
                    step, done=told.bytes_done, total=told.bytes_total, detail=told.phase, figures=figures
                )
            rounds += 1
            if rounds % _ASK_EVERY == 0 and not told_last.turned:
                await run.check()

    def over(task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, (Cancelled, DeadlineExceeded)) and work is not None and not told_last.turned:
            ended.append(error)
            work.cancel()

    task = asyncio.create_task(write())
    task.add_done_callback(over)
    try:
        try:
            yield told_last
        finally:
            task.remove_done_callback(over)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    except asyncio.CancelledError:
        if not ended or work is None or work.uncancel():
            raise
        raise ended[0] from None
