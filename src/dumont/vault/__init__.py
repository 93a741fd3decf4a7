"""The vault: a workspace's files as encrypted, deduplicated, verifiable snapshots in a store."""

from typing import TYPE_CHECKING, Any

from dumont.vault.errors import (
    RecordDamaged,
    RepositoryDamaged,
    RepositoryMissing,
    StaleEpoch,
    StoreError,
    StoreExists,
    StoreMissing,
    VaultError,
    VerificationFailed,
    WrongKey,
)
from dumont.vault.gate import Gate
from dumont.vault.keys import DataKeys, KeyRing
from dumont.vault.manifest import (
    OWN_PREFIX,
    XATTR_PREFIX,
    Entries,
    Entry,
    Kind,
    Manifest,
    Xattrs,
    bytes_of,
    check_entries,
    pack_columns,
    unpack_columns,
)
from dumont.vault.memory import Rooms, fresh_memory
from dumont.vault.merkle import merkle_root
from dumont.vault.packs import (
    MAX_GROUP_MEMBERS,
    MAX_PACK_BYTES,
    PACK_ID_BYTES,
    Location,
    PackBuilder,
    new_pack_room,
    pack_name,
)
from dumont.vault.records import CHUNK_BYTES, CHUNK_ID_BYTES, MAX_CHUNK_BYTES, Record, Sealer, record_room
from dumont.vault.repository import Repository
from dumont.vault.store import LocalStore, Store
from dumont.vault.verify import SPAN_BYTES, RecordReader, Verification, by_pack, spans

if TYPE_CHECKING:
    from dumont.vault.s3 import BucketGate, S3Place, S3Store

__all__ = [
    "CHUNK_BYTES",
    "CHUNK_ID_BYTES",
    "MAX_CHUNK_BYTES",
    "MAX_GROUP_MEMBERS",
    "MAX_PACK_BYTES",
    "OWN_PREFIX",
    "PACK_ID_BYTES",
    "SPAN_BYTES",
    "XATTR_PREFIX",
    "BucketGate",
    "DataKeys",
    "Entries",
    "Entry",
    "Gate",
    "KeyRing",
    "Kind",
    "LocalStore",
    "Location",
    "Manifest",
    "PackBuilder",
    "Record",
    "RecordDamaged",
    "RecordReader",
    "Repository",
    "RepositoryDamaged",
    "RepositoryMissing",
    "Rooms",
    "S3Place",
    "S3Store",
    "Sealer",
    "StaleEpoch",
    "Store",
    "StoreError",
    "StoreExists",
    "StoreMissing",
    "VaultError",
    "Verification",
    "VerificationFailed",
    "WrongKey",
    "Xattrs",
    "by_pack",
    "bytes_of",
    "check_entries",
    "fresh_memory",
    "merkle_root",
    "new_pack_room",
    "pack_columns",
    "pack_name",
    "record_room",
    "spans",
    "unpack_columns",
]

_BUCKETS = ("BucketGate", "S3Place", "S3Store")


def __getattr__(name: str) -> Any:
    """Bring what speaks to buckets only where it is asked for: machines never do, and lack its library."""
    if name not in _BUCKETS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dumont.vault import s3

    return getattr(s3, name)
