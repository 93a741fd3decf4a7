"""Memory that is asked of the system once and used again: fetching it anew costs as much as the work done in it."""

import ctypes
import mmap

ROOM_BYTES = (8 << 20) + 4096
"""As much as any record of our own needs."""


def fresh_memory(length: int) -> mmap.mmap:
    """Return memory that costs nothing until it is written to, and then as little as the system can do.

    Of this process alone, as what could be shared costs twice as much to have, and in pages of the usual size: large
    ones are what a host takes back first from a machine that has them to spare, and dearest to have again.
    """
    return mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


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
