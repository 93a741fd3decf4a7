"""Records: one chunk each, compressed, encrypted, and tied to its own id and repository."""

import os
import struct
from dataclasses import dataclass

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dumont.vault.codecs import decode, encode
from dumont.vault.errors import RecordDamaged
from dumont.vault.keys import NONCE_BYTES, TAG_BYTES, DataKeys
from dumont.vault.memory import Rooms

CHUNK_BYTES = 4 << 20
"""Where nothing better is known about a file, it is cut so; manifests of format 1 know no other cut."""
MAX_CHUNK_BYTES = 8 << 20
CHUNK_ID_BYTES = 32
RECORD_FORMAT = 1
_HEADER = struct.Struct("<BBH8sI")
RECORD_OVERHEAD = NONCE_BYTES + _HEADER.size + TAG_BYTES


@dataclass(frozen=True)
class Record:
    """A sealed chunk and what the pack's table says about it. Units: `raw_length` in bytes."""

    chunk_id: bytes
    codec: int
    raw_length: int
    data: "bytes | memoryview"


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

    def seal(self, chunk_id: bytes, raw: "bytes | memoryview") -> Record:
        """Compress and encrypt a chunk."""
        room = bytearray(record_room(len(raw)))
        codec, length = self.seal_into(chunk_id, raw, memoryview(room))
        return Record(chunk_id, codec, len(raw), bytes(room[:length]))

    def seal_into(self, chunk_id: bytes, raw: "bytes | memoryview", room: memoryview) -> tuple[int, int]:
        """Write the record of a chunk into `room` and return its codec and its length in bytes.

        Shapes: `room` has at least `record_room(len(raw))` bytes.
        """
        codec, parameter, body = encode(raw)
        whole = body[0] if len(body) == 1 else b"".join(body)
        header = _HEADER.pack(RECORD_FORMAT, codec, parameter, self.keys.key_id, len(raw))
        nonce = os.urandom(NONCE_BYTES)
        start = NONCE_BYTES + _HEADER.size
        end = start + len(whole) + TAG_BYTES
        room[:NONCE_BYTES], room[NONCE_BYTES:start] = nonce, header
        self._cipher.encrypt_into(nonce, whole, chunk_id + header + self._repository, room[start:end])
        return int(codec), end

    def open(
        self, chunk_id: bytes, data: bytes | memoryview, *, hashed: bool = True, rooms: Rooms | None = None
    ) -> "bytes | bytearray | memoryview":
        """Return the chunk in a record, proven to be the chunk of that id; with `rooms` it is good until their next.

        Without `hashed` the proof is the seal alone, which names the id; for who hashes the bytes himself later.
        Errors: RecordDamaged if anything at all does not fit.
        """
        if len(data) < RECORD_OVERHEAD:
            raise RecordDamaged("A record is too short.")
        nonce, header = bytes(data[:NONCE_BYTES]), bytes(data[NONCE_BYTES : NONCE_BYTES + _HEADER.size])
        form, codec, parameter, key, raw_length = _HEADER.unpack(header)
        if form != RECORD_FORMAT or key != self.keys.key_id:
            raise RecordDamaged("A record was written in another format or with another key.")
        try:
            sealed = memoryview(data)[NONCE_BYTES + _HEADER.size :]
            body = self._opened(nonce, sealed, chunk_id + header + self._repository, rooms)
        except InvalidTag:
            raise RecordDamaged("A record does not open: it was changed, moved or relabelled.") from None
        raw = decode(codec, parameter, body, raw_length, rooms)
        if hashed and self.chunk_id(raw) != chunk_id:
            raise RecordDamaged("A record opens to other bytes than its id promises.")
        return raw

    def _opened(self, nonce: bytes, sealed: memoryview, bound: bytes, rooms: Rooms | None) -> "bytes | memoryview":
        if rooms is None:
            return self._cipher.decrypt(nonce, sealed, bound)
        room = rooms.body(len(sealed)).view[: len(sealed) - TAG_BYTES]
        return room[: self._cipher.decrypt_into(nonce, sealed, bound, room)]


def record_room(raw_length: int) -> int:
    """Return how many bytes the record of a chunk may need at most."""
    return RECORD_OVERHEAD + raw_length
