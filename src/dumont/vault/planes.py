"""Field split: floats taken apart into one plane of exponents, which compresses, and planes of mantissas, which do not.

Neural weights have about 2.6 bits of entropy in their exponents and none to spare elsewhere, so a Huffman coder over
the exponents alone reaches what a general compressor cannot. Source: arXiv 2404.15198 (ZipNN), section 3.
"""

import struct
import threading
from enum import IntEnum
from typing import Any

import zstandard

from dumont.vault.arrays import numpy_core
from dumont.vault.coder import code_into, decompressor, frame_room
from dumont.vault.errors import RecordDamaged
from dumont.vault.memory import Rooms, fresh_memory

Bytes = Any
"""An array of bytes."""
_LENGTH = struct.Struct("<I")
_BLOCK = 64 << 10
_SCRATCH_BYTES = 13 << 20
_local = threading.local()


class Floats(IntEnum):
    """Kinds of floats as they stand in a record's codec parameters."""

    BF16 = 1
    FP16 = 2
    FP32 = 3


WIDTHS = {Floats.BF16: 2, Floats.FP16: 2, Floats.FP32: 4}


def split(raw: "bytes | memoryview", kind: Floats) -> memoryview:
    """Return the field-split body of a chunk; it is good until this thread splits the next one.

    Shapes: length of the frame (u32), a zstd frame with the plane that compresses, the other planes, the odd bytes.
    """
    np = numpy_core()
    view, width = memoryview(raw), WIDTHS[kind]
    count, odd = divmod(len(view), width)
    most = frame_room(count)
    rest = _aligned(count) + _aligned(_LENGTH.size + most + count) - count
    room = _scratch(rest + len(view) - count)
    planes = np.frombuffer(room, "u1")
    low = rest + count
    end = low + count * (width - 2)
    _take_apart(view[: count * width], kind, planes[:count], planes[rest:low], planes[low:end])
    room[end : end + odd] = view[count * width :]
    packed = code_into(room[:count], room[rest - most : rest])
    room[rest - packed : rest] = room[rest - most : rest - most + packed]
    start = rest - packed - _LENGTH.size
    _LENGTH.pack_into(room, start, packed)
    return room[start : end + odd]


def join(
    body: "bytes | memoryview", kind: int, raw_length: int, rooms: Rooms | None = None
) -> "bytearray | memoryview":
    """Return the floats that a field-split body stands for; where there are `rooms`, they lie there.

    Errors: RecordDamaged where lengths do not add up; nothing larger than `raw_length` is ever made.
    """
    np = numpy_core()
    if kind not in list(Floats):
        raise RecordDamaged(f"A record holds floats of kind {kind}, which this version does not know.")
    width = WIDTHS[Floats(kind)]
    count, odd = divmod(raw_length, width)
    view = memoryview(body)
    if len(view) < _LENGTH.size:
        raise RecordDamaged("A field-split record is cut short.")
    (packed,) = _LENGTH.unpack(view[: _LENGTH.size])
    rest = view[_LENGTH.size + packed :]
    if len(rest) != count * (width - 1) + odd:
        raise RecordDamaged("The planes of a field-split record have impossible lengths.")
    first = np.frombuffer(_unpacked(view[_LENGTH.size : _LENGTH.size + packed], count), "u1")
    raw = bytearray(raw_length) if rooms is None else rooms.raw(raw_length).view[:raw_length]
    out = np.frombuffer(raw, "u1")
    second = np.frombuffer(rest[:count], "u1")
    low = np.frombuffer(rest[count : count * (width - 1)], "u1")
    _weave(out[: count * width].reshape(count, width), first, second, low, Floats(kind))
    out[count * width :] = np.frombuffer(rest[count * (width - 1) :], "u1")
    return raw


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


def _take_apart(view: memoryview, kind: Floats, first: Bytes, second: Bytes, low: Bytes) -> None:
    """Fill the plane that compresses and the others; block by block, so that the work stays in the CPU's cache."""
    np = numpy_core()
    words = np.frombuffer(view, "<u2")
    if kind is Floats.FP32:
        low.view("<u2")[:] = words[0::2]
        words = words[1::2]
    turned, sign = np.empty(_BLOCK, "u2"), np.empty(_BLOCK, "u2")
    for at in range(0, len(words), _BLOCK):
        part = words[at : at + _BLOCK]
        word, bit = turned[: len(part)], sign[: len(part)]
        if kind is Floats.FP16:
            word[:] = part
        else:
            np.add(part, part, out=word)
            np.right_shift(part, 15, out=bit)
            np.bitwise_or(word, bit, out=word)
        second[at : at + _BLOCK] = word
        np.right_shift(word, 8, out=word)
        first[at : at + _BLOCK] = word


def _weave(rows: Bytes, first: Bytes, second: Bytes, low: Bytes, kind: Floats) -> None:
    """Put planes together again. Multiplying is how numpy shifts to the left most quickly."""
    np = numpy_core()
    words = rows.view("<u2")
    top = words[:, -1]
    turned, other = np.empty(_BLOCK, "u2"), np.empty(_BLOCK, "u2")
    for at in range(0, len(top), _BLOCK):
        place = top[at : at + _BLOCK]
        word = place if kind is not Floats.FP32 else turned[: len(place)]
        np.multiply(first[at : at + _BLOCK], 1 << 8, word, dtype="u2")
        np.bitwise_or(word, second[at : at + _BLOCK], word)
        if kind is not Floats.FP16:
            bits = other[: len(word)]
            np.multiply(word, 1 << 15, bits)
            np.right_shift(word, 1, word)
            np.bitwise_or(word, bits, place)
    if kind is Floats.FP32:
        words[:, 0] = np.frombuffer(low.data, "<u2")


def _scratch(length: int) -> memoryview:
    """Return memory of this thread's own, the same one each time."""
    found: memoryview | None = getattr(_local, "scratch", None)
    if found is None or len(found) < length:
        found = _local.scratch = memoryview(fresh_memory(max(length, _SCRATCH_BYTES)))
    return found


def _aligned(length: int) -> int:
    return -(-length // 64) * 64


def _unpacked(frame: memoryview, count: int) -> bytes:
    try:
        if zstandard.frame_content_size(frame) != count:
            raise RecordDamaged("A field-split record decodes to another length than it promises.")
        plane: bytes = decompressor().decompress(frame)
    except zstandard.ZstdError:
        raise RecordDamaged("A field-split record does not decompress.") from None
    if len(plane) != count:
        raise RecordDamaged("A field-split record decodes to another length than it promises.")
    return plane
