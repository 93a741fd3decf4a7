"""Files that a restore makes: written chunk by chunk, each read back at once, and finished with the last one."""

import ctypes
import errno
import os
import threading
from contextlib import suppress

from dumont.agent.errors import AgentFailed
from dumont.agent.walk import mark_of
from dumont.vault import Entry, Kind, Raw, Sealer, fresh_memory, pieces, whole

_PIECE_BYTES = 512 << 10
"""Written and read back so much at a time, it is still in the CPU's cache."""
_EARLY_BYTES = 1 << 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_START_WRITING = 2
"""Source: sync_file_range(2), SYNC_FILE_RANGE_WRITE."""


class _Making:
    """A file that is being made: how many chunks are to come, and what it was like after our last write.

    `ours` is None once somebody else had a hand in it, and empty before our first write: what was there then is
    written over and read back, and what was there beyond shows by the size.
    """

    __slots__ = ("left", "ours", "turn")

    def __init__(self, left: int, ours: tuple[int, ...] | None) -> None:
        self.left = left
        self.ours = ours
        self.turn = threading.Lock()


class Writer:
    """Writes files below a folder, from several threads.

    Guarantees: a file is never written through a link; a chunk that reads back as another than the wanted one ends the
    restore; what a file is like once all of it was read back is in `marks`, unless somebody else wrote to it meanwhile.
    Files with holes or with several names are not read back here.
    """

    def __init__(self, root: bytes, sealer: Sealer) -> None:
        self.marks: dict[bytes, tuple[int, ...]] = {}
        """By path: what tells that the file is still the one that was read back; see `mark_of`."""
        self.xattrs_lost = 0
        self._root = root
        self._sealer = sealer
        self._making: dict[bytes, _Making] = {}
        self._counting = threading.Lock()
        self._local = threading.local()

    def at(self, entry: Entry) -> bytes:
        """Return where an entry lies."""
        return self._root + b"/" + entry.path

    def begin(self, entry: Entry) -> None:
        """Make a file of its size, unless it comes into being with its only chunk."""
        if _at_once(entry):
            return
        descriptor = os.open(self.at(entry), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.truncate(descriptor, entry.size)
            if not entry.sparse and entry.size >= _EARLY_BYTES:
                _reserve(descriptor, entry.size)
            making = self._making[entry.path] = _Making(len(entry.chunks), _state(descriptor))
            if not entry.chunks:
                self._finish(descriptor, entry, making)
        finally:
            os.close(descriptor)

    def write(self, entry: Entry, offset: int, raw: Raw, chunk: bytes) -> None:
        """Write a chunk of a file; zeros stay a hole where the file had holes.

        Errors: AgentFailed `merkle_mismatch` where it reads back as another.
        """
        fresh = os.O_CREAT | os.O_EXCL if _at_once(entry) else 0
        descriptor = os.open(self.at(entry), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | fresh, 0o600)
        try:
            making = _Making(1, ()) if fresh else self._making[entry.path]
            if not (entry.sparse and is_zeros(raw)):
                found = self._put(descriptor, offset, raw, making, back=_is_plain(entry))
                if found not in (chunk, b""):
                    path = shown(entry.path)
                    raise AgentFailed("merkle_mismatch", f"What was written differs from the snapshot: {path}.")
            if _was_last(making):
                self._finish(descriptor, entry, making)
        finally:
            os.close(descriptor)

    def _put(self, descriptor: int, offset: int, raw: Raw, making: _Making, *, back: bool) -> bytes:
        """Write a chunk and return its id as it reads back, or nothing."""
        if back and len(raw) <= _PIECE_BYTES:
            _write_ours(descriptor, memoryview(whole(raw)), offset, making)
            return self._sealer.chunk_id(os.pread(descriptor, len(raw), offset))
        hasher, start = self._sealer.hasher(), offset
        for piece in pieces(raw, _PIECE_BYTES):
            _write_ours(descriptor, piece, offset, making)
            if back:
                room = self._room()[: os.preadv(descriptor, [self._room()[: len(piece)]], offset)]
                hasher.update(room)
            offset += len(piece)
        if len(raw) >= _EARLY_BYTES:
            _begin_durable(descriptor, start, len(raw))
        return hasher.digest() if back else b""

    def _finish(self, descriptor: int, entry: Entry, making: _Making) -> None:
        seen = os.fstat(descriptor)
        ours = _is_plain(entry) and making.ours == _times(seen) and seen.st_size == entry.size
        lost = set_metadata(descriptor, entry)
        if lost:
            with self._counting:
                self.xattrs_lost += lost
        if ours:
            self.marks[entry.path] = mark_of(os.fstat(descriptor))

    def _room(self) -> memoryview:
        room: memoryview | None = getattr(self._local, "room", None)
        if room is None:
            room = self._local.room = memoryview(fresh_memory(_PIECE_BYTES))
        return room


def set_metadata(path: bytes | int, entry: Entry) -> int:
    """Give a path or an open file its owner, mode and time; return how many extended attributes could not be set."""
    lost, held = 0, isinstance(path, int)
    for name, value in entry.xattrs:
        try:
            os.setxattr(path, name, value, follow_symlinks=held)
        except OSError:
            lost += 1
    if os.geteuid() == 0:
        with suppress(OSError):
            os.chown(path, entry.uid, entry.gid, follow_symlinks=held)
    if entry.kind is not Kind.LINK:
        os.chmod(path, entry.mode)
    os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=held)
    return lost


def is_zeros(raw: Raw) -> bool:
    """Tell whether there is nothing but zeros."""
    return not any(any(piece[:64]) or bytes(piece) != bytes(len(piece)) for piece in pieces(raw, _PIECE_BYTES))


def shown(path: bytes) -> str:
    """Return a path for people: bytes that are not UTF-8 are shown escaped."""
    return path.decode("utf-8", "backslashreplace")


def _at_once(entry: Entry) -> bool:
    """Tell whether a file comes into being with its only chunk."""
    return len(entry.chunks) == 1 and not entry.sparse


def _is_plain(entry: Entry) -> bool:
    return not entry.sparse and not entry.group


def _state(descriptor: int) -> tuple[int, ...]:
    return _times(os.fstat(descriptor))


def _times(seen: os.stat_result) -> tuple[int, ...]:
    return seen.st_dev, seen.st_ino, seen.st_mtime_ns, seen.st_ctime_ns


def _was_last(making: _Making) -> bool:
    with making.turn:
        making.left -= 1
        return not making.left


def _write_ours(descriptor: int, view: memoryview, offset: int, making: _Making) -> None:
    """Write, and see whether the file was as our last write left it."""
    with making.turn:
        if making.ours and making.ours != _state(descriptor):
            making.ours = None
        _write(descriptor, view, offset)
        if making.ours is not None:
            making.ours = _state(descriptor)


def _write(descriptor: int, view: memoryview, offset: int) -> None:
    while len(view):
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _begin_durable(descriptor: int, offset: int, length: int) -> None:
    """Have the disk begin to write, which is waited for when all is there; it is no matter where that is not known."""
    if _begin_writing is not None:
        _begin_writing(descriptor, ctypes.c_int64(offset), ctypes.c_int64(length), _START_WRITING)


def _reserve(descriptor: int, length: int) -> None:
    """Have the disk keep room for a file, where it can: writing costs less then, and too small a disk shows at once.

    Errors: OSError where there is not so much room. Source: fallocate(2).
    """
    if _allocate is not None and _allocate(descriptor, 0, ctypes.c_int64(0), ctypes.c_int64(length)):
        reason = ctypes.get_errno()
        if reason in _NO_ROOM:
            raise OSError(reason, os.strerror(reason))


_LIBRARY = ctypes.CDLL(None, use_errno=True)
_begin_writing = getattr(_LIBRARY, "sync_file_range", None)
_allocate = getattr(_LIBRARY, "fallocate", None)
