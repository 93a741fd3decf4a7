"""Write large objects past the system's page cache: they are read again from the disk or not at all.

Copying into the cache costs as much CPU as sealing, several times that where its pages must first be had of a host, and
drives out what others read. Source: open(2), O_DIRECT: memory, offset and length must be multiples of a block.
"""

import ctypes
import errno
import fcntl
import mmap
import os
from typing import BinaryIO

_BLOCK = 4096
_ROOM_BYTES = 2 << 20


class Sink:
    """Takes an object in pieces and writes it to a file; `finish` writes the last ones.

    Guarantees: the file holds the pieces one after the other, also where the file system knows no direct writing.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._room: mmap.mmap | None = None
        self._held = 0
        self._direct = True

    def write(self, piece: "bytes | bytearray | memoryview") -> None:
        """Take in the next piece; what lies at the border of a page is written from where it is."""
        view = memoryview(piece)
        if not self._held and len(view) >= _ROOM_BYTES and _at_a_border(view):
            whole = len(view) // _BLOCK * _BLOCK
            self._put(view[:whole], direct=True)
            view = view[whole:]
        while len(view):
            room = self._room = self._room or mmap.mmap(-1, _ROOM_BYTES)
            count = min(len(view), _ROOM_BYTES - self._held)
            room[self._held : self._held + count] = view[:count]
            self._held, view = self._held + count, view[count:]
            if self._held == _ROOM_BYTES:
                self._flush(direct=True)

    def finish(self) -> None:
        """Write what is left: less than a room of it, so in the plain way."""
        self._flush(direct=False)

    def _flush(self, *, direct: bool) -> None:
        if self._room is not None and self._held:
            with memoryview(self._room) as view, view[: self._held] as held:
                self._put(held, direct=direct)
        self._held = 0

    def _put(self, view: memoryview, *, direct: bool) -> None:
        if direct and self._direct:
            view = self._put_direct(view)
        while len(view):
            view = view[self._stream.write(view) :]

    def _put_direct(self, view: memoryview) -> memoryview:
        """Write past the cache and return what is left: all of it where the file system knows no such thing."""
        number = self._stream.fileno()
        flags = fcntl.fcntl(number, fcntl.F_GETFL)
        try:
            fcntl.fcntl(number, fcntl.F_SETFL, flags | os.O_DIRECT)
            while len(view) >= _BLOCK:
                view = view[self._stream.write(view) :]
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._direct = False
        finally:
            fcntl.fcntl(number, fcntl.F_SETFL, flags)
        return view


def _at_a_border(view: memoryview) -> bool:
    if view.readonly:
        return False
    return ctypes.addressof(ctypes.c_char.from_buffer(view)) % _BLOCK == 0
