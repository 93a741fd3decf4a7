"""How a chunk's bytes are made smaller: the codec is chosen per chunk by a quick probe and named in its record."""

import struct
import threading
from enum import IntEnum

import zstandard

from dumont.vault.blosc_core import blosc
from dumont.vault.coder import decompressor
from dumont.vault.errors import RecordDamaged, RecordUnknown
from dumont.vault.memory import Rooms
from dumont.vault.planes import PARAMETERS, WIDTHS, Floats, entropies, split
from dumont.vault.weaving import Raw, Woven

MAX_RAW_BYTES = 64 << 20
_SAMPLES = 4
_SAMPLE_BYTES = 16 << 10
_SMALL_BYTES = 64 << 10
_WORTH_IT = 0.95
_WORTH_A_SPLIT = 0.97
_WORTH_ZSTD = 0.97
_LEVEL = 1
_SHUFFLE_WIDTHS = (2, 4)
_BLOSC_HEADER = struct.Struct("<BBBBIII")
_BLOSC_FORMAT = 2
_BITSHUFFLE = 2
"""Source: blosc.h, BLOSC_BITSHUFFLE."""

Body = list["bytes | memoryview"]


class Codec(IntEnum):
    """Codec ids as they stand in records."""

    RAW = 0
    ZSTD = 1
    BITSHUFFLE = 2
    SPLIT = 3


_KNOWN: dict[int, frozenset[int]] = {
    Codec.RAW: frozenset({0}),
    Codec.ZSTD: frozenset({0}),
    Codec.BITSHUFFLE: frozenset(_SHUFFLE_WIDTHS),
    Codec.SPLIT: PARAMETERS,
}
"""Which parameters a codec's records have. One that changes what a body means needs another parameter or codec."""
_local = threading.local()


def encode(raw: "bytes | memoryview") -> tuple[Codec, int, Body]:
    """Return the codec, its parameters and the parts of the body that stands for a chunk.

    Guarantees: never longer than the chunk itself.
    """
    codec, parameter = choose(raw)
    if codec is Codec.SPLIT:
        parameter, floats = split(raw, Floats(parameter))
        body: Body = [floats]
    else:
        body = _encoded(raw, codec, parameter)
    if codec is Codec.RAW or sum(map(len, body)) >= len(raw):
        return Codec.RAW, 0, [raw]
    return codec, parameter, body


def decode(codec: int, parameter: int, body: "bytes | memoryview", raw_length: int, rooms: Rooms | None = None) -> Raw:
    """Return the chunk that `body` stands for; where there are `rooms`, it may lie there, or be put together in pieces.

    Guarantees: what a body claims is checked against `raw_length` before memory is asked for.
    Errors: RecordUnknown for a codec or parameter of a newer version; RecordDamaged for a broken body or another length
    than promised.
    """
    if parameter not in _KNOWN.get(codec, ()):
        raise RecordUnknown(f"codec {codec} with parameter {parameter}")
    if raw_length > MAX_RAW_BYTES:
        raise RecordDamaged("A record claims to hold more than a chunk may.")
    if codec == Codec.RAW:
        raw: Raw = body
    elif codec == Codec.ZSTD:
        raw = _unzstd(body, raw_length)
    elif codec == Codec.BITSHUFFLE:
        raw = _unshuffled(body, raw_length, rooms)
    else:
        woven = Woven(body, parameter, raw_length)
        raw = woven.whole() if rooms is None else woven
    if len(raw) != raw_length:
        raise RecordDamaged("A record decodes to another length than it promises.")
    return raw


def choose(raw: "bytes | memoryview") -> tuple[Codec, int]:
    """Choose a codec and its parameters by what samples of a chunk come to."""
    if len(raw) <= _SMALL_BYTES:
        return (Codec.ZSTD if len(raw) else Codec.RAW), 0
    sample = _sample(raw, _SAMPLE_BYTES)
    packed = len(_compressor().compress(sample)) / len(sample)
    if packed < 0.5:
        return Codec.ZSTD, 0
    share, kind = min((share, kind) for kind, share in entropies(_sample(raw, _SAMPLE_BYTES >> 2)).items())
    widths = _SHUFFLE_WIDTHS if share >= _WORTH_A_SPLIT * min(packed, 1.0) else (WIDTHS[kind],)
    shuffled, width = min((len(_shuffle(sample, width)) / len(sample), width) for width in widths)
    if share < _WORTH_A_SPLIT * min(packed, shuffled, 1.0):
        return Codec.SPLIT, int(kind)
    if shuffled < min(packed / _WORTH_ZSTD, _WORTH_IT):
        return Codec.BITSHUFFLE, width
    return (Codec.ZSTD, 0) if packed < _WORTH_IT else (Codec.RAW, 0)


def _sample(raw: "bytes | memoryview", most: int) -> bytes:
    """Return four stretches of a chunk, `most` bytes each and never more than a sixteenth of it in all."""
    length = min(most, len(raw) >> 6) // 16 * 16
    step = (len(raw) - length) // (_SAMPLES - 1) // 16 * 16
    view = memoryview(raw)
    return b"".join(view[at * step : at * step + length] for at in range(_SAMPLES))


def _encoded(raw: "bytes | memoryview", codec: Codec, parameter: int) -> Body:
    if codec is Codec.ZSTD:
        return [_compressor().compress(raw)]
    if codec is Codec.BITSHUFFLE:
        return [_shuffle(raw, parameter)]
    return [raw]


def _unzstd(body: "bytes | memoryview", raw_length: int) -> bytes:
    try:
        if zstandard.frame_content_size(body) != raw_length:
            raise RecordDamaged("A record decodes to another length than it promises.")
        raw: bytes = decompressor().decompress(body)
    except zstandard.ZstdError:
        raise RecordDamaged("A record does not decompress.") from None
    return raw


def _unshuffled(body: "bytes | memoryview", raw_length: int, rooms: Rooms | None) -> "bytes | memoryview":
    if len(body) < _BLOSC_HEADER.size:
        raise RecordDamaged("A bitshuffled record is cut short.")
    form, _, _, _, length, _, packed = _BLOSC_HEADER.unpack_from(body)
    if (form, length, packed) != (_BLOSC_FORMAT, raw_length, len(body)):
        raise RecordDamaged("A bitshuffled record decodes to another length than it promises.")
    library = blosc()
    try:
        if rooms is None:
            raw: bytes = library.decompress(body, False)
            return raw
        room = rooms.raw(raw_length)
        return room.view[: library.decompress_ptr(body, room.address)]
    except library.error:
        raise RecordDamaged("A bitshuffled record does not decompress.") from None


def _shuffle(raw: "bytes | memoryview", width: int) -> bytes:
    packed: bytes = blosc().compress(raw, width, 1, _BITSHUFFLE, "lz4")
    return packed


def _compressor() -> zstandard.ZstdCompressor:
    found: zstandard.ZstdCompressor | None = getattr(_local, "compressor", None)
    if found is None:
        found = _local.compressor = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True)
    return found
