"""What the last save saw of a tree, kept on the machine: what is still the same need not be read again."""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from threading import Thread
from typing import Any, NamedTuple

import msgpack

from dumont.agent.still import Still
from dumont.agent.walk import MARK_CHANGED, MARK_MODIFIED, MARK_NUMBERS, Found, mark_of
from dumont.vault import CHUNK_ID_BYTES, Entry, Kind

SETTLED_SECONDS = 60.0
"""A file that changed so shortly before a save may change again without a trace and is read again the next time: a
page that a process has mapped changes its file's time once until the kernel has written it, which is within 35 s."""
_TICK_NS = 100_000_000
"""Longer than the clock of file times stands still."""
_FORMAT = 3


class Last(NamedTuple):
    """The last save: what was asked, how the tree was, and what it came to.

    `whole` where it left nothing out and met nothing young: while nothing has changed since, its report is the next
    one's too.
    """

    asked: tuple[object, ...]
    tree: Still
    whole: bool
    chunks: frozenset[bytes]
    files: int
    bytes_total: int
    skipped: list[bytes]


class Seen:
    """Paths of a tree with the inode, size and times under which they were seen, and the chunks of the files.

    Guarantees: nothing is believed unless all of these are the same, and the change time, which no user can set, was
    long past when the file was read. A list that is lost, damaged or foreign says nothing; everything is read again.
    """

    def __init__(self, path: str, about: str) -> None:
        self.found: dict[bytes, Found] = {}
        self.listed: tuple[list[Entry] | None, bytes] = (None, b"")
        """The entries of the last save and how they were packed."""
        self.last: Last | None = None
        self._path = path
        self._about = about
        self._limit = 0
        self._writing: Thread | None = None
        self._load()

    def begin(self) -> None:
        """Begin to look at the tree; what the last save found whole is no answer any more until this one has ended."""
        self.kept()
        self.last = None
        self._limit = time.time_ns() - int(SETTLED_SECONDS * 1e9)

    def settled(self, found: Iterable[Found]) -> dict[bytes, Found]:
        """Return those, by path, that the last save found settled."""
        return {item.entry.path: item for item in found if self.found.get(item.entry.path) is item}

    def keep(self, found: Sequence[Found]) -> bool:
        """Remember what was settled when the save began, and tell whether that is all; `kept` ends it.

        The list is written beside what comes next: a disk that takes in packs meanwhile has it wait.
        """
        kept = {}
        old, fresh = self.found, False
        for item in found:
            path = item.entry.path
            before = old.get(path)
            if before is item:
                kept[path] = item
            elif (before is not None and before.mark == item.mark and before.read == item.read) or (
                item.mark[MARK_CHANGED] < self._limit and (item.read or item.entry.kind is not Kind.FILE)
            ):
                kept[path] = item
                fresh = True
        if fresh or len(kept) != len(old):
            self.found = kept
            writing = Thread(target=self._store, name="seen")
            try:
                writing.start()
                self._writing = writing
            except RuntimeError:  # no more threads are to be had
                self._store()
        return len(kept) == len(found)

    def kept(self) -> None:
        """Wait until what is remembered is on the disk, too; one that does not allow it costs time later, no more."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None

    def restored(self, root: bytes, found: Iterable[Found]) -> None:
        """Remember files that were just restored, in the place that they have now; `found` is how they were hashed.

        Guarantees: a write of somebody else before they were hashed shows by their times, and one since, too: they have
        old modification times, which any write replaces. Only those at the top were moved, which changes their time.
        """
        kept = {}
        for item in found:
            with suppress(OSError):
                now = mark_of(os.lstat(os.path.join(root, item.entry.path)))
                moved = b"/" not in item.entry.path and now[MARK_CHANGED] > item.mark[MARK_CHANGED]
                calm = now[MARK_MODIFIED] + _TICK_NS < item.mark[MARK_CHANGED]
                if calm and (now == item.mark or (moved and _without_change(now) == _without_change(item.mark))):
                    kept[item.entry.path] = item._replace(mark=now)
        self.kept()
        self.found, self.last = kept, None
        self._store()

    def _store(self) -> None:
        rows = [
            (path, item.mark, item.entry.sparse, b"".join(item.entry.chunks), item.entry.lengths, item.entry.xattrs)
            for path, item in self.found.items()
            if item.entry.kind is Kind.FILE
        ]
        with suppress(OSError):
            os.makedirs(os.path.dirname(self._path), 0o700, exist_ok=True)
            with open(f"{self._path}.new", "wb") as stream:
                stream.write(msgpack.packb((_FORMAT, self._about, rows)))
            os.replace(f"{self._path}.new", self._path)

    def _load(self) -> None:
        with suppress(OSError, ValueError, TypeError, msgpack.UnpackException), open(self._path, "rb") as stream:
            form, about, rows = msgpack.unpackb(stream.read(), use_list=False)
            if (form, about) == (_FORMAT, self._about):
                self.found = {item.entry.path: item for item in _found(rows)}


def _found(rows: Any) -> Iterator[Found]:
    kind = Kind.FILE
    for path, mark, sparse, flat, sizes, xattrs in rows:
        if len(mark) != MARK_NUMBERS or len(flat) != len(sizes) * CHUNK_ID_BYTES:
            raise ValueError
        _, _, _, mtime_ns, size, mode, uid, gid, _ = mark
        ids = (flat,) if len(sizes) == 1 else _ids(flat)
        entry = Entry(path, kind, mode & 0o7777, uid, gid, mtime_ns, size, b"", 0, sparse, ids, sizes, xattrs)
        yield Found(entry, mark, True)


def _without_change(mark: tuple[int, ...]) -> tuple[int, ...]:
    return mark[:MARK_CHANGED] + mark[MARK_CHANGED + 1 :]


def _ids(flat: bytes) -> tuple[bytes, ...]:
    return tuple(flat[at : at + CHUNK_ID_BYTES] for at in range(0, len(flat), CHUNK_ID_BYTES))
