"""A worker that is frozen with an answer of the marketplace in its hands, and thaws when others have gone on."""

import builtins
from collections.abc import Awaitable, Callable
from dataclasses import replace

from tests.support.world import DOUBT_DELAYS, Stage

from dumont.instances import World
from dumont.providers import Machine, MachineState, RentRequest, VastProvider

Meanwhile = Callable[[], Awaitable[None]]


class _Freezing(VastProvider):
    """The sandbox, asked by a worker that is frozen once after one of its calls."""

    call = ""
    after = 1
    meanwhile: Meanwhile | None = None

    async def list(self) -> builtins.list[Machine]:
        found = await super().list()
        await self._freeze("list")
        return found

    async def get(self, machine_id: str) -> Machine | None:
        found = await super().get(machine_id)
        if found is not None and found.state is MachineState.RUNNING:
            await self._freeze("get")
        return found

    async def rent(self, request: RentRequest) -> str:
        rented = await super().rent(request)
        await self._freeze("rent")
        return rented

    async def stop(self, machine_id: str) -> None:
        await super().stop(machine_id)
        await self._freeze("stop")

    async def _freeze(self, call: str) -> None:
        if call == self.call:
            self.after -= 1
            if self.after == 0 and self.meanwhile is not None:
                await self.meanwhile()


def frozen(stage: Stage, call: str, meanwhile: Meanwhile, *, after: int = 1) -> World:
    """Return the world of a worker that is frozen when `list`, `get` (of what runs), `rent` or `stop` was answered.

    `after` so many such answers it stands still until `meanwhile` is over.
    """
    sandbox = stage.sandbox
    provider = _Freezing("sandbox", sandbox.url, sandbox.key, doubt_delays=DOUBT_DELAYS, enforce_gaps=False)
    provider.call, provider.meanwhile, provider.after = call, meanwhile, after
    return replace(stage.world, providers={"sandbox": provider})
