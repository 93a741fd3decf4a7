"""Packs: many records in one object, closed by a sealed table so that an index can be rebuilt from packs alone."""

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dumont.vault.errors import RecordDamaged
from dumont.vault.keys import NONCE_BYTES, TAG_BYTES, DataKeys, bound
from dumont.vault.records import CHUNK_ID_BYTES, RECORD_OVERHEAD, Record

PACK_MAGIC = b"DMTPACK\x01"
PACK_FORMAT = 1
PACK_TARGET_BYTES = 32 << 20
MAX_PACK_BYTES = 64 << 20
MAX_PACK_RECORDS = 16_384
PACK_ID_BYTES = 16
_ROW = struct.Struct(f"<{CHUNK_ID_BYTES}sIIB3x")
_FOOTER = struct.Struct("<IIHH8s8s")
TAIL_BYTES = _FOOTER.size + NONCE_BYTES + TAG_BYTES + MAX_PACK_RECORDS * _ROW.size


class Location(NamedTuple):
    """Where a chunk's record lies. Units: bytes."""

    pack: bytes
    offset: int
    length: int
    raw_length: int
    codec: int


@dataclass(frozen=True)
class PackTable:
    """What a pack holds: chunk ids with their places, in the order of the file. Units: `size` in bytes."""

    pack: bytes
    size: int
    rows: tuple[tuple[bytes, Location], ...]


def pack_name(pack: bytes) -> str:
    """Return the object name of a pack."""
    return f"data/{pack.hex()[:2]}/{pack.hex()}"


class PackBuilder:
    """Collect records in memory until they make a pack."""

    def __init__(self, keys: DataKeys, repository_id: str, pack: bytes) -> None:
        self.pack = pack
        self._keys = keys
        self._repository_id = repository_id
        self._body = bytearray()
        self._rows: list[bytes] = []

    def add(self, record: Record) -> None:
        """Append a record."""
        self._body += record.data
        self._rows.append(_ROW.pack(record.chunk_id, len(record.data), record.raw_length, record.codec))

    @property
    def full(self) -> bool:
        """Tell whether the pack should be closed now."""
        return len(self._body) >= PACK_TARGET_BYTES or len(self._rows) >= MAX_PACK_RECORDS

    @property
    def empty(self) -> bool:
        """Tell whether there is nothing in it."""
        return not self._rows

    def finish(self) -> bytearray:
        """Seal the table and return the whole pack; the builder is used up."""
        table = b"".join(self._rows)
        nonce = os.urandom(NONCE_BYTES)
        sealed_length = NONCE_BYTES + len(table) + TAG_BYTES
        footer = _FOOTER.pack(sealed_length, len(self._rows), PACK_FORMAT, 0, self._keys.key_id, PACK_MAGIC)
        aad = footer + bound(self._repository_id, self.pack)
        self._body += nonce + AESGCM(self._keys.table).encrypt(nonce, table, aad) + footer
        return self._body


def read_table(keys: DataKeys, repository_id: str, pack: bytes, size: int, tail: bytes) -> PackTable:
    """Open a pack's table from the last bytes of the pack.

    Shapes: `tail` holds the last `min(size, TAIL_BYTES)` bytes.
    Errors: RecordDamaged if it is cut short, changed, or belongs to another pack.
    """
    if len(tail) < _FOOTER.size or len(tail) != min(size, TAIL_BYTES):
        raise RecordDamaged("A pack is cut short.")
    footer = tail[-_FOOTER.size :]
    sealed_length, count, form, _, key, magic = _FOOTER.unpack(footer)
    if magic != PACK_MAGIC or form != PACK_FORMAT or key != keys.key_id:
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
    if sum(location.length for _, location in found.rows) + sealed_length + _FOOTER.size != size:
        raise RecordDamaged("A pack's table does not account for every byte of the pack.")
    return found


def table_bytes(table: PackTable) -> bytes:
    """Return a table's rows as they stand in packs and index segments."""
    return b"".join(_ROW.pack(c, place.length, place.raw_length, place.codec) for c, place in table.rows)


def place_rows(pack: bytes, table: bytes) -> Iterable[tuple[bytes, Location]]:
    """Yield chunk ids with their places; records follow each other from offset 0.

    Errors: RecordDamaged for rows of an impossible form.
    """
    if len(table) % _ROW.size:
        raise RecordDamaged("A table is cut within a row.")
    offset = 0
    for chunk, length, raw_length, codec in _ROW.iter_unpack(table):
        if length < RECORD_OVERHEAD:
            raise RecordDamaged("A table names a record that is too short.")
        yield chunk, Location(pack, offset, length, raw_length, codec)
        offset += length
