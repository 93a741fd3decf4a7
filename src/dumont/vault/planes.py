"""Field split: floats taken apart into one plane of exponents, which compresses, and planes of mantissas, which do not.

`weaving` puts them together again.

Neural weights have about 2.6 bits of entropy in their exponents and none to spare elsewhere, so a Huffman coder over
the exponents alone reaches what a general compressor cannot. Source: arXiv 2404.15198 (ZipNN), section 3.
"""

import struct
import threading
from enum import IntEnum
from typing import Any

from dumont.vault.arrays import numpy_core
from dumont.vault.coder import code_into, frame_room
from dumont.vault.memory import fresh_memory
from dumont.vault.pairs import LEAST_COUNT, Pairs, base_of

Bytes = Any
"""An array of bytes."""
LENGTH = struct.Struct("<I")
_BLOCK_BYTES = 512 << 10
_SCRATCH_BYTES = 13 << 20
_local = threading.local()
_turn = threading.Lock()
"""Held by the one thread that takes floats apart: numpy gives Python's lock away for each call, of some 10 us, and two
threads at it wait for each other all the time."""


class Floats(IntEnum):
    """Kinds of floats as they stand in a record's codec parameters."""

    BF16 = 1
    FP16 = 2
    FP32 = 3


WIDTHS = {Floats.BF16: 2, Floats.FP16: 2, Floats.FP32: 4}
PAIRED = 16
"""Set in the parameter where the plane that compresses is written in pairs."""
PARAMETERS = frozenset(kind | form for kind in Floats for form in (0, PAIRED))


def split(raw: "bytes | memoryview", kind: Floats) -> tuple[int, memoryview]:
    """Return the parameter and the field-split body of a chunk; it is good until this thread splits the next one.

    Shapes: length of the frame (u32), a zstd frame with the plane that compresses, the other planes, the odd bytes.
    """
    base = _base(raw, kind)
    paired = _split(raw, kind, base) if base is not None else None
    return (kind | PAIRED, paired) if paired is not None else (kind, split_plainly(raw, kind))


def split_plainly(raw: "bytes | memoryview", kind: Floats) -> memoryview:
    """Return the body with the plane that compresses as it is, not in pairs."""
    body = _split(raw, kind, None)
    assert body is not None
    return body


def _base(raw: "bytes | memoryview", kind: Floats) -> int | None:
    """Return above which base a sample of the plane lies that compresses, if above any."""
    words = numpy_core().frombuffer(memoryview(raw)[: len(raw) // 4 * 4], "<u2")
    firsts = words[1::2] if kind is Floats.FP32 else words
    if len(firsts) < LEAST_COUNT:
        return None
    return base_of(firsts[:: len(firsts) // LEAST_COUNT] >> (8 if kind is Floats.FP16 else 7) & 0xFF)


def _split(raw: "bytes | memoryview", kind: Floats, base: int | None) -> memoryview | None:
    """Return the body, with a base that of pairs; None where too many bytes do not lie near it."""
    np = numpy_core()
    view, width = memoryview(raw), WIDTHS[kind]
    count, odd = divmod(len(view), width)
    most = frame_room(count)
    rest = _aligned(count) + _aligned(LENGTH.size + most + count) - count
    room = _scratch(rest + len(view) - count)
    planes = np.frombuffer(room, "u1")
    low = rest + count
    end = low + count * (width - 2)
    pairs = None if base is None else Pairs(planes[:count], count, base)
    with _turn:
        _take_apart(view[: count * width], kind, pairs or planes[:count], planes[rest:low], planes[low:end])
    length = count if pairs is None else pairs.finish()
    if length is None:
        return None
    room[end : end + odd] = view[count * width :]
    packed = code_into(room[:length], room[rest - most : rest])
    room[rest - packed : rest] = room[rest - most : rest - most + packed]
    start = rest - packed - LENGTH.size
    LENGTH.pack_into(room, start, packed)
    return room[start : end + odd]


def entropies(raw: "bytes | memoryview") -> dict[Floats, float]:
    """Estimate for each kind what share of its size a field split would leave."""
    np = numpy_core()
    words = np.frombuffer(memoryview(raw)[: len(raw) // 4 * 4], "<u2")
    turned = words >> 7 & 0xFF
    firsts = {Floats.BF16: turned, Floats.FP16: words >> 8, Floats.FP32: turned[1::2]}
    shares = {}
    for kind, first in firsts.items():
        counts = np.bincount(first)
        odds = counts[counts > 0] / max(1, len(first))
        bits = -float(np.add.reduce(odds * np.log2(odds)))
        shares[kind] = (max(bits, 1.0) / 8 + WIDTHS[kind] - 1) / WIDTHS[kind]
    return shares


def _take_apart(view: memoryview, kind: Floats, first: "Bytes | Pairs", second: Bytes, low: Bytes) -> None:
    """Fill the plane that compresses and the others; block by block, so that the work stays in the CPU's cache.

    A number that is put into a narrower one loses its upper bits: that is what tells the bytes of a word apart here.
    """
    np, blocks = numpy_core(), _blocks()
    wide = np.frombuffer(view, "<u4" if kind is Floats.FP32 else "<u2")
    size = _BLOCK_BYTES // wide.itemsize
    for at in range(0, len(wide), size):
        top = part = wide[at : at + size]
        here = slice(at, at + len(part))
        if kind is Floats.FP32:
            low.view("<u2")[here] = part
            top = blocks.top[: len(part)]
            top[:] = np.right_shift(part, 16, out=blocks.shifted.view("u4")[: len(part)])
        shifted = blocks.shifted[: len(part)]
        np.right_shift(top, 8 if kind is Floats.FP16 else 7, out=shifted)
        if isinstance(first, Pairs):
            first.take(at, shifted)
        else:
            first[here] = shifted
        other = second[here]
        other[:] = top
        if kind is not Floats.FP16:
            sign = blocks.sign[: len(part)]
            np.less(top.view("i2"), 0, out=sign)
            np.add(other, other, out=other)
            np.bitwise_or(other, sign.view("u1"), out=other)


class _Blocks:
    """What stands between a block of floats and its planes; the same memory each time."""

    def __init__(self) -> None:
        np = numpy_core()
        self.shifted = np.empty(_BLOCK_BYTES // 2, "u2")
        self.top = np.empty(_BLOCK_BYTES // 4, "u2")
        self.sign = np.empty(_BLOCK_BYTES // 2, "?")


def _blocks() -> _Blocks:
    found: _Blocks | None = getattr(_local, "blocks", None)
    if found is None:
        found = _local.blocks = _Blocks()
    return found


def _scratch(length: int) -> memoryview:
    """Return memory of this thread's own, the same one each time."""
    found: memoryview | None = getattr(_local, "scratch", None)
    if found is None or len(found) < length:
        found = _local.scratch = memoryview(fresh_memory(max(length, _SCRATCH_BYTES), large=True))
    return found


def _aligned(length: int) -> int:
    return -(-length // 64) * 64
