"""A tree is told to be the same only while it is: every kind of change shows, and what cannot be told counts as one."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dumont.agent import still
from dumont.agent.still import Still
from dumont.agent.walk import mark_of, scan

YEAR_2001 = 10**18
COARSE = 5
"""The clock of file times on Linux; Python has no name for it."""


def make(root: Path) -> None:
    """Make a small tree with every kind of entry, a name that is no UTF-8 and a time before 1970, a tick ago."""
    (root / "a/b").mkdir(parents=True)
    (root / "empty").mkdir()
    for name in ("a/one", "a/b/two", "three", "other"):
        (root / name).write_text(name)
    os.link(root / "three", root / "linked")
    (root / "way").symlink_to("a/one")
    (root / os.fsdecode(b"odd-\xff")).touch()
    os.utime(root / "a/one", ns=(-1_500_000_000, -1_500_000_000))
    os.utime(root / "three", ns=(YEAR_2001, YEAR_2001))
    last = max(path.lstat().st_ctime_ns for path in root.rglob("*"))
    while time.clock_gettime_ns(COARSE) <= last:
        time.sleep(0.001)


def seen(root: Path) -> Still:
    scanned = scan(os.fsencode(root), lambda _: False)
    assert not scanned.errors
    return Still(scanned.found, scanned.names)


def holds(tree: Still, root: Path) -> bool:
    return tree.look(os.fsencode(root)).holds


def marks(root: Path) -> dict[bytes, tuple[int, ...]]:
    """Return what the kernel says of every path, one by one."""
    return {os.fsencode(path.relative_to(root)): mark_of(path.lstat()) for path in root.rglob("*")}


def rewrite(path: Path) -> None:
    """Other bytes of the same length, with the old time put back."""
    path.write_bytes(bytes(path.stat().st_size))
    os.utime(path, ns=(YEAR_2001, YEAR_2001))


def swap(root: Path) -> None:
    (root / "other").rename(root / "x")
    (root / "a/one").rename(root / "other")
    (root / "x").rename(root / "a/one")


def relink(root: Path) -> None:
    (root / "way").unlink()
    (root / "way").symlink_to("three")


def refill(root: Path) -> None:
    """The same folder name over another folder with the same names."""
    (root / "a/b").rename(root / "a/c")
    (root / "a/b").mkdir()
    (root / "a/c/two").rename(root / "a/b/two")
    (root / "a/c").rmdir()


CHANGES: dict[str, Callable[[Path], object]] = {
    "written": lambda root: rewrite(root / "three"),
    "longer": lambda root: (root / "a/b/two").write_text("longer than before"),
    "new": lambda root: (root / "empty/new").write_text(""),
    "gone": lambda root: (root / "other").unlink(),
    "swapped": swap,
    "another link": relink,
    "one more name": lambda root: os.link(root / "other", root / "a/again"),
    "mode": lambda root: (root / "a/one").chmod(0o640),
    "mode of a folder": lambda root: (root / "empty").chmod(0o700),
    "time": lambda root: os.utime(root / "other", ns=(5, 5)),
    "a file for a folder": lambda root: ((root / "empty").rmdir(), (root / "empty").write_text("")),
    "another folder": refill,
    "touched": lambda root: (root / "other").chmod((root / "other").stat().st_mode & 0o7777),
    "all gone": shutil.rmtree,
}


@pytest.mark.checklist("SNAP-13")
@pytest.mark.parametrize("name", CHANGES)
def test_every_change_shows(tmp_path: Path, name: str) -> None:
    """The tree holds as often as it is asked, and no more once anything at all has changed."""
    root = tmp_path / "tree"
    make(root)
    tree, before = seen(root), marks(root)
    assert holds(tree, root) and holds(tree, root)
    CHANGES[name](root)
    assert not holds(tree, root)
    same = {item.entry.path: item.mark for item in tree.look(os.fsencode(root)).same}
    assert same.items() == before.items() & marks(root).items()


def test_many_paths_and_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree of several blocks holds until its last file changes; an empty one until it has a file."""
    monkeypatch.setattr(still, "_BLOCK", 7)
    (tmp_path / "none").mkdir()
    (tmp_path / "many").mkdir()
    for number in range(7 * 3):
        (tmp_path / f"many/{number:02}").write_text("x")
    none, many = seen(tmp_path / "none"), seen(tmp_path / "many")
    assert holds(none, tmp_path / "none") and holds(many, tmp_path / "many")
    (tmp_path / "many/20").write_text("changed")
    (tmp_path / "none/one").write_text("")
    assert not holds(none, tmp_path / "none") and not holds(many, tmp_path / "many")
    assert [item.entry.path for item in many.look(os.fsencode(tmp_path / "many")).same] == [
        b"%02d" % number for number in range(20)
    ]


def test_without_the_kernels_answer_nothing_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old C library, and a kernel that refuses the question."""
    make(tmp_path / "tree")
    tree = seen(tmp_path / "tree")
    for answer in (None, lambda *_: -1):
        monkeypatch.setattr(still, "_statx", lambda answer=answer: answer)
        assert tree.look(os.fsencode(tmp_path / "tree"))[:2] == (False, [])


def test_what_comes_and_goes_between_look_and_list(tmp_path: Path) -> None:
    """A folder that the look found changed is listed anew: what came since is there, what went is not sought."""
    make(tmp_path)
    tree = seen(tmp_path)
    (tmp_path / "a/b/early").touch()
    look = tree.look(os.fsencode(tmp_path))
    (tmp_path / "a/b/early").unlink()
    (tmp_path / "a/b/late").touch()
    same = {found.entry.path: found for found in look.same}
    scanned = scan(os.fsencode(tmp_path), lambda _: False, same=same, names=look.names)
    paths = {found.entry.path for found in scanned.found}
    assert scanned.errors == [] and b"a/b/late" in paths and b"a/b/early" not in paths
