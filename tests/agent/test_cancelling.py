"""Work that is given up midway leaves nothing half-visible, and the agent goes on to the next."""

import asyncio
import random
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from dumont.vault import LocalStore

from .conftest import eventually

Look = Callable[[Path], dict[str, tuple[object, ...]]]
TELLING = """
import dumont.agent.main as agent, dumont.vault.packs as packs
packs.PACK_TARGET_BYTES = 1 << 20
plain = agent.Session._give_up
def telling(self, number):
    plain(self, number)
    open('given up', 'w').close()
agent.Session._give_up = telling
agent.main()
"""
"""An agent of small packs that leaves a file in its home once it has heard that something is given up."""


class Waiting(LocalStore):
    """A store that answers machines only when it is let go."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked, self.go = threading.Event(), threading.Event()

    def put_stream(self, name: str, chunks: Iterable[bytes]) -> None:
        """Store an object, late."""
        self._wait()
        super().put_stream(name, chunks)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Read an object, late."""
        self._wait()
        return super().get(name, offset, length)

    def _wait(self) -> None:
        self.asked.set()
        assert self.go.wait(60)


async def given_up(task: "asyncio.Task[Any]", store: Waiting, home: Path) -> None:
    """Cancel a task whose agent waits for the store, then let the store go when the agent has heard of it."""
    assert await asyncio.to_thread(store.asked.wait, 60)
    task.cancel()
    await eventually((home / "given up").exists, 60)
    store.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_save_that_is_given_up_is_no_snapshot(vault: Any, machines: Any) -> None:
    """The agent stops storing, the wire stays, and the next save over it takes up what is stored."""
    machine = machines("first")
    (machine.workspace / "big").write_bytes(random.Random(1).randbytes(24 << 20))
    link = await machine.link(TELLING)
    vault.gate.store = store = Waiting(vault.store.root)
    await given_up(asyncio.create_task(vault.save(link)), store, machine.home)
    assert vault.repository.snapshots() == []
    assert len(vault.repository.packs_in_store()) <= 8
    saved = await vault.save(link)
    assert vault.reopened().verify(saved.name).chunks_checked == saved.chunks
    told = [now for now in vault.progress if now.phase == "save"]
    assert told[-1].bytes_done == told[-1].bytes_total == 24 << 20
    assert told[-1].bytes_new >= told[-1].bytes_stored > 0


async def test_a_restore_that_is_given_up_leaves_the_target_as_it_was(
    vault: Any, machines: Any, fill: Callable[[Path], None], look: Look, leftovers: Any
) -> None:
    """Nothing of ours stays in it, and the same agent can restore afterwards."""
    machine, other = machines("first"), machines("second")
    fill(machine.workspace)
    saved = await vault.save(await machine.link())
    (other.workspace / "old").write_text("old")
    before = look(other.workspace)
    back = await other.link(TELLING)
    vault.gate.store = store = Waiting(vault.store.root)
    await given_up(asyncio.create_task(vault.restore(back, saved.name)), store, other.home)
    assert (look(other.workspace), leftovers(other.workspace)) == (before, [])
    await vault.restore(back, saved.name)
    assert look(other.workspace) == look(machine.workspace)
