"""How a chunk's bytes are made smaller: the codec is chosen per chunk by a quick probe and named in its record."""

import threading
from enum import IntEnum

import zstandard

from dumont.vault.errors import RecordDamaged

MAX_RAW_BYTES = 64 << 20
_SAMPLES = 4
_SAMPLE_BYTES = 16 << 10
_WORTH_IT = 0.95
_LEVEL = 1


class Codec(IntEnum):
    """Codec ids as they stand in records. 2 (bitshuffle + LZ4) and 3 (field split) are reserved."""

    RAW = 0
    ZSTD = 1


_local = threading.local()


def encode(raw: bytes) -> tuple[Codec, bytes]:
    """Return the smaller form of a chunk and the codec that made it.

    Guarantees: never longer than the chunk itself.
    """
    if not raw or not _compresses(raw):
        return Codec.RAW, raw
    packed = _compressor().compress(raw)
    return (Codec.ZSTD, packed) if len(packed) < len(raw) else (Codec.RAW, raw)


def decode(codec: int, body: bytes, raw_length: int) -> bytes:
    """Return the chunk that `body` stands for.

    Errors: RecordDamaged for an unknown codec, a broken body, or another length than promised.
    """
    if raw_length > MAX_RAW_BYTES:
        raise RecordDamaged("A record claims to hold more than a chunk may.")
    if codec == Codec.RAW:
        raw = body
    elif codec == Codec.ZSTD:
        try:
            if zstandard.frame_content_size(body) != raw_length:
                raise RecordDamaged("A record decodes to another length than it promises.")
            raw = zstandard.ZstdDecompressor().decompress(body)
        except zstandard.ZstdError:
            raise RecordDamaged("A record does not decompress.") from None
    else:
        raise RecordDamaged(f"A record uses codec {codec}, which this version does not know.")
    if len(raw) != raw_length:
        raise RecordDamaged("A record decodes to another length than it promises.")
    return raw


def _compresses(raw: bytes) -> bool:
    if len(raw) <= _SAMPLES * _SAMPLE_BYTES:
        return True
    step = (len(raw) - _SAMPLE_BYTES) // (_SAMPLES - 1)
    view = memoryview(raw)
    packed = sum(len(_compressor().compress(view[at : at + _SAMPLE_BYTES])) for at in range(0, step * _SAMPLES, step))
    return packed < _WORTH_IT * _SAMPLES * _SAMPLE_BYTES


def _compressor() -> zstandard.ZstdCompressor:
    found: zstandard.ZstdCompressor | None = getattr(_local, "compressor", None)
    if found is None:
        found = _local.compressor = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True)
    return found
