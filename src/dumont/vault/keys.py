"""The vault's keys: one per repository, wrapped by the installation's, and the keys that follow from it."""

import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dumont.core import derive_key
from dumont.vault.errors import RecordDamaged, WrongKey

KEY_MAGIC = b"DMTKEY\x00\x01"
KEY_ID_BYTES = 8
NONCE_BYTES = 12
TAG_BYTES = 16
_WRAPPED_BYTES = len(KEY_MAGIC) + KEY_ID_BYTES + NONCE_BYTES + 32 + TAG_BYTES


class KeyRing:
    """The installation's keys: the current one wraps, older ones still unwrap.

    Source: AES-256-GCM (NIST SP 800-38D) under an HKDF-expanded key (RFC 5869).
    """

    def __init__(self, secret: bytes, older: Sequence[bytes] = ()) -> None:
        pairs = [(key_id(s, "wrapping"), derive_key(s, "dumont vault wrapping key v1")) for s in (secret, *older)]
        self.current_id = pairs[0][0]
        self._keys = dict(reversed(pairs))

    def knows(self, wrapping_id: bytes) -> bool:
        """Tell whether a key with that id is on the ring."""
        return wrapping_id in self._keys

    def wrap(self, key: bytes, repository_id: str) -> bytes:
        """Encrypt a repository's key for storage in `keys/<id>`."""
        nonce = os.urandom(NONCE_BYTES)
        head = KEY_MAGIC + self.current_id
        return head + nonce + AESGCM(self._keys[self.current_id]).encrypt(nonce, key, head + repository_id.encode())

    def unwrap(self, wrapped: bytes, repository_id: str) -> bytes:
        """Return the repository's key.

        Errors: WrongKey where no key of the ring opens it; RecordDamaged where the object is not a wrapped key.
        """
        if len(wrapped) != _WRAPPED_BYTES or not wrapped.startswith(KEY_MAGIC):
            raise RecordDamaged("A wrapped key has the wrong form.")
        head, nonce, sealed = wrapped[:16], wrapped[16:28], wrapped[28:]
        key = self._keys.get(head[8:])
        if key is None:
            raise WrongKey("This repository was made with another installation's secret key.")
        try:
            return AESGCM(key).decrypt(nonce, sealed, head + repository_id.encode())
        except InvalidTag:
            raise RecordDamaged("A wrapped key does not open: it was damaged or belongs to another place.") from None


def key_id(key: bytes, use: str) -> bytes:
    """Return the short public name of a key; it says nothing about the key."""
    return derive_key(key, f"dumont {use} key id v1")[:KEY_ID_BYTES]


class DataKeys(NamedTuple):
    """What the machine end may hold for one workspace: enough for chunks and packs, not for index or manifest."""

    key_id: bytes
    chunk: bytes
    record: bytes
    table: bytes
    merkle: bytes

    def __repr__(self) -> str:
        return "DataKeys"  # no key in a log

    @classmethod
    def of(cls, data_key: bytes) -> "DataKeys":
        """Derive the keys of chunks, records, tables and the Merkle tree from the data key."""
        uses = ("chunk id", "record", "table", "merkle")
        return cls(key_id(data_key, "data"), *(derive_key(data_key, f"dumont {use} key v1") for use in uses))


class RepositoryKeys(NamedTuple):
    """Everything that follows from the key of one repository; only the control plane holds it."""

    key_id: bytes
    data_key: bytes
    seal: bytes

    def __repr__(self) -> str:
        return "RepositoryKeys"  # no key in a log

    @classmethod
    def of(cls, repository_key: bytes) -> "RepositoryKeys":
        """Derive the data key and the key that seals index and manifest."""
        return cls(
            key_id(repository_key, "repository"),
            derive_key(repository_key, "dumont data key v1"),
            derive_key(repository_key, "dumont seal key v1"),
        )


def bound(repository_id: str, rest: bytes = b"") -> bytes:
    """Return the associated data that ties a sealed thing to its repository and name, unambiguously."""
    encoded = repository_id.encode()
    return struct.pack("<H", len(encoded)) + encoded + rest
