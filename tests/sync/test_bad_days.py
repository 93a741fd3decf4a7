"""Syncs on bad days: restic is killed, the way is cut, the store errs or is full, packs rot; no human is needed."""

import asyncio
import errno
import os
import random
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import pytest
from tests.workflows.engine import Trial

from dumont.durable import Operation
from dumont.instances import find_instance
from dumont.instances import service as instances
from dumont.snapshots import Vaults
from dumont.sync import begin_due
from dumont.sync.model import SyncGuarded
from dumont.vault import LocalStore

from .conftest import Machine, poll

pytestmark = pytest.mark.asyncio(loop_scope="module")
MB = 1 << 20
CANCEL = "UPDATE operation SET cancel_requested = true, status = 'cancelling' WHERE id = %s"


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def stored(machine: Machine, kind: str = "data") -> int:
    return sum(path.stat().st_size for path in (machine.store() / kind).rglob("*") if path.is_file())


def expect_problem(done: Operation, code: str) -> None:
    assert done.problem is not None and done.problem["code"] == code, done.problem


def running_restics(machine: Machine) -> list[int]:
    """The syncs of this machine: those of other tests run in other workspaces."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                here = (entry / "cwd").readlink() == machine.workspace
            except OSError:
                continue
            if here and words[0].endswith(b"restic") and b"backup" in words:
                found.append(int(entry.name))
    return found


@dataclass
class Trouble:
    """What the store's disk does: called for every file that it opens for writing."""

    strikes: Callable[[Path], int | None]
    met: int = 0

    def open(self, path: Path, mode: str) -> BinaryIO:
        number = self.strikes(path) if mode == "xb" else None
        if number is not None:
            self.met += 1
            raise OSError(number, os.strerror(number))
        return path.open(mode, buffering=0)  # type: ignore[return-value]


def troubled(machine: Machine, trouble: Trouble) -> AbstractAsyncContextManager[None]:
    """Let the worker's store have a bad disk for a while."""
    return kept_in(machine, lambda root: LocalStore(root, opener=trouble.open))


@asynccontextmanager
async def kept_in(machine: Machine, store_at: Callable[[Path], LocalStore]) -> AsyncIterator[None]:
    """Let the worker have another store for a while."""
    world = machine.stage.world
    whole = world.vaults

    class Other(Vaults):
        def store(self, workspace_id: str) -> LocalStore:
            return store_at(self.root / workspace_id)

    world.vaults = Other(whole.root, whole.keyring, whole.gate_secret)
    try:
        yield
    finally:
        world.vaults = whole


@dataclass
class Half:
    """How much of a sync was taken, one pack after the other, and whether the rest may come."""

    turn: threading.Lock = field(default_factory=threading.Lock)
    go: threading.Event = field(default_factory=threading.Event)
    taken: int = 0


class HalfTaken(LocalStore):
    """A store that takes packs up to 20 MB, and whatever comes then only when it is let go."""

    def __init__(self, root: Path, half: Half) -> None:
        super().__init__(root)
        self.half = half

    def put_stream(self, name: str, pieces: Iterable[bytes]) -> None:
        """Store an object, or wait."""
        if name.startswith("locks/"):
            return super().put_stream(name, pieces)
        with self.half.turn:
            assert self.half.taken <= 20 * MB or self.half.go.wait(60)
            super().put_stream(name, pieces)
            self.half.taken += self.size(name) or 0


@pytest.mark.checklist("SYNC-11")
async def test_a_killed_restic_costs_nothing_twice(machine: Machine) -> None:
    """kill -9 in the middle leaves a lock and packs without an index: the next sync needs neither a human nor to send
    those packs again, and everything can be read back."""
    machine.write("first", "first")
    await machine.sync()
    machine.write("model.bin", noise(44 * MB, 1))
    before = stored(machine)
    run = await machine.begin()
    half = Half()
    async with kept_in(machine, lambda root: HalfTaken(root, half)):
        task = asyncio.create_task(machine.trial(run).run())
        await poll(lambda: stored(machine) - before > 20 * MB, what="two packs")
        (victim,) = running_restics(machine)
        os.kill(victim, signal.SIGKILL)
        half.go.set()
        expect_problem(await task, "sync-failed")
    left = stored(machine) - before
    assert stored(machine, "locks") > 0, "the dead restic took its lock away"
    assert (await machine.run(run.id)).status == "failed"
    again = await machine.sync()
    assert again.bytes_resumed is not None and again.bytes_resumed >= 20 * MB
    assert again.bytes_uploaded is not None and again.bytes_uploaded < 44 * MB - 0.9 * left, "packs were sent twice"
    assert stored(machine, "locks") == 0
    assert again.repository_bytes == stored(machine)
    _, checked = await machine.ended("check", read_data_percent=100)
    assert checked.result is not None and checked.result["ok"], checked.result


async def test_a_cut_way_is_taken_again(machine: Machine) -> None:
    """The connection breaks in the middle: the same sync goes on over a new one, and no second restic is left."""
    machine.write("cut.bin", noise(20 * MB, 2))
    machine.stage.sandbox.control.add_fault("ssh_drop", {"after_bytes": 10 * MB})
    trial = machine.trial(await machine.begin())
    done = await trial.run()
    assert done.status == "succeeded", (done.problem or {}).get("detail")
    assert next(step for step in done.steps if step["name"] == "upload")["attempts"] == 2
    assert done.result is not None and done.result["bytes_resumed"] > 0, "what had been sent was sent again"
    assert running_restics(machine) == []


async def test_a_cancelled_sync_ends_at_once(machine: Machine) -> None:
    """Somebody stops it: restic on the machine ends, no point was made, and it counts as no failure."""
    machine.write("stop.bin", noise(8 * MB, 3))
    await machine.configure(bandwidth_mbps_max=5.0)
    run = await machine.begin()
    task = asyncio.create_task(machine.trial(run).run())
    await poll(lambda: running_restics(machine), what="restic at work")
    await machine.stage.write(CANCEL, run.operation_id)
    done = await asyncio.wait_for(task, 60)
    assert done.status == "cancelled"
    assert running_restics(machine) == []
    found = await machine.run(run.id)
    assert (found.status, found.snapshot_id) == ("stopped", None)
    await machine.configure(bandwidth_mbps_max=None)


async def test_a_store_that_fails_for_a_while(machine: Machine) -> None:
    """The disk errs for some of the packs: restic asks again, and the sync ends well."""
    machine.write("while.bin", noise(20 * MB, 4))
    trouble = Trouble(lambda path: errno.EIO if trouble.met < 2 else None)
    async with troubled(machine, trouble):
        run = await machine.sync()
    assert trouble.met == 2 and run.status == "ready"


async def test_a_full_store_says_so_and_goes_on_later(machine: Machine) -> None:
    """No room: the sync ends soon and says what to do, points stay readable, and with room the next one succeeds."""
    good = await machine.sync()
    machine.write("full.bin", noise(8 * MB, 5))
    run = await machine.begin()
    async with troubled(machine, Trouble(lambda path: errno.ENOSPC)):
        done = await asyncio.wait_for(machine.trial(run).run(), 60)
    expect_problem(done, "storage-unreachable")
    assert done.problem is not None and "Free some space" in done.problem["detail"]
    assert running_restics(machine) == []
    (machine.workspace / "first").unlink()
    assert (await machine.restore(good, "first")).status == "succeeded"
    assert (await machine.sync()).status == "ready"


async def test_a_repository_whose_making_was_cut_off(machine: Machine) -> None:
    """Keys without a config, which is where a crash leaves a new repository, are no obstacle."""
    for path in machine.workspace.glob("*.bin"):
        path.unlink()
    whole, aside = machine.store(), machine.store().parents[1] / "aside"
    whole.rename(aside)
    store = LocalStore(whole)
    (key,) = (aside / "keys").iterdir()
    store.put(f"keys/{key.name}", key.read_bytes())
    store.put("locks/" + "ab" * 32, b"a lock of nobody")
    gone = "UPDATE sync_run SET status = 'failed', forgotten_at = now(), pruned_at = now() WHERE kind = 'sync'"
    await machine.stage.write(gone)
    assert (await machine.sync()).status == "ready"
    assert len(list((whole / "keys").iterdir())) == 1


async def test_paths_that_hold_nothing(machine: Machine) -> None:
    """Nothing there yet is no failure and no point; nothing there any more trips the guard."""
    await machine.configure(paths=["only.txt"])
    run, done = await machine.ended()
    expect_problem(done, "sync-empty")
    assert run.status == "stopped"
    machine.write("only.txt", "1")
    await machine.sync()
    (machine.workspace / "only.txt").unlink()
    _, done = await machine.ended()
    expect_problem(done, "sync-empty")
    with pytest.raises(SyncGuarded):
        await machine.begin()
    await machine.release()
    machine.write("only.txt", "2")
    assert (await machine.sync()).status == "ready"
    await machine.configure(paths=["."])


async def test_rot_is_found_and_named(machine: Machine) -> None:
    """One flipped bit in a pack is found by a full check and said; a check of the structure alone does not see it."""
    machine.write("rot.bin", noise(2 * MB, 6))
    await machine.sync()
    packs = [path for path in (machine.store() / "data").rglob("*") if path.is_file()]
    pack = max(packs, key=lambda path: path.stat().st_size)
    content = bytearray(pack.read_bytes())
    content[len(content) // 3] ^= 1
    pack.write_bytes(content)
    _, done = await machine.ended("check", read_data_percent=100)
    assert done.result is not None and done.result["ok"] is False
    assert pack.name[:8] in " ".join(done.result["errors"]), done.result
    content[len(content) // 3] ^= 1
    pack.write_bytes(content)
    _, done = await machine.ended("check", read_data_percent=100)
    assert done.result is not None and done.result["ok"], done.result


@pytest.mark.checklist("SYNC-01")
async def test_syncs_come_due_by_themselves(machine: Machine) -> None:
    """A schedule begins what is due once; not before its time, not twice, and later after a failure."""
    world, now = machine.stage.world, machine.stage.world.clock.now()
    runs = "SELECT id, operation_id FROM sync_run WHERE kind = 'sync' AND finished_at IS NULL"
    due = "UPDATE sync_policy SET next_run_at = now() - interval '1 second'"
    await begin_due(world, now)
    assert await machine.stage.rows(runs) == [], "nobody has asked for it"
    await machine.configure(enabled=True, interval_seconds=60)
    await asyncio.gather(begin_due(world, now), begin_due(world, now))
    ((run_id, operation_id),) = await machine.stage.rows(runs)
    await begin_due(world, now)
    assert await machine.stage.rows(runs) == [(run_id, operation_id)]
    run = await machine.run(run_id)
    done = await machine.trial(run).run()
    assert done.status == "succeeded", (done.problem or {}).get("detail")
    await begin_due(world, now)
    assert await machine.stage.rows(runs) == [], "it is not due yet"
    gaps = []
    for _ in range(2):
        await machine.stage.write(due)
        await begin_due(world, now)
        ((run_id, _),) = await machine.stage.rows(runs)
        async with troubled(machine, Trouble(lambda path: errno.ENOSPC)):
            expect_problem(await machine.trial(await machine.run(run_id)).run(), "storage-unreachable")
        gap = "SELECT extract(epoch FROM next_run_at - now()) FROM sync_policy WHERE instance_id = %s"
        gaps += [float(row[0]) for row in await machine.stage.rows(gap, machine.instance_id)]
    assert 60 < gaps[0] <= 120 < gaps[1] <= 240, gaps
    await machine.configure(enabled=False)
    await machine.stage.write(due)
    await begin_due(world, now)
    assert await machine.stage.rows(runs) == []


async def test_what_was_forgotten_is_pruned_once_a_day(machine: Machine) -> None:
    """The same schedule gives the room of forgotten points back, a day after the last time."""
    runs = "SELECT id, operation_id FROM sync_run WHERE kind = 'prune' AND finished_at IS NULL"
    await machine.stage.write("UPDATE sync_policy SET guard_run_id = NULL, pruned_at = NULL")
    await machine.configure(keep_last=1)
    machine.write("first", "once more")
    await machine.sync()
    world = machine.stage.world
    await begin_due(world, world.clock.now())
    ((run_id, _),) = await machine.stage.rows(runs)
    done = await machine.trial(await machine.run(run_id)).run()
    assert done.status == "succeeded", (done.problem or {}).get("detail")
    assert len(list((machine.store() / "snapshots").iterdir())) == 1
    machine.write("first", "and again")
    await machine.sync()
    await begin_due(world, world.clock.now())
    assert await machine.stage.rows(runs) == [], "it was pruned a moment ago"


async def test_a_machine_that_goes_to_sleep_ends_its_sync(machine: Machine) -> None:
    """A pause does not wait for a sync: the sync ends with the machine, without a point, and counts as no failure."""
    machine.write("sleep.bin", noise(8 * MB, 7))
    await machine.configure(bandwidth_mbps_max=5.0)
    run = await machine.begin()
    task = asyncio.create_task(machine.trial(run).run())
    await poll(lambda: running_restics(machine), what="restic at work")
    async with machine.stage.world.session(machine.stage.person.team_id) as session:
        instance = await find_instance(session, machine.instance_id, lock=True)
        pausing = await instances.pause(session, instance, user_id=machine.stage.person.user_id)
    assert pausing is not None
    assert (await Trial(machine.stage, pausing.id).run()).status == "succeeded"
    expect_problem(await asyncio.wait_for(task, 60), "wrong-state")
    assert (await machine.run(run.id)).status == "stopped"
    failures = "SELECT consecutive_failures FROM sync_policy WHERE instance_id = %s"
    assert await machine.stage.rows(failures, machine.instance_id) == [(0,)]
    assert running_restics(machine) == []
