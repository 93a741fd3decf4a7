"""The vault: a workspace's files as encrypted, deduplicated, verifiable snapshots in a store."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dumont.vault.arrays import load_numpy, numpy_core
from dumont.vault.errors import (
    NotInSnapshot,
    RecordDamaged,
    RecordUnknown,
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
from dumont.vault.memory import ROOM_BYTES, Room, Rooms, fresh_memory
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
from dumont.vault.verify import SPAN_BYTES, RecordReader, Verification, by_pack, spans, touched_files
from dumont.vault.weaving import Raw, pieces, whole

if TYPE_CHECKING:
    from dumont.vault.choosing import Choice, Chosen, choose, chosen_entries
    from dumont.vault.collecting import Authority, Collection, Limits, Named, collect
    from dumont.vault.door import QuietServer
    from dumont.vault.gate import Gate
    from dumont.vault.place import S3Place
    from dumont.vault.repository import Repository
    from dumont.vault.s3 import BucketGate, S3Store
    from dumont.vault.store import LocalStore, Store

__all__ = [
    "CHUNK_BYTES",
    "CHUNK_ID_BYTES",
    "MAX_CHUNK_BYTES",
    "MAX_GROUP_MEMBERS",
    "MAX_PACK_BYTES",
    "OWN_PREFIX",
    "PACK_ID_BYTES",
    "ROOM_BYTES",
    "SPAN_BYTES",
    "XATTR_PREFIX",
    "Authority",
    "BucketGate",
    "Choice",
    "Chosen",
    "Collection",
    "DataKeys",
    "Entries",
    "Entry",
    "Gate",
    "KeyRing",
    "Kind",
    "Limits",
    "LocalStore",
    "Location",
    "Manifest",
    "Named",
    "NotInSnapshot",
    "PackBuilder",
    "QuietServer",
    "Raw",
    "Record",
    "RecordDamaged",
    "RecordReader",
    "RecordUnknown",
    "Repository",
    "RepositoryDamaged",
    "RepositoryMissing",
    "Room",
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
    "choose",
    "chosen_entries",
    "collect",
    "fresh_memory",
    "load_numpy",
    "merkle_root",
    "new_pack_room",
    "numpy_core",
    "pack_columns",
    "pack_name",
    "pieces",
    "record_room",
    "spans",
    "touched_files",
    "unpack_columns",
    "whole",
]

_LATER = {
    **dict.fromkeys(("Choice", "Chosen", "choose", "chosen_entries"), "choosing"),
    "Gate": "gate",
    "QuietServer": "door",
    "S3Place": "place",
    "Repository": "repository",
    **dict.fromkeys(("LocalStore", "Store"), "store"),
    **dict.fromkeys(("BucketGate", "S3Store"), "s3"),
    **dict.fromkeys(("Authority", "Collection", "Limits", "Named", "collect"), "collecting"),
}


def __getattr__(name: str) -> Any:
    """Bring what keeps repositories, serves packs or collects only where it is asked for: machines never do."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"dumont.vault.{_LATER[name]}"), name)
