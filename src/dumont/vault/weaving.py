"""Planes of floats put together again, in pieces that stay in the CPU's cache until they are written."""

import threading
from collections.abc import Iterator
from typing import Any

import zstandard

from dumont.vault.arrays import numpy_core
from dumont.vault.coder import decompressor
from dumont.vault.errors import RecordDamaged
from dumont.vault.memory import fresh_memory
from dumont.vault.pairs import Apart
from dumont.vault.planes import LENGTH, PAIRED, WIDTHS, Floats

Bytes = Any
"""An array of bytes."""
_BLOCK = 256 << 10
"""So many elements at a time."""
_local = threading.local()


class Woven:
    """The floats that a field-split body stands for. The body must stay as it is for as long as they are wanted.

    Shapes: `parameter` is one of `PARAMETERS`.
    Errors: RecordDamaged where lengths do not add up; nothing larger than `raw_length` is ever made.
    """

    def __init__(self, body: "bytes | memoryview", parameter: int, raw_length: int) -> None:
        np, view = numpy_core(), memoryview(body)
        self._kind, self._length = Floats(parameter & ~PAIRED), raw_length
        self._width = WIDTHS[self._kind]
        self._count, odd = divmod(raw_length, self._width)
        if len(view) < LENGTH.size:
            raise RecordDamaged("A field-split record is cut short.")
        (packed,) = LENGTH.unpack(view[: LENGTH.size])
        rest, lows = view[LENGTH.size + packed :], self._count * (self._width - 1)
        if len(rest) != lows + odd:
            raise RecordDamaged("The planes of a field-split record have impossible lengths.")
        paired = bool(parameter & PAIRED)
        plane = _unpacked(view[LENGTH.size : LENGTH.size + packed], self._count, paired=paired)
        self._first = Apart(plane, self._count) if paired else np.frombuffer(plane, "u1")
        self._second = np.frombuffer(rest[: self._count], "u1")
        self._low = np.frombuffer(rest[self._count : lows], "<u2")
        self._odd = rest[lows:]

    def __len__(self) -> int:
        return self._length

    def pieces(self, most: int) -> Iterator[memoryview]:
        """Yield the bytes from front to end, each piece good until this thread asks for the next one.

        Units: a piece has `most` bytes, which is no less than 8, or fewer.
        """
        room, step = _room(most), most // self._width // 2 * 2
        for at in range(0, self._count, step):
            piece = room[: min(step, self._count - at) * self._width]
            self._fill(at, piece)
            yield piece
        if self._odd:
            yield self._odd

    def whole(self) -> bytearray:
        """Return all of them."""
        raw = bytearray(self._length)
        view = memoryview(raw)
        for at in range(0, self._count, _BLOCK):
            self._fill(at, view[at * self._width : min(at + _BLOCK, self._count) * self._width])
        view[self._count * self._width :] = self._odd
        return raw

    def _fill(self, at: int, room: memoryview) -> None:
        """Put planes together from an even element on. Multiplying is how numpy shifts to the left most quickly.

        A plane is made wider before anything else: numpy does that quickly by itself, slowly on the way to other work.
        """
        np = numpy_core()
        words = np.frombuffer(room, "<u2").reshape(-1, self._width // 2)
        place = words[:, -1]
        count, bits = len(place), 8 if self._kind is Floats.FP16 else 7
        lifted, under, turned = _scratch(count)
        upper, word = lifted[:count], under[:count]
        if isinstance(self._first, Apart):
            self._first.lift(at, bits, lifted[: count + count % 2])
        else:
            upper[:] = self._first[at : at + count]
            np.multiply(upper, 1 << bits, upper)
        word[:] = self._second[at : at + count]
        if self._kind is not Floats.FP16:
            sign = place if self._kind is Floats.BF16 else turned[:count]
            np.multiply(word, 1 << 15, sign)
            np.right_shift(word, 1, word)
            np.bitwise_or(word, sign, word)
        np.bitwise_or(word, upper, place)
        if isinstance(self._first, Apart):
            self._first.mend(at, bits, place)
        if self._kind is Floats.FP32:
            words[:, 0] = self._low[at : at + count]


Raw = bytes | bytearray | memoryview | Woven
"""A chunk's bytes, at once or in pieces."""


def pieces(raw: Raw, most: int) -> Iterator[memoryview]:
    """Yield a chunk's bytes from front to end, at most so many at a time."""
    if isinstance(raw, Woven):
        return raw.pieces(most)
    view = memoryview(raw)
    return (view[at : at + most] for at in range(0, len(view), most))


def whole(raw: Raw) -> "bytes | bytearray | memoryview":
    """Return a chunk's bytes at once."""
    return raw.whole() if isinstance(raw, Woven) else raw


def _room(length: int) -> memoryview:
    """Return memory of this thread's own, the same one each time."""
    found: memoryview | None = getattr(_local, "room", None)
    if found is None or len(found) < length:
        found = _local.room = memoryview(fresh_memory(length))
    return found


def _scratch(count: int) -> tuple[Bytes, Bytes, Bytes]:
    """Return three rows of words of this thread's own, the same ones each time."""
    found: tuple[Bytes, Bytes, Bytes] | None = getattr(_local, "scratch", None)
    if found is None or len(found[1]) < count:
        np = numpy_core()
        found = _local.scratch = np.empty(count + 2, "u2"), np.empty(count, "u2"), np.empty(count, "u2")
    return found


def _unpacked(frame: memoryview, count: int, *, paired: bool) -> bytes:
    try:
        length = zstandard.frame_content_size(frame)
        if length > count if paired else length != count:
            raise RecordDamaged("A field-split record decodes to another length than it promises.")
        plane: bytes = decompressor().decompress(frame)
    except zstandard.ZstdError:
        raise RecordDamaged("A field-split record does not decompress.") from None
    if len(plane) != length:
        raise RecordDamaged("A field-split record decodes to another length than it promises.")
    return plane
