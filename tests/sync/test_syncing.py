"""Syncs of a running instance by a real restic on its machine: what is sent, kept, found again and brought back."""

import asyncio
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from dumont.sync.model import SyncGuarded
from dumont.sync.restic import password_of

from .conftest import Machine, poll

pytestmark = pytest.mark.asyncio(loop_scope="module")
MB = 1 << 20


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


async def listed(machine: Machine, point: Any, path: str = ".") -> dict[str, Any]:
    """List a folder of a point: path to size."""
    _, done = await machine.ended("list", snapshot_id=point.snapshot_id, path=path, limit=1000)
    assert done.status == "succeeded", (done.problem or {}).get("detail")
    assert done.result is not None
    return {entry["path"]: entry["size"] for entry in done.result["entries"]}


@pytest.mark.checklist("SNAP-02", "SYNC-02", "SYNC-05", "SYNC-07", "SYNC-08", "SYNC-09")
async def test_only_what_is_new_is_sent(machine: Machine, request: pytest.FixtureRequest) -> None:
    """The first sync sends everything in little memory of ours, a second nothing, a change itself, and a copy of a
    file nearly nothing."""
    size, count = (1500 * MB, 8000) if request.config.getoption("--long") else (128 * MB, 1200)
    for number in range(count):
        machine.write(f"src/part{number % 6}/file{number}.py", f"number = {number}\n" * 50)
    with (machine.workspace / "weights.bin").open("wb") as stream:
        for number in range(0, size, 4 * MB):
            stream.write(noise(4 * MB, number))
    machine.write(".dumont-left/over", "nothing of ours is synced")
    Path("/proc/self/clear_refs").write_text("5")
    held = _peak()
    first = await machine.sync()
    assert _peak() - held < 112 * MB, "what is sent must not be held in memory"
    assert first.files_new == count + 1 and first.files_total == count + 1 and first.parent_id is None
    assert first.bytes_uploaded is not None and first.bytes_uploaded > size
    packs = sum(path.stat().st_size for path in (machine.store() / "data").rglob("*") if path.is_file())
    assert first.repository_bytes == packs
    again = await machine.sync()
    assert (again.files_new, again.files_changed, again.files_unmodified) == (0, 0, count + 1)
    assert again.bytes_uploaded is not None and again.bytes_uploaded < 100_000
    assert again.parent_id == first.snapshot_id
    machine.write("src/part1/file1.py", "changed = True\n")
    shutil.copy(machine.workspace / "weights.bin", machine.write("copy/weights.bin", ""))
    third = await machine.sync()
    assert (third.files_new, third.files_changed, third.files_unmodified) == (1, 1, count)
    assert third.bytes_uploaded is not None and third.bytes_uploaded < MB, "a copy was sent again"
    assert third.bytes_read is not None and third.bytes_read > 2 * size
    assert first.seconds and again.seconds
    print(f"first {first.seconds:.1f} s, nothing new {again.seconds:.2f} s: {first.seconds / again.seconds:.1f} times")
    shutil.rmtree(machine.workspace / "copy")
    (machine.workspace / "weights.bin").unlink()


def _peak() -> int:
    """The most memory that this process has held since it was last asked to forget."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


@pytest.mark.checklist("SYNC-03", "SYNC-06", "SYNC-04", "SYNC-10")
async def test_every_point_can_be_seen_and_brought_back(machine: Machine) -> None:
    """Three states of a file are three points; each is listed as it was, and chosen paths come back exactly."""
    shown = []
    for text in ("one", "two words", "three"):
        machine.write("notes/état [1]*.txt", text)
        machine.write("notes/other.txt", f"beside {text}")
        shown.append(await machine.sync())
    for point, size in zip(shown, (3, 9, 5), strict=True):
        found = await listed(machine, point, "notes")
        assert found["notes/état [1]*.txt"] == size, found
    path, other = machine.workspace / "notes/état [1]*.txt", machine.workspace / "notes/other.txt"
    done = await machine.restore(shown[1], "notes/état [1]*.txt")
    assert done.status == "succeeded", (done.problem or {}).get("detail")
    assert path.read_text() == "two words" and other.read_text() == "beside three", "more than was chosen came back"
    path.unlink()
    done = await machine.restore(shown[0], "notes", to="found again")
    assert done.status == "succeeded", (done.problem or {}).get("detail")
    back = machine.workspace / "found again/notes"
    assert {p.name: p.read_text() for p in back.iterdir()} == {path.name: "one", "other.txt": "beside one"}
    assert not path.exists() and not list(machine.workspace.glob(".dumont-restore*"))


async def test_a_whole_point_comes_back(machine: Machine) -> None:
    """All of a point takes the place of what is there under the same names; what else is there stays."""
    machine.write("whole/a", "a")
    (machine.workspace / "whole/link").symlink_to("a")
    machine.write(".hidden", "hidden")
    point = await machine.sync()
    machine.write("whole/a", "changed")
    machine.write("later", "later")
    (machine.workspace / ".hidden").unlink()
    done = await machine.restore(point, ".")
    assert done.status == "succeeded", (done.problem or {}).get("detail")
    assert (machine.workspace / "whole/a").read_text() == "a"
    assert (machine.workspace / "whole/link").readlink() == Path("a")
    assert (machine.workspace / ".hidden").read_text() == "hidden"
    assert (machine.workspace / "later").read_text() == "later"


async def test_what_a_point_does_not_have_changes_nothing(machine: Machine) -> None:
    """A path that is not there is said to be missing, and no other path of the same wish is touched."""
    machine.write("there", "old")
    point = await machine.sync()
    machine.write("there", "new")
    done = await machine.restore(point, "there", "missing")
    assert done.problem is not None and done.problem["code"] == "sync-point-not-found", done.problem
    assert (machine.workspace / "there").read_text() == "new"
    _, listing = await machine.ended("list", snapshot_id=point.snapshot_id, path="missing", limit=10)
    assert listing.problem is not None and listing.problem["code"] == "sync-point-not-found"


async def test_secrets_are_in_no_command_line(machine: Machine) -> None:
    """While restic runs, no process of this computer has a password, ours or the session's, among its arguments."""
    await machine.configure(bandwidth_mbps_max=40.0)
    machine.write("slow.bin", noise(6 * MB, 2))
    run = await machine.begin()
    task = asyncio.create_task(machine.trial(run).run())
    seen = await poll(_restic_arguments, what="restic on the machine")
    texts = [seen]
    while not task.done():
        texts.append(_arguments())
        await asyncio.sleep(0.2)
    assert (await task).status == "succeeded"
    await machine.configure(bandwidth_mbps_max=None)
    password = password_of(machine.stage.world.vaults, (await machine.run(run.id)).workspace_id)
    assert all(password not in text and "rest:http" not in text for text in texts)
    assert any("backup" in text for text in texts), "restic was never seen at work"


def _restic_arguments() -> str | None:
    found = _arguments()
    return found if "restic" in found and "backup" in found else None


def _arguments() -> str:
    texts = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                texts.append((entry / "cmdline").read_bytes().decode(errors="replace"))
            except OSError:
                continue
    return "\n".join(texts)


@pytest.mark.checklist("SYNC-01")
async def test_a_policy_says_what_is_synced(machine: Machine) -> None:
    """Paths and patterns narrow what is synced; what lies outside the workspace is refused."""
    machine.write("chosen/keep.txt", "keep")
    machine.write("chosen/skip.tmp", "skip")
    machine.write("chosen/cache/x", "skip")
    await machine.configure(paths=["chosen"], exclude=["*.tmp", "/chosen/cache"])
    point = await machine.sync()
    await machine.configure(paths=["."], exclude=[])
    assert await listed(machine, point, ".") == {"chosen": None}
    assert await listed(machine, point, "chosen") == {"chosen/keep.txt": 4}
    back = await machine.sync()
    assert back.status == "ready"


async def test_retention_is_ours(machine: Machine) -> None:
    """Beyond the newest few, points are forgotten, and pruning gives their room back; the others stay whole."""
    machine.write("big.bin", noise(6 * MB, 3))
    await machine.sync()
    machine.write("big.bin", noise(6 * MB, 4))
    await machine.configure(keep_last=2)
    await machine.sync()
    last = await machine.sync()
    await machine.configure(keep_last=10)
    there = sorted((machine.store() / "snapshots").iterdir())
    _, tried = await machine.ended("prune", dry_run=True)
    assert tried.result is not None and tried.result["dry_run"], tried.problem
    assert sorted((machine.store() / "snapshots").iterdir()) == there, "a dry run takes nothing away"
    _, done = await machine.ended("prune")
    assert done.status == "succeeded", (done.problem or {}).get("detail")
    assert done.result is not None and done.result["bytes_freed"] > 5 * MB, done.result
    assert tried.result["forgotten"] == done.result["forgotten"]
    assert abs(tried.result["bytes_freed"] - done.result["bytes_freed"]) < MB, "it said so before"
    snapshots = [path.name for path in (machine.store() / "snapshots").iterdir()]
    assert len(snapshots) == 2 and last.snapshot_id in snapshots
    _, checked = await machine.ended("check", read_data_percent=100)
    assert checked.result is not None and checked.result["ok"], checked.result
    assert checked.result["snapshots"] == 2


async def test_the_guard_stops_when_files_vanish(machine: Machine) -> None:
    """A sync in which most files are gone is held and told of, nothing is synced by itself, until it is accepted."""
    for number in range(40):
        machine.write(f"many/{number}", str(number))
    await machine.configure(paths=["many"], deletion_guard_percent=20)
    good = await machine.sync()
    for number in range(40):
        (machine.workspace / f"many/{number}").unlink()
    held = await machine.sync()
    assert held.status == "held" and held.files_vanished is not None and held.files_vanished >= 40
    told = await machine.stage.rows("SELECT data FROM outbox_event WHERE topic = 'sync.guarded'")
    assert [row["files_vanished"] for (row,) in told] == [held.files_vanished]
    with pytest.raises(SyncGuarded):
        await machine.begin()
    done = await machine.restore(good, "many")
    assert done.status == "succeeded" and len(list((machine.workspace / "many").iterdir())) == 40
    await machine.release()
    after = await machine.sync()
    assert after.status == "ready" and after.files_total == good.files_total
    await machine.configure(paths=["."], deletion_guard_percent=50)
