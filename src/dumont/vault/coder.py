"""Zstandard as a mere coder of bytes, for planes whose bytes repeat often but never in a row: no time goes to matches.

Matches are looked for in ever fewer places, and what is left is Huffman coding. The library allows that only where its
whole interface is at hand (`zstandard._cffi`); elsewhere its plain form does the same in a third more time. Both write
ordinary zstd frames. Source: zstd.h, ZSTD_c_targetLength and ZSTD_c_literalCompressionMode.
"""

import threading
from importlib import import_module
from typing import Any

import zstandard

_WINDOW_LOG, _HASH_LOG, _LEAST_MATCH, _STRIDE = 20, 6, 7, 1 << 17
_local = threading.local()


def code_into(plane: memoryview, room: memoryview) -> int:
    """Write the frame of a plane into `room` and return its length.

    Shapes: `room` has at least `frame_room(len(plane))` bytes.
    """
    coder: _Whole | _Plain | None = getattr(_local, "coder", None)
    if coder is None:
        coder = _local.coder = _coder()
    return coder.code_into(plane, room)


def decompressor() -> zstandard.ZstdDecompressor:
    """Return this thread's own."""
    found: zstandard.ZstdDecompressor | None = getattr(_local, "decompressor", None)
    if found is None:
        found = _local.decompressor = zstandard.ZstdDecompressor()
    return found


def frame_room(length: int) -> int:
    """Return how long the frame of so many bytes can be; source: zstd.h, ZSTD_COMPRESSBOUND."""
    return length + (length >> 8) + 1024


class _Whole:
    """The library with its whole interface."""

    def __init__(self) -> None:
        library: Any = import_module("zstandard._cffi")
        self._ffi, self._lib = library.ffi, library.lib
        self._context = self._ffi.gc(self._lib.ZSTD_createCCtx(), self._lib.ZSTD_freeCCtx)
        for name, value in (
            ("compressionLevel", 1),
            ("windowLog", _WINDOW_LOG),
            ("hashLog", _HASH_LOG),
            ("minMatch", _LEAST_MATCH),
            ("strategy", zstandard.STRATEGY_FAST),
            ("targetLength", _STRIDE),
            ("literalCompressionMode", self._lib.ZSTD_ps_enable),
        ):
            self._sound(self._lib.ZSTD_CCtx_setParameter(self._context, getattr(self._lib, f"ZSTD_c_{name}"), value))

    def code_into(self, plane: memoryview, room: memoryview) -> int:
        into, out_of = self._ffi.from_buffer(room), self._ffi.from_buffer(plane)
        return self._sound(int(self._lib.ZSTD_compress2(self._context, into, len(room), out_of, len(plane))))

    def _sound(self, answer: int) -> int:
        if self._lib.ZSTD_isError(answer):
            raise zstandard.ZstdError("the library refused to code a plane")
        return answer


class _Plain:
    """The library as everybody has it."""

    def __init__(self) -> None:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            1,
            strategy=zstandard.STRATEGY_FAST,
            window_log=_WINDOW_LOG,
            hash_log=_HASH_LOG,
            min_match=_LEAST_MATCH,
            target_length=0,
        )
        self._compressor: Any = zstandard.ZstdCompressor(compression_params=parameters)

    def code_into(self, plane: memoryview, room: memoryview) -> int:
        frame = self._compressor.compress(plane)
        room[: len(frame)] = frame
        return len(frame)


def _coder() -> "_Whole | _Plain":
    try:
        return _Whole()
    except (ImportError, AttributeError, zstandard.ZstdError):
        return _Plain()
