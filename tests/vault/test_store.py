"""The local store: whole objects or none, never overwritten, and clear sentences when the disk fails."""

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dumont.vault import LocalStore, StoreError, StoreExists, StoreMissing
from dumont.vault.store import open_file


class Failing:
    """A file whose chosen call fails once `after` bytes were written."""

    def __init__(self, path: Path, mode: str, call: str, number: int, after: int) -> None:
        self.stream, self.call, self.number, self.left = open_file(path, mode), call, number, after

    def __enter__(self) -> "Failing":
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def _fail(self, call: str) -> None:
        if call == self.call:
            raise OSError(self.number, "injected")

    def write(self, data: bytes) -> int:
        if self.left <= 0:
            self._fail("write")
        part = data[: self.left] if self.call == "write" else data
        self.left -= len(part)
        return self.stream.write(part)

    def read(self, length: int) -> bytes:
        self._fail("read")
        return self.stream.read(length)

    def seek(self, offset: int) -> int:
        return self.stream.seek(offset)

    def fileno(self) -> int:
        self._fail("sync")
        return self.stream.fileno()


ERRORS = [
    (errno.ENOSPC, True, "no space"),
    (errno.EDQUOT, True, "no space"),
    (errno.EIO, False, "check the disk"),
    (errno.EACCES, False, "does not allow"),
    (errno.EROFS, False, "read-only"),
]


@pytest.mark.parametrize(("number", "full", "words"), ERRORS)
@pytest.mark.parametrize(("call", "after"), [("write", 0), ("write", 700), ("sync", 0)])
def test_a_failing_disk_leaves_no_half_object(
    tmp_path: Path, number: int, full: bool, words: str, call: str, after: int
) -> None:
    """The error says what to do; neither the object nor a temporary file is left."""
    store = LocalStore(tmp_path, opener=lambda path, mode: Failing(path, mode, call, number, after))  # type: ignore
    with pytest.raises(StoreError) as failed:
        store.put("data/aa/object", b"x" * 1000)
    assert (failed.value.full, words in failed.value.detail) == (full, True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_unreadable_object_is_an_error_not_an_absence(tmp_path: Path) -> None:
    """EIO on reading is StoreError, never StoreMissing."""
    LocalStore(tmp_path).put("a", b"1")
    store = LocalStore(tmp_path, opener=lambda path, mode: Failing(path, mode, "read", errno.EIO, 0))  # type: ignore
    with pytest.raises(StoreError, match="check the disk") as failed:
        store.get("a")
    assert not isinstance(failed.value, StoreMissing)


def test_objects_are_never_overwritten(tmp_path: Path) -> None:
    """A second put is refused and the first bytes stay; ranges, sizes and lists are right."""
    store = LocalStore(tmp_path)
    store.put("data/aa/one", b"0123456789")
    with pytest.raises(StoreExists):
        store.put("data/aa/one", b"other")
    assert store.get("data/aa/one") == b"0123456789"
    assert (store.get("data/aa/one", 3, 4), store.get("data/aa/one", 8, 99), store.get("data/aa/one", 99)) == (
        b"3456",
        b"89",
        b"",
    )
    assert (store.size("data/aa/one"), store.size("data/aa/two"), store.size("config")) == (10, None, None)
    store.put("config", b"c")
    assert list(store.list("")) == [("config", 1), ("data/aa/one", 10)]
    assert list(store.list("data/")) == [("data/aa/one", 10)] and list(store.list("snap/")) == []
    store.delete("config")
    store.delete("config")
    with pytest.raises(StoreMissing):
        store.get("config")


def test_pieces_that_end_in_an_error_store_nothing(tmp_path: Path) -> None:
    """A body that is cut short leaves nothing behind."""
    store = LocalStore(tmp_path)

    def cut() -> Iterator[bytes]:
        yield b"half"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        store.put_stream("a", cut())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/.b", ".tmp/x", "a\nb", "a" * 300])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    """No name reaches outside the store's folder or into its temporary files."""
    store = LocalStore(tmp_path / "store")
    for act in (lambda: store.put(name, b"x"), lambda: store.get(name), lambda: store.delete(name)):
        verb: Any = act
        with pytest.raises(StoreError):
            verb()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
