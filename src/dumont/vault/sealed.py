"""Sealed objects: index segments, manifests, notes and marks, encrypted and tied to their own name and repository."""

import os
import struct

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dumont.vault.codecs import Codec
from dumont.vault.errors import RecordDamaged
from dumont.vault.keys import NONCE_BYTES, TAG_BYTES, RepositoryKeys, bound

INDEX_MAGIC = b"DMTINDX\x01"
MANIFEST_MAGIC = b"DMTSNAP\x01"
NOTE_MAGIC = b"DMTNOTE\x01"
MARK_MAGIC = b"DMTMARK\x01"
SEALED_FORMAT = 1
MAX_SEALED_BYTES = 1 << 30
_HEADER = struct.Struct("<8sHB5x8s")


def seal_object(keys: RepositoryKeys, repository_id: str, name: str, magic: bytes, content: bytes) -> bytes:
    """Compress and encrypt an object's content under its name."""
    header = _HEADER.pack(magic, SEALED_FORMAT, Codec.ZSTD, keys.key_id)
    nonce = os.urandom(NONCE_BYTES)
    body = zstandard.ZstdCompressor(level=3, write_content_size=True).compress(content)
    return header + nonce + AESGCM(keys.seal).encrypt(nonce, body, header + bound(repository_id, name.encode()))


def open_object(keys: RepositoryKeys, repository_id: str, name: str, magic: bytes, data: bytes) -> bytes:
    """Return the content of a sealed object.

    Errors: RecordDamaged if it was changed, renamed, or written in another format or with another key.
    """
    header = data[: _HEADER.size]
    if len(data) < _HEADER.size + NONCE_BYTES + TAG_BYTES:
        raise RecordDamaged(f"{name} is cut short.")
    found_magic, form, codec, key = _HEADER.unpack(header)
    if (found_magic, form, codec, key) != (magic, SEALED_FORMAT, Codec.ZSTD, keys.key_id):
        raise RecordDamaged(f"{name} is of another kind or format, or was written with another key.")
    nonce, body = data[_HEADER.size : _HEADER.size + NONCE_BYTES], data[_HEADER.size + NONCE_BYTES :]
    try:
        packed = AESGCM(keys.seal).decrypt(nonce, body, header + bound(repository_id, name.encode()))
        return zstandard.ZstdDecompressor().decompress(packed, max_output_size=MAX_SEALED_BYTES)
    except (InvalidTag, zstandard.ZstdError):
        raise RecordDamaged(f"{name} does not open: it was changed or renamed.") from None
