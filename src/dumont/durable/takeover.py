"""Go on with the workflows of a worker that died: its slot must be free twice, further apart than a reconnect.

A worker holds its slot by an advisory lock (`presence`). One that only lost its connection takes the slot again as soon
as the database answers; one that is dead does not. The engine gives every workflow to one owner at a time, and a
frozen worker that thaws finds at its next step that the owner is another one, and stops.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from dumont.durable.presence import Presence

log = structlog.get_logger()
LOOK_SECONDS = 0.5
APART_SECONDS = 3.0


class TakeOver:
    """Looks for dead workers' unfinished work and has it queued again.

    `pending` names the executors that hold unfinished workflows; `recover` queues one executor's workflows again.
    """

    def __init__(
        self,
        presence: Presence,
        pending: Callable[[], Awaitable[set[str]]],
        recover: Callable[[str], Awaitable[int]],
    ) -> None:
        self._presence = presence
        self._pending = pending
        self._recover = recover
        self._free_since: dict[str, float] = {}

    async def run(self) -> None:
        """Look again and again; an error is logged and the next look tries again."""
        while True:
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - the watch outlives every error; each is logged
                log.warning("take-over will look again", error=repr(error))
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> list[str]:
        """Look once; returns the executors whose work was queued again now."""
        others = await self._pending() - {self._presence.executor}
        self._free_since = {name: at for name, at in self._free_since.items() if name in others}
        taken = []
        for executor in sorted(others):
            if await self._dead(executor):
                count = await self._recover(executor)
                log.warning("took over from a dead worker", executor=executor, workflows=count)
                del self._free_since[executor]
                taken.append(executor)
        return taken

    async def _dead(self, executor: str) -> bool:
        if not await self._presence.is_free(executor):
            self._free_since.pop(executor, None)
            return False
        now = time.monotonic()
        return now - self._free_since.setdefault(executor, now) >= APART_SECONDS
