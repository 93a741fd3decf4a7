"""Packs: many records in one object, closed by a sealed table so that an index can be rebuilt from packs alone.

Small chunks share a record: it holds a group, whose members follow it in the table, each with its place in the group.
"""

import mmap
import os
import struct
import threading
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dumont.vault.errors import RecordDamaged
from dumont.vault.keys import NONCE_BYTES, TAG_BYTES, DataKeys, bound
from dumont.vault.memory import fresh_memory
from dumont.vault.records import CHUNK_ID_BYTES, MAX_CHUNK_BYTES, RECORD_OVERHEAD, Coded, Record, record_room

PACK_MAGIC = b"DMTPACK\x01"
PACK_FORMAT = 2
"""Format 1 had no groups; everything else is the same."""
MEMBER = 255
"""The codec of a table's row that stands for a member of the group in the row before."""
PACK_TARGET_BYTES = 16 << 20
MAX_PACK_BYTES = 64 << 20
MAX_PACK_RECORDS = 16_384
MAX_GROUP_MEMBERS = 4096
PACK_ID_BYTES = 16
Members = Sequence[tuple[bytes, int]]
_ROW = struct.Struct(f"<{CHUNK_ID_BYTES}sIIB3x")
_FOOTER = struct.Struct("<IIHH8s8s")
TAIL_BYTES = _FOOTER.size + NONCE_BYTES + TAG_BYTES + MAX_PACK_RECORDS * _ROW.size
USUAL_TAIL_BYTES = 128 << 10
"""What the tables of most packs fit into; to read all that one could need would be a fiftieth of a pack."""


_located = tuple.__new__
"""As a named tuple makes itself, at half the price: an index has a row for every chunk."""


class Location(NamedTuple):
    """Where a chunk lies: a record in a pack and, for a member of a group, the group's id and the place in it.

    Units: bytes; `offset` and `length` are the record's, `raw_length` is the chunk's.
    """

    pack: bytes
    offset: int
    length: int
    raw_length: int
    codec: int
    group: bytes = b""
    start: int = 0


class PackTable(NamedTuple):
    """What a pack holds: chunk ids with their places, in the order of the file. Units: `size` in bytes."""

    pack: bytes
    size: int
    rows: tuple[tuple[bytes, Location], ...]


def pack_name(pack: bytes) -> str:
    """Return the object name of a pack."""
    return f"data/{pack.hex()[:2]}/{pack.hex()}"


class PackBuilder:
    """Collect records in memory until they make a pack; `room` may be used again when the pack was sent."""

    def __init__(self, keys: DataKeys, repository_id: str, room: "bytearray | mmap.mmap | None" = None) -> None:
        self.room = new_pack_room() if room is None else room
        self._keys = keys
        self._repository_id = repository_id
        self._rows: list[bytes] = []
        self._length = 0
        self._writers = 0
        self._counting = threading.Lock()

    def add(self, record: Record, members: Members = ()) -> None:
        """Append a record; of a group, also the ids and lengths of the chunks that it holds one after the other."""
        row = _ROW.pack(record.chunk_id, len(record.data), record.raw_length, record.codec)
        self._place(len(record.data), row, members)[:] = record.data

    def reserve(self, chunk: bytes, coded: Coded, members: Members = ()) -> memoryview:
        """Append a record that the caller writes into the memory returned; then he says so with `written`."""
        with self._counting:
            self._writers += 1
        row = _ROW.pack(chunk, coded.record_bytes, coded.raw_length, coded.codec)
        return self._place(coded.record_bytes, row, members)

    def written(self) -> bool:
        """Note that a reserved record was written; tell whether the pack is full and nobody writes any more."""
        with self._counting:
            self._writers -= 1
            return self.full and not self._writers

    @property
    def full(self) -> bool:
        """Tell whether the pack should be closed now."""
        return self._length >= PACK_TARGET_BYTES or len(self._rows) >= MAX_PACK_RECORDS - MAX_GROUP_MEMBERS

    def finish(self, pack: bytes) -> memoryview:
        """Seal the table for a pack of that id and return the whole pack; the builder is used up."""
        table = b"".join(self._rows)
        nonce = os.urandom(NONCE_BYTES)
        sealed_length = NONCE_BYTES + len(table) + TAG_BYTES
        footer = _FOOTER.pack(sealed_length, len(self._rows), PACK_FORMAT, 0, self._keys.key_id, PACK_MAGIC)
        aad = footer + bound(self._repository_id, pack)
        tail = nonce + AESGCM(self._keys.table).encrypt(nonce, table, aad) + footer
        end = self._length + len(tail)
        memoryview(self.room)[self._length : end] = tail
        return memoryview(self.room)[:end]

    def _place(self, length: int, row: bytes, members: Members) -> memoryview:
        start, self._length = self._length, self._length + length
        self._rows.append(row)
        self._rows += [_ROW.pack(chunk, 0, size, MEMBER) for chunk, size in members]
        return memoryview(self.room)[start : self._length]


def new_pack_room() -> mmap.mmap:
    """Return memory that the largest pack fits into."""
    return fresh_memory(PACK_TARGET_BYTES + record_room(MAX_CHUNK_BYTES) + TAIL_BYTES, large=True)


def has_table(tail: bytes) -> bool:
    """Tell whether the last bytes of a pack hold all of its table, as far as they say themselves."""
    return len(tail) >= _FOOTER.size and len(tail) >= _FOOTER.size + _FOOTER.unpack(tail[-_FOOTER.size :])[0]


def read_table(keys: DataKeys, repository_id: str, pack: bytes, size: int, tail: bytes) -> PackTable:
    """Open a pack's table from the last bytes of the pack.

    Shapes: `tail` holds at least the table; the last `min(size, TAIL_BYTES)` bytes always do.
    Errors: RecordDamaged if it is cut short, changed, or belongs to another pack.
    """
    if len(tail) < _FOOTER.size or len(tail) > size:
        raise RecordDamaged("A pack is cut short.")
    footer = tail[-_FOOTER.size :]
    sealed_length, count, form, _, key, magic = _FOOTER.unpack(footer)
    if magic != PACK_MAGIC or not 1 <= form <= PACK_FORMAT or key != keys.key_id:
        raise RecordDamaged("A pack has no proper end: cut short, another format, or another key.")
    if sealed_length != NONCE_BYTES + count * _ROW.size + TAG_BYTES or sealed_length + _FOOTER.size > len(tail):
        raise RecordDamaged("A pack's table has an impossible length.")
    sealed = tail[-_FOOTER.size - sealed_length : -_FOOTER.size]
    try:
        table = AESGCM(keys.table).decrypt(
            sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], footer + bound(repository_id, pack)
        )
    except InvalidTag:
        raise RecordDamaged("A pack's table does not open: it was changed or moved.") from None
    found = PackTable(pack, size, tuple(place_rows(pack, table)))
    if sum(place.length for _, place in found.rows if not place.group) + sealed_length + _FOOTER.size != size:
        raise RecordDamaged("A pack's table does not account for every byte of the pack.")
    return found


def table_bytes(table: PackTable) -> bytes:
    """Return a table's rows as they stand in packs and index segments."""
    return b"".join(
        _ROW.pack(c, 0 if at.group else at.length, at.raw_length, MEMBER if at.group else at.codec)
        for c, at in table.rows
    )


def place_rows(pack: bytes, table: bytes) -> Iterable[tuple[bytes, Location]]:
    """Yield chunk ids with their places; records follow each other from offset 0, members of a group from its start.

    Errors: RecordDamaged for rows of an impossible form.
    """
    if len(table) % _ROW.size:
        raise RecordDamaged("A table is cut within a row.")
    offset = start = length_held = raw_held = codec_held = at = 0
    held: bytes | None = None
    for chunk, length, raw_length, codec in _ROW.iter_unpack(table):
        if codec == MEMBER:
            if held is None or length or start + raw_length > raw_held:
                raise RecordDamaged("A table names a member outside of its group.")
            yield chunk, _located(Location, (pack, at, length_held, raw_length, codec_held, held, start))
            start += raw_length
            continue
        if length < RECORD_OVERHEAD:
            raise RecordDamaged("A table names a record that is too short.")
        held, at, length_held, raw_held, codec_held, start = chunk, offset, length, raw_length, codec, 0
        yield chunk, _located(Location, (pack, offset, length, raw_length, codec, b"", 0))
        offset += length
