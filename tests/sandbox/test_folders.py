"""The sandbox never leaves its own folder."""

from pathlib import Path

import pytest

from dumont.sandbox.folders import Folders


def test_machines_stay_inside_the_home(tmp_path: Path) -> None:
    """A link in a machine's place is refused, and removal never follows links out."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("here")
    folders = Folders(tmp_path / "home")
    folders.make(1, {"NAME": "it's quoted"})
    (folders.workspace(1) / "way out").symlink_to(outside)
    assert folders.on_disk() == [1]
    folders.remove(1)
    assert not folders.exists(1) and (outside / "precious").read_text() == "here"
    (tmp_path / "home/machines/2").symlink_to(outside)
    with pytest.raises(ValueError, match="not inside the sandbox"):
        folders.remove(2)
    assert (outside / "precious").exists()


def test_usage_is_measured(tmp_path: Path) -> None:
    """Usage is what files really take on disk, in decimal gigabytes."""
    folders = Folders(tmp_path)
    folders.make(7, {})
    before = folders.usage(7)
    (folders.workspace(7) / "data").write_bytes(b"x" * 3_000_000)
    (folders.workspace(7) / "hole").touch()
    with (folders.workspace(7) / "hole").open("r+b") as sparse:
        sparse.truncate(1 << 30)
    assert folders.usage(7) - before == pytest.approx(0.003, rel=0.1)


def test_load_words(tmp_path: Path) -> None:
    """A set percentage is read back; while a pattern decides, the load is unknown, not zero."""
    folders = Folders(tmp_path)
    folders.make(7, {})
    assert folders.load(7) == 0
    folders.set_load(7, "64")
    assert folders.load(7) == 64
    folders.set_load(7, "burst")
    assert folders.load(7) is None
    folders.make(7, {})
    assert folders.load(7) is None
