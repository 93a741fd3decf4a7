"""A hibernation that is cancelled while bytes are on their way ends then, not when all are stored."""

import asyncio
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tests.support.world import Stage

from dumont.snapshots import Vaults
from dumont.vault import LocalStore, Store

from .engine import Trial
from .scenarios import check_running, hibernate, running


class WaitingStore(LocalStore):
    """A store that takes a pack only when it is let go."""

    asked, go = threading.Event(), threading.Event()

    def put_stream(self, name: str, chunks: Iterable[bytes]) -> None:
        """Store an object, late."""
        self.asked.set()
        assert self.go.wait(60)
        super().put_stream(name, chunks)


class WaitingVaults(Vaults):
    """Vaults whose store takes its time."""

    def store(self, workspace_id: str) -> Store:
        """Return the waiting store of a workspace."""
        return WaitingStore(Path(self.root) / workspace_id)


async def test_a_save_under_way_is_given_up_when_somebody_cancels(stage: Stage) -> None:
    """The instance runs on as it was, nothing was committed, and the next hibernation works."""
    case = await running(stage, None)
    prompt = replace(stage.world.vaults)
    stage.world.vaults = WaitingVaults(prompt.root, prompt.keyring, prompt.gate_secret)
    work = asyncio.create_task(Trial(stage, await hibernate(stage, case)).run())
    try:
        assert await asyncio.to_thread(WaitingStore.asked.wait, 60)
        found = await stage.rows("SELECT id FROM operation ORDER BY id DESC LIMIT 1")
        await stage.write(
            "UPDATE operation SET cancel_requested = true, status = 'cancelling' WHERE id = %s", found[0][0]
        )
        operation = await asyncio.wait_for(work, 60)
    finally:
        WaitingStore.go.set()
    assert ((operation.problem or {}).get("code"), operation.status) == ("cancelled", "cancelled")
    await check_running(stage, case)
    assert {row[0] for row in await stage.rows("SELECT status FROM snapshot")} == {"failed"}
    stage.world.vaults = prompt
    again = await Trial(stage, await hibernate(stage, case)).run()
    assert again.status == "succeeded", again.problem
