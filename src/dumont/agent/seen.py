"""What the last save saw of each file, kept on the machine: a file that is still the same need not be read again."""

import os
from contextlib import suppress

import msgpack

from dumont.agent.walk import Found, mark_of
from dumont.vault import CHUNK_ID_BYTES

SETTLED_SECONDS = 60.0
"""A file that changed so shortly before a save may change again without a trace and is read again the next time: a
page that a process has mapped changes its file's time once until the kernel has written it, which is within 35 s."""
_FORMAT = 1
_Row = tuple[tuple[int, ...], tuple[bytes, ...], tuple[int, ...]]


class Seen:
    """Chunks of files by path, with the inode, size and times under which they were read.

    Guarantees: nothing is believed unless all of these are the same, and the change time, which no user can set, was
    long past when the file was read. A list that is lost, damaged or foreign says nothing; everything is read again.
    """

    def __init__(self, path: str, about: str) -> None:
        self._path = path
        self._about = about
        self._old = self._load()
        self._new: dict[bytes, _Row] = {}
        self._fresh = 0

    def look(self, found: Found, known: set[bytes]) -> tuple[tuple[bytes, ...], tuple[int, ...]] | None:
        """Return a file's chunks and their lengths if it is as it was and all of them are still stored."""
        row = self._old.get(found.entry.path)
        if row is None or row[0] != found.mark or not known.issuperset(row[1]):
            return None
        self._new[found.entry.path] = row
        return row[1], row[2]

    def remember(self, path: bytes, seen: os.stat_result, chunks: tuple[bytes, ...], lengths: tuple[int, ...]) -> None:
        """Take down a file that did not change while it was read."""
        self._new[path] = (mark_of(seen), chunks, lengths)
        self._fresh += 1

    def keep(self, began_ns: int) -> None:
        """Write down what was settled when the save began; a disk that does not allow it costs time later, no more."""
        if not self._fresh and len(self._new) == len(self._old):
            return
        limit = began_ns - int(SETTLED_SECONDS * 1e9)
        rows = [(path, mark, b"".join(ids), sizes) for path, (mark, ids, sizes) in self._new.items() if mark[2] < limit]
        with suppress(OSError):
            os.makedirs(os.path.dirname(self._path), 0o700, exist_ok=True)
            with open(f"{self._path}.new", "wb") as stream:
                stream.write(msgpack.packb((_FORMAT, self._about, rows)))
            os.replace(f"{self._path}.new", self._path)

    def _load(self) -> dict[bytes, _Row]:
        try:
            with open(self._path, "rb") as stream:
                form, about, rows = msgpack.unpackb(stream.read(), use_list=False)
            if (form, about) != (_FORMAT, self._about):
                return {}
            return {path: (mark, _ids(flat), sizes) for path, mark, flat, sizes in rows}
        except (OSError, ValueError, TypeError, msgpack.UnpackException):
            return {}


def _ids(flat: bytes) -> tuple[bytes, ...]:
    if len(flat) == CHUNK_ID_BYTES:
        return (flat,)
    return tuple(flat[at : at + CHUNK_ID_BYTES] for at in range(0, len(flat), CHUNK_ID_BYTES))
