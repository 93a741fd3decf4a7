"""The stage of the workflows' tests, and what the tests of the watch ask again and again."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.support.world import Stage
from tests.workflows.conftest import place, stage

from dumont.instances import Losses, Sweep

__all__ = ["place", "stage"]


class Watch:
    """The watch of one worker over a stage, looked through by hand."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.losses = Losses(stage.world)
        self.sweep = Sweep(stage.world)

    async def until(self, holds: Callable[[], Awaitable[Any]], *, seconds: float = 60) -> Any:
        """Look and sweep until something holds, and return it."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not (found := await holds()):
            assert asyncio.get_running_loop().time() < deadline, "it did not come true"
            await self.losses.look()
            await self.sweep.run()
            await asyncio.sleep(0.05)
        return found

    async def becomes(self, instance_id: str, status: str) -> None:
        """Look until an instance has that status."""

        async def there() -> bool:
            return (await self.stage.instance(instance_id)).status == status

        await self.until(there)

    async def rounds(self, number: int) -> None:
        """Look and sweep so often, far enough apart for an absence to be believed."""
        for _ in range(number):
            await self.losses.look()
            await self.sweep.run()
            await asyncio.sleep(0.08)

    async def news(self, topic: str, resource_id: str) -> list[dict[str, Any]]:
        """Read what was published about something under a topic."""
        found = await self.stage.rows(
            "SELECT data FROM outbox_event WHERE topic = %s AND resource_id = %s ORDER BY id", topic, resource_id
        )
        return [row[0] for row in found]

    def change(self, machine: str | None, state: str) -> None:
        """Start or stop a machine as a person does in the marketplace's console."""
        status, document = self.stage.sandbox.call("PUT", f"/api/v0/instances/{machine}/", {"state": state})
        assert status == 200, document


@pytest.fixture
def watch(stage: Stage) -> Watch:
    """The watch over the test's stage."""
    return Watch(stage)
