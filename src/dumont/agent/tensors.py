"""Find the borders of tensors in model files, so that a model that is saved again is cut as it was before.

Nothing here is believed: a header that lies in any way gives no borders, and the file is cut like any other.
"""

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

Read = Callable[[int, int], bytes]
"""Read so many bytes from an offset; fewer at the end of the file. Shapes: (offset, length)."""

MOST_BORDERS = 1 << 17
_MOST_JSON_BYTES = 8 << 20
_MOST_HEADER_BYTES = 64 << 20
_MOST_DIRECTORY_BYTES = 16 << 20
_WORTH_A_BORDER = 4096
_GGUF_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_GGUF_STRING, _GGUF_ARRAY = 8, 9


class _NotAModel(Exception):
    """The file is not what its first bytes promise."""


def borders(read: Read, size: int) -> list[int] | None:
    """Return the offsets at which tensors begin and end, in order, or None where the file has no tensors to see.

    Guarantees: offsets rise strictly and lie within the file, whatever its header says.
    """
    head = read(0, 16)
    try:
        if head[:4] == b"GGUF":
            spans = list(_gguf(read, size))
        elif head[:4] == b"PK\x03\x04":
            spans = list(_zip(read, size))
        elif head[8:9] == b"{":
            spans = list(_safetensors(read, size, head))
        else:
            return None
        return _checked(spans, size)
    except (_NotAModel, struct.error, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _checked(spans: list[tuple[int, int]], size: int) -> list[int] | None:
    end = 0
    for start, stop in sorted(spans):
        if not end <= start <= stop <= size:
            raise _NotAModel
        end = stop
    found = sorted({offset for span in spans for offset in span} - {0, size})
    return found if found and len(found) <= MOST_BORDERS else None


def _safetensors(read: Read, size: int, head: bytes) -> Iterator[tuple[int, int]]:
    """Source: github.com/huggingface/safetensors, README, "Format"."""
    (length,) = struct.unpack("<Q", head[:8])
    if length > min(size - 8, _MOST_JSON_BYTES):
        raise _NotAModel
    document: dict[str, Any] = json.loads(read(8, length))
    for name, tensor in document.items():
        if name != "__metadata__":
            start, stop = tensor["data_offsets"]
            yield 8 + length + _whole(start), 8 + length + _whole(stop)


def _zip(read: Read, size: int) -> Iterator[tuple[int, int]]:
    """Yield the entries that are stored without compression, as torch writes tensors.

    Source: PKWARE APPNOTE 6.3.10, sections 4.3.7, 4.3.12, 4.3.14 to 4.3.16 and 4.5.3.
    """
    directory = _zip_directory(read, size)
    at = 0
    while at + 46 <= len(directory):
        magic, _, _, _, method, _, _, _, packed, plain, name, extra, comment, _, _, _, offset = struct.unpack(
            "<4sHHHHHHIIIHHHHHII", directory[at : at + 46]
        )
        if magic != b"PK\x01\x02":
            raise _NotAModel
        wide = _zip64(directory[at + 46 + name : at + 46 + name + extra], (plain, packed, offset))
        at += 46 + name + extra + comment
        if method == 0 and wide[0] == wide[1] >= _WORTH_A_BORDER:
            local = read(min(wide[2], size), 30)
            if local[:4] == b"PK\x03\x04" and len(local) == 30:
                start = wide[2] + 30 + sum(struct.unpack("<HH", local[26:]))
                yield start, start + wide[0]


def _zip_directory(read: Read, size: int) -> bytes:
    tail_at = max(0, size - 65_557)
    tail = read(tail_at, size - tail_at)
    end = tail.rfind(b"PK\x05\x06")
    if end < 0:
        raise _NotAModel
    length, offset = struct.unpack("<II", tail[end + 12 : end + 20])
    if 0xFFFFFFFF in (length, offset) and end >= 20:
        magic, _, end64 = struct.unpack("<4sIQ", tail[end - 20 : end - 4])
        record = read(min(end64, size), 56)
        if magic != b"PK\x06\x07" or record[:4] != b"PK\x06\x06":
            raise _NotAModel
        length, offset = struct.unpack("<QQ", record[40:56])
    if length > _MOST_DIRECTORY_BYTES or offset + length > size:
        raise _NotAModel
    return read(offset, length)


def _zip64(extra: bytes, fields: tuple[int, int, int]) -> list[int]:
    """Return the sizes and the offset, those that are too large for their fields from the extra field."""
    wide = b""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack("<HH", extra[at : at + 4])
        wide = extra[at + 4 : at + 4 + length] if kind == 1 else wide
        at += 4 + length
    found = []
    for field in fields:
        if field == 0xFFFFFFFF:
            (field,), wide = struct.unpack("<Q", wide[:8]), wide[8:]
        found.append(field)
    return found


def _gguf(read: Read, size: int) -> Iterator[tuple[int, int]]:
    """Source: github.com/ggml-org/ggml, docs/gguf.md, versions 2 and 3."""
    header = _Gguf(read)
    version, tensors, pairs = header.take("<4xIQQ")
    if version not in (2, 3) or tensors > MOST_BORDERS or pairs > MOST_BORDERS:
        raise _NotAModel
    alignment = 32
    for _ in range(pairs):
        key = header.text()
        (kind,) = header.take("<I")
        value = header.skip_value(kind)
        if key == b"general.alignment" and isinstance(value, int):
            alignment = value
    offsets = []
    for _ in range(tensors):
        header.text()
        (dimensions,) = header.take("<I")
        if dimensions > 8:
            raise _NotAModel
        offsets.append(header.take(f"<{dimensions}QIQ")[-1])
    if alignment <= 0 or alignment > 1 << 20:
        raise _NotAModel
    start = -(-header.at // alignment) * alignment
    starts = sorted({start + offset for offset in offsets})
    yield from zip(starts, [*starts[1:], size], strict=True)


class _Gguf:
    """Reads a GGUF header from its beginning, in windows, and no further than a limit."""

    def __init__(self, read: Read) -> None:
        self.at = 0
        self._read = read
        self._window = b""
        self._start = 0

    def take(self, form: str) -> tuple[Any, ...]:
        """Read numbers."""
        length = struct.calcsize(form)
        return struct.unpack(form, self._bytes(length))

    def text(self) -> bytes:
        """Read a string."""
        (length,) = self.take("<Q")
        return self._bytes(length)

    def skip_value(self, kind: int) -> int | None:
        """Pass over a value; a small number is returned."""
        if kind == _GGUF_STRING:
            self.text()
        elif kind == _GGUF_ARRAY:
            inner, count = self.take("<IQ")
            self._skip_items(inner, count)
        elif kind in (4, 5):
            return int(self.take("<I")[0])
        else:
            self._skip(_GGUF_WIDTHS[kind])
        return None

    def _skip_items(self, kind: int, count: int) -> None:
        if kind != _GGUF_STRING:
            self._skip(_GGUF_WIDTHS[kind] * count)
            return
        for _ in range(count):
            (length,) = self.take("<Q")
            self._skip(length)

    def _skip(self, length: int) -> None:
        self.at += length
        if self.at > _MOST_HEADER_BYTES:
            raise _NotAModel

    def _bytes(self, length: int) -> bytes:
        begin = self.at
        self._skip(length)
        if begin < self._start or self.at > self._start + len(self._window):
            self._start, self._window = begin, self._read(begin, max(length, 1 << 20))
        found = self._window[begin - self._start : self.at - self._start]
        if len(found) != length:
            raise _NotAModel
        return found


def _whole(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise _NotAModel
    return number
