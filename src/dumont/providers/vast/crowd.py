"""Serve many looks at single machines with one listing: Vast lets single machines be asked for every two seconds only.

Guarantees: a look is answered by a listing that began after it, never by an earlier one; a machine that the listing
leaves out is for the caller to ask for by its number, so that absence is judged as ever.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from dumont.providers.contract import Machine, ProviderError

ENOUGH = 3
"""So many looks at once make a listing cheaper than asking one by one."""


class Crowd:
    """The looks that wait now. `listing` lists all machines, complete or with an error."""

    def __init__(self, listing: Callable[[], Awaitable[Sequence[Machine]]]) -> None:
        self._listing = listing
        self._looking = 0
        self._next: asyncio.Task[dict[str, Machine]] | None = None
        self._turn = asyncio.Lock()

    async def look(self, machine_id: str, single: Callable[[], Awaitable[Machine | None]]) -> Machine | None:
        """Return the machine from a shared listing where many look; else, or where that fails, from `single`."""
        self._looking += 1
        try:
            if self._looking >= ENOUGH:
                found = (await self._shared()).get(machine_id)
                if found is not None:
                    return found
            return await single()
        finally:
            self._looking -= 1

    async def _shared(self) -> dict[str, Machine]:
        """Wait for the next listing to begin, together with all who come before that, and return it."""
        if self._next is None:
            self._next = asyncio.create_task(self._list())
        try:
            return await asyncio.shield(self._next)
        except ProviderError:
            return {}

    async def _list(self) -> dict[str, Machine]:
        async with self._turn:
            self._next = None  # who looks from here on needs a listing of his own
            return {machine.id: machine for machine in await self._listing()}
