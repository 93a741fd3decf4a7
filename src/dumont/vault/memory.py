"""Memory that is asked of the system once and used again: fetching it anew costs as much as the work done in it."""

import ctypes
import mmap
from contextlib import suppress

ROOM_BYTES = (8 << 20) + 4096
"""As much as any record of our own needs."""


def fresh_memory(length: int, *, large: bool = False) -> mmap.mmap:
    """Return memory that costs nothing until it is written to, and then as little as the system can do.

    Of this process alone, as what could be shared costs twice as much to have. In `large` pages, where the system has
    some, memory that is used whole costs a fifth; a virtual machine whose host took its free memory back pays more.
    Source: madvise(2), MADV_HUGEPAGE.
    """
    memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if large and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


class Room:
    """Memory with an address that a library can write to."""

    def __init__(self, length: int) -> None:
        memory = fresh_memory(length)
        self.view = memoryview(memory)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(memory))


class Rooms:
    """Where one thread opens records, one after the other: what was opened is good until the next one."""

    def __init__(self) -> None:
        self._raw = Room(ROOM_BYTES)

    def raw(self, length: int) -> Room:
        """Return room for a chunk."""
        return self._raw if length <= ROOM_BYTES else Room(length)
