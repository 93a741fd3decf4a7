"""kill -9 at any point of a save or a restore: no committed snapshot is lost, and no tree is ever a mixture.

The agent's work runs in a process forked from this warm one and dies before or after one of its calls that change
something; which one, a seed says. Then the next one comes, settles what it finds, and must succeed without a person.
"""

import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from tests.agent.conftest import own_leftovers, picture

from dumont.agent.exchange import recover
from dumont.agent.pipeline import Packer
from dumont.agent.restore import load_plan, restore_tree
from dumont.agent.save import save_tree
from dumont.agent.seen import Seen
from dumont.agent.workspace import _plan
from dumont.vault import Choice, KeyRing, LocalStore, Manifest, Repository, pack_name, unpack_columns

CHANGING = (
    *("open", "pwrite", "rename", "replace", "link", "symlink", "mkdir", "unlink", "rmdir"),
    *("chmod", "utime", "truncate", "fsync", "chown"),
)
KEYRING = KeyRing(b"s" * 32)
POINTS, MANY = 20, 120


class Packs:
    """The way to the packs of a store in the same process."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store

    def put(self, pack: bytes, data: memoryview) -> None:
        self._store.put_stream(pack_name(pack), (bytes(data),))

    def reader(self, pack: bytes, _: int) -> Callable[[int, memoryview], None]:
        def fill(offset: int, room: memoryview) -> None:
            room[:] = self._store.get(pack_name(pack), offset, len(room))

        return fill


def save(home: Path) -> str:
    """Save the tree as agent and control plane do, one after the other, and return the snapshot's name."""
    store = LocalStore(home / "store")
    repository = Repository.open(store, "wsp", KEYRING)
    repository.adopt_left_packs(1)

    def stored(pack: bytes, _: int) -> None:
        repository.adopt_packs([pack], 1)

    blobs: Any = Packs(store)
    packer = Packer(repository.sealer, repository.reusable_chunks(), blobs, lambda: os.urandom(16), stored)
    seen = Seen(str(home / "seen"), "test")
    try:
        _, report = save_tree(os.fsencode(home / "tree"), [], [], packer, seen, lambda _: None)
    finally:
        packer.close()
    entries = unpack_columns(msgpack.unpackb(report)["entries"])
    return repository.commit(Manifest("", None, "test", "/", "", 1, b"", entries)).name


def restore(home: Path, name: str, choice: Choice | None = None) -> None:
    """Restore a snapshot into the target as the agent does, which settles first what an earlier one left."""
    store = LocalStore(home / "store")
    repository = Repository.open(store, "wsp", KEYRING)
    root = os.fsencode(home / "target")
    recover(root)
    plan = load_plan(_plan(repository, name, choice)[1])
    blobs: Any = Packs(store)
    restore_tree(root, plan, repository.sealer, blobs, Seen(str(home / "seen-target"), "test"), lambda _: None)


def killed(act: Callable[[], object], at: int, *, after: bool) -> tuple[bool, int]:
    """Run an act in a fork that dies at its n-th changing call; return whether it died, and how many calls it made."""
    with tempfile.TemporaryFile() as counted:
        child = os.fork()
        if child == 0:
            try:
                _deadly(at, after, counted.fileno())
                act()
                os._exit(0)
            finally:
                os._exit(1)
        deadline = time.monotonic() + 60
        while (done := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                raise AssertionError("the killed one does not end")
            time.sleep(0.002)
        code = os.waitstatus_to_exitcode(done[1])
        assert code in (0, -signal.SIGKILL), f"it ended with {code}"
        return code != 0, os.fstat(counted.fileno()).st_size


def _deadly(at: int, after: bool, counted: int) -> None:
    write = os.write
    made = 0

    def guard(plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal made
            made += 1
            mine = made
            write(counted, b".")
            if mine == at and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = plain(*args, **kwargs)
            if mine == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for name in CHANGING:
        setattr(os, name, guard(getattr(os, name)))


def new_tree(root: Path, seed: int) -> None:
    """Write a small tree with something of each kind."""
    draw = random.Random(seed)
    (root / "models").mkdir(parents=True)
    (root / "models" / "big").write_bytes(draw.randbytes(600_000))
    (root / "models" / "locked").mkdir()
    (root / "models" / "locked" / "f").write_bytes(draw.randbytes(100))
    (root / "models" / "locked").chmod(0o555)
    (root / f"only-{seed}").write_text(str(seed))
    (root / "run.sh").write_text(f"echo {seed}")
    (root / "link").symlink_to(f"only-{seed}")
    os.link(root / "run.sh", root / "models" / "hard")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A repository with one committed snapshot of a tree that has changed since."""
    Repository.create(LocalStore(tmp_path / "store"), "wsp", KEYRING)
    new_tree(tmp_path / "tree", 1)
    save(tmp_path)
    (tmp_path / "tree" / "models" / "big").write_bytes(random.Random(9).randbytes(700_000))
    return tmp_path


def points(seeds: range, most: int) -> Iterator[tuple[int, bool]]:
    """Yield places of death: spread over all calls, a little beyond too, each drawn by its seed."""
    for number, seed in enumerate(seeds):
        draw = random.Random(seed)
        low, high = most * number // len(seeds), most * (number + 1) // len(seeds)
        yield draw.randint(low + 1, max(low + 1, high)), draw.random() < 0.5


def kill_saves(home: Path, seeds: range) -> None:
    before = picture(home / "tree")
    (first,) = Repository.open(LocalStore(home / "store"), "wsp", KEYRING).snapshots()
    _, calls = killed(lambda: save(home), 0, after=False)
    deaths = 0
    for number, (at, after) in enumerate(points(seeds, calls)):
        (home / "tree" / "models" / "big").write_bytes(random.Random(number).randbytes(400_000))
        died, _ = killed(lambda: save(home), at, after=after)
        deaths += died
        repository = Repository.open(LocalStore(home / "store"), "wsp", KEYRING)
        names = repository.snapshots()
        assert names[0] == first
        for name in (first, names[-1]):
            assert repository.verify(name).files == 5
        assert list((home / "tree").glob(".dumont*")) == []
    assert deaths >= len(seeds) * 0.7
    repository = Repository.open(LocalStore(home / "store"), "wsp", KEYRING)
    assert repository.verify(save(home)).files == 5
    assert picture(home / "tree").keys() == before.keys()


def kill_restores(home: Path, seeds: range, choice: Choice | None = None) -> None:
    name = save(home)
    new_tree(home / "target", 2)
    old = picture_of(home, choice)
    (home / "target").rename(home / "kept")
    outcomes: list[str] = []

    def fresh() -> None:
        os.system(f"chmod -R u+w {home}/target 2>/dev/null; rm -rf {home}/target; cp -a {home}/kept {home}/target")

    fresh()
    _, calls = killed(lambda: restore(home, name, choice), 0, after=False)
    wanted = picture_of(home, choice)
    assert old != wanted and (choice is not None or wanted == picture(home / "tree"))
    for number, (at, after) in enumerate(points(seeds, calls)):
        fresh()
        died, _ = killed(lambda: restore(home, name, choice), at, after=after)
        recover(os.fsencode(home / "target"))
        found = picture_of(home, choice)
        assert found in (old, wanted), f"mixed after call {at}"
        outcomes += [f"died {died}", "old" if found == old else "new"]
        if number % 5 == 0:
            restore(home, name, choice)
            assert picture_of(home, choice) == wanted
            assert own_leftovers(home / "target") == []
    assert {"died True", "old", "new"} <= set(outcomes)
    assert outcomes.count("died True") >= len(seeds) * 0.7
    assert Repository.open(LocalStore(home / "store"), "wsp", KEYRING).verify(name).files == 5


def picture_of(home: Path, choice: Choice | None) -> dict[str, tuple[object, ...]]:
    """Return what is in the target; where only parts of it change, without the times of folders that stay."""
    found = picture(home / "target")
    if choice is None:
        return found
    return {path: (row[0], *row[2:]) if row[2] is None else row for path, row in found.items()}


def test_no_death_in_a_save_costs_a_snapshot(home: Path) -> None:
    """What was committed stays whole, half a save is no snapshot, and the next save succeeds."""
    kill_saves(home, range(POINTS))


@pytest.mark.checklist("SNAP-24")
def test_no_death_in_a_restore_leaves_a_mixture(home: Path) -> None:
    """Wholly the old tree or wholly the new one; the next restore succeeds and leaves nothing of ours."""
    kill_restores(home, range(POINTS))


PARTS = Choice(("models/big", "models/locked", "link", "only-1"), "", replace=True)


@pytest.mark.checklist("SNAP-20")
def test_no_death_in_a_restore_of_parts_leaves_a_mixture(home: Path) -> None:
    """Deep in folders that stay: all of the parts as they were before, or all of them restored."""
    kill_restores(home, range(2000, 2000 + POINTS // 2), PARTS)


@pytest.mark.long
def test_no_death_in_a_restore_of_parts_leaves_a_mixture_at_many_points(home: Path) -> None:
    """The same at so many points that each call is met before and after."""
    kill_restores(home, range(3000, 3000 + MANY), PARTS)


@pytest.mark.long
def test_no_death_in_a_save_costs_a_snapshot_at_many_points(home: Path) -> None:
    """The same at so many points that each call is met before and after."""
    kill_saves(home, range(1000, 1000 + MANY))


@pytest.mark.long
def test_no_death_in_a_restore_leaves_a_mixture_at_many_points(home: Path) -> None:
    """The same at so many points that each call is met before and after."""
    kill_restores(home, range(1000, 1000 + MANY))
