"""What a hibernation does to a living workspace: frozen while it is read, whole afterwards, untouched on failure."""

import asyncio
import errno
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from tests.support.sandbox import wait_until
from tests.support.world import Stage, tree_digest

from dumont.instances import World
from dumont.snapshots import Vaults
from dumont.vault import LocalStore, Store

from .engine import Trial
from .scenarios import Case, check_asleep, check_running, hibernate, running, stopped, wake, workspace

COUNTER = (
    "cd workspace; nohup setsid sh -c 'n=0; while :; do n=$((n+1)); echo $n > counter.new; "
    "mv counter.new counter; echo $n >> log; sleep 0.01; done' >/dev/null 2>&1 </dev/null &"
)


@dataclass
class Looks:
    """Looks at the frozen workspace between the snapshot and the stop."""

    stage: Stage
    case: Case
    digest: str = ""
    frozen: int = 0

    async def __call__(self, when: str, name: str) -> str | None:
        if (when, name) == ("recorded", "commit"):
            folder = await workspace(self.stage, self.case.instance_id)
            rental = await self.stage.rental(self.case.instance_id)
            self.digest = tree_digest(folder)
            self.frozen = len(stopped(self.stage, int(rental.provider_machine_id or 0)))
            await asyncio.sleep(0.15)
            assert tree_digest(folder) == self.digest, "something wrote while the machine was frozen"
        return None


async def counting(stage: Stage) -> Case:
    """A running instance whose user has a process that never stops writing."""
    case = await running(stage, None)
    async with stage.login(case.instance_id) as hands:
        await hands.run(COUNTER, timeout=10)
    log = await workspace(stage, case.instance_id) / "log"
    await asyncio.to_thread(wait_until, lambda: log.exists() and log.stat().st_size > 20, what="the counter to count")
    case.digest = ""
    return case


@pytest.mark.checklist("HIB-10", "HIB-14", "HIB-18", "HIB-19", "HIB-21", "SNAP-17", "SNAP-18", "SNAP-19")
@pytest.mark.parametrize("then", ["keep", "destroy"])
async def test_a_writing_process_leaves_no_torn_state(stage: Stage, then: str) -> None:
    """The files that come back are those of one moment, at which the writing process stood still."""
    case = await counting(stage)
    looks = Looks(stage, case)
    operation = await Trial(stage, await hibernate(stage, case, then), looks).run()
    assert operation.status == "succeeded", operation.problem
    assert looks.frozen >= 1
    await check_asleep(stage, case, keeps=then == "keep")
    operation = await Trial(stage, await wake(stage, case)).run()
    assert operation.status == "succeeded", operation.problem
    assert (operation.result or {})["equal"] is True, operation.result
    case.digest = looks.digest
    await check_running(stage, case)
    folder = await workspace(stage, case.instance_id)
    lines = (folder / "log").read_text().split()
    assert lines == [str(number) for number in range(1, len(lines) + 1)]
    assert int((folder / "counter").read_text()) - len(lines) in (0, 1)


def _refuse_writing(path: Path, mode: str) -> BinaryIO:
    if mode == "xb":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    return path.open(mode, buffering=0)  # type: ignore[return-value]


class FullVaults(Vaults):
    """Vaults on a disk without room: writing fails where the store opens its files."""

    def store(self, workspace_id: str) -> Store:
        """Return the full store of a workspace."""
        return LocalStore(self.root / workspace_id, opener=_refuse_writing)


def _fill(world: World) -> None:
    world.vaults = FullVaults(world.vaults.root, world.vaults.keyring, world.vaults.gate_secret)


@pytest.mark.parametrize("known", [False, True], ids=["first", "later"])
async def test_a_full_store_stops_nothing(stage: Stage, known: bool) -> None:
    """No room for the snapshot: the machine runs on, its processes too, and the next try with room works."""
    case = await counting(stage)
    if known:
        await asyncio.to_thread(stage.world.vaults.repository, (await stage.instance(case.instance_id)).workspace_id)
    roomy = replace(stage.world.vaults)
    _fill(stage.world)
    operation = await Trial(stage, await hibernate(stage, case)).run()
    assert (operation.status, (operation.problem or {}).get("code")) == ("failed", "storage-unreachable")
    await check_running(stage, case)
    await _goes_on(stage, case)
    stage.world.vaults = roomy
    again = await Trial(stage, await hibernate(stage, case)).run()
    assert again.status == "succeeded", again.problem


async def _goes_on(stage: Stage, case: Case) -> None:
    counter = await workspace(stage, case.instance_id) / "log"
    before = counter.stat().st_size
    await asyncio.to_thread(wait_until, lambda: counter.stat().st_size > before, what="the counter to go on")


@dataclass
class FlipsABit:
    """Changes one bit of the largest pack between the save and its verification."""

    stage: Stage
    flipped: Path | None = None

    async def __call__(self, when: str, name: str) -> str | None:
        if (when, name) == ("recorded", "snapshot"):
            folder = self.stage.world.vaults.root
            packs = [path for path in folder.rglob("*") if path.is_file() and "data" in path.relative_to(folder).parts]
            newest = max(packs, key=lambda path: path.stat().st_mtime_ns)
            data = bytearray(newest.read_bytes())
            data[len(data) // 3] ^= 4
            newest.chmod(0o600)
            newest.write_bytes(data)
            self.flipped = newest
        return None


@pytest.mark.checklist("SNAP-17")
async def test_a_damaged_snapshot_stops_nothing(stage: Stage) -> None:
    """One flipped bit in the store is found before the machine is stopped; the machine runs on."""
    case = await running(stage, None)
    moment = FlipsABit(stage)
    operation = await Trial(stage, await hibernate(stage, case, "destroy"), moment).run()
    assert moment.flipped is not None
    assert (operation.status, (operation.problem or {}).get("code")) == ("failed", "snapshot-verification-failed")
    await check_running(stage, case)
    states = await stage.rows("SELECT status FROM snapshot WHERE instance_id = %s", case.instance_id)
    assert states == [("failed",)]


@pytest.mark.checklist("HIB-18", "SNAP-10", "SNAP-12", "SNAP-13")
async def test_a_second_snapshot_sends_the_changes_only(stage: Stage) -> None:
    """The first hibernation sends everything, the second what changed in between, and both are whole."""
    case = await running(stage, None)
    first = await _asleep_and_back(stage, case)
    assert first["bytes_new"] > 500_000
    folder = await workspace(stage, case.instance_id)
    async with stage.login(case.instance_id) as hands:
        await hands.put_bytes(b"a change\n" * 100, "workspace/note")
    case.digest = tree_digest(folder)
    second = await _asleep_and_back(stage, case)
    assert second["bytes_total"] > 500_000 and 0 < second["bytes_new"] <= 900
    await check_running(stage, case)


async def _asleep_and_back(stage: Stage, case: Case) -> dict[str, Any]:
    saved = await Trial(stage, await hibernate(stage, case)).run()
    assert saved.status == "succeeded", saved.problem
    woken = await Trial(stage, await wake(stage, case)).run()
    assert woken.status == "succeeded", woken.problem
    return dict(saved.result or {})
