"""Records: one chunk each, compressed, encrypted, and tied to its own id and repository."""

import os
import struct
from typing import NamedTuple

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dumont.vault.codecs import decode, encode
from dumont.vault.errors import RecordDamaged, RecordUnknown
from dumont.vault.keys import NONCE_BYTES, TAG_BYTES, DataKeys
from dumont.vault.memory import Rooms
from dumont.vault.weaving import Raw, whole

CHUNK_BYTES = 4 << 20
"""Where nothing better is known about a file, it is cut so; manifests of format 1 know no other cut."""
MAX_CHUNK_BYTES = 8 << 20
CHUNK_ID_BYTES = 32
RECORD_FORMAT = 1
_HEADER = struct.Struct("<BBH8sI")
RECORD_OVERHEAD = NONCE_BYTES + _HEADER.size + TAG_BYTES


class Record(NamedTuple):
    """A sealed chunk and what the pack's table says about it. Units: `raw_length` in bytes."""

    chunk_id: bytes
    codec: int
    raw_length: int
    data: "bytes | memoryview"


class Coded(NamedTuple):
    """A compressed chunk, before it is sealed. Units: `raw_length` and `record_bytes` in bytes."""

    codec: int
    parameter: int
    raw_length: int
    body: "bytes | memoryview"

    @property
    def record_bytes(self) -> int:
        """How long its record will be."""
        return RECORD_OVERHEAD + len(self.body)


class Sealer:
    """Turn chunks into records and back, for one repository. Safe to share between threads."""

    def __init__(self, keys: DataKeys, repository_id: str) -> None:
        self.keys = keys
        self.repository_id = repository_id
        self._cipher = AESGCM(keys.record)
        self._repository = repository_id.encode()

    def chunk_id(self, raw: "bytes | bytearray | memoryview") -> bytes:
        """Return the chunk's keyed BLAKE3: equal chunks of a workspace share it, nobody else can compute it."""
        return blake3(raw, key=self.keys.chunk).digest()

    def hasher(self) -> blake3:
        """Return what computes the id of a chunk that comes in pieces."""
        return blake3(key=self.keys.chunk)

    def seal(self, chunk_id: bytes, raw: "bytes | memoryview") -> Record:
        """Compress and encrypt a chunk."""
        coded = self.encode(raw)
        room = bytearray(coded.record_bytes)
        self.seal_into(chunk_id, coded, memoryview(room))
        return Record(chunk_id, coded.codec, coded.raw_length, bytes(room))

    def encode(self, raw: "bytes | memoryview") -> "Coded":
        """Compress a chunk; what comes out is good until this thread compresses the next one."""
        codec, parameter, body = encode(raw)
        return Coded(int(codec), parameter, len(raw), body[0] if len(body) == 1 else b"".join(body))

    def seal_into(self, chunk_id: bytes, coded: "Coded", room: memoryview) -> None:
        """Write the record of a compressed chunk into `room`.

        Shapes: `room` has `coded.record_bytes` bytes.
        """
        header = _HEADER.pack(RECORD_FORMAT, coded.codec, coded.parameter, self.keys.key_id, coded.raw_length)
        nonce = os.urandom(NONCE_BYTES)
        start = NONCE_BYTES + _HEADER.size
        room[:NONCE_BYTES], room[NONCE_BYTES:start] = nonce, header
        self._cipher.encrypt_into(nonce, coded.body, chunk_id + header + self._repository, room[start:])

    def open(
        self, chunk_id: bytes, data: bytes | memoryview, *, hashed: bool = True, rooms: Rooms | None = None
    ) -> Raw:
        """Return the chunk in a record, proven to be the chunk of that id; with `rooms` it is good until their next.

        With `rooms` the record is opened where it lies, and is none any more: memory had anew costs more than AES.
        Without `hashed` the proof is the seal alone, which names the id; for who hashes the bytes himself later.
        Errors: RecordDamaged if anything at all does not fit; RecordUnknown if it opens and a newer version wrote it.
        """
        if len(data) < RECORD_OVERHEAD:
            raise RecordDamaged("A record is too short.")
        nonce, header = bytes(data[:NONCE_BYTES]), bytes(data[NONCE_BYTES : NONCE_BYTES + _HEADER.size])
        form, codec, parameter, key, raw_length = _HEADER.unpack(header)
        if key != self.keys.key_id:
            raise RecordDamaged("A record was written with another key.")
        try:
            sealed = memoryview(data)[NONCE_BYTES + _HEADER.size :]
            body = self._opened(nonce, sealed, chunk_id + header + self._repository, rooms)
        except InvalidTag:
            raise RecordDamaged("A record does not open: it was changed, moved or relabelled.") from None
        if form != RECORD_FORMAT:  # sealed so: a flipped bit would not have opened
            raise RecordUnknown(f"format {form}")
        raw = decode(codec, parameter, body, raw_length, rooms)
        if hashed and self.chunk_id(whole(raw)) != chunk_id:
            raise RecordDamaged("A record opens to other bytes than its id promises.")
        return raw

    def _opened(self, nonce: bytes, sealed: memoryview, bound: bytes, rooms: Rooms | None) -> "bytes | memoryview":
        if rooms is None:
            return self._cipher.decrypt(nonce, sealed, bound)
        # rests on the library to take a room that begins where the data does, which it does not promise: see the tests
        return sealed[: self._cipher.decrypt_into(nonce, sealed, bound, sealed[:-TAG_BYTES])]


def record_room(raw_length: int) -> int:
    """Return how many bytes the record of a chunk may need at most."""
    return RECORD_OVERHEAD + raw_length
