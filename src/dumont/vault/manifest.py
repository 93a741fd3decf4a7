"""Manifests: what a snapshot holds, entry by entry, with the rules that a path must keep."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import accumulate
from typing import Any

import msgpack

from dumont.vault.errors import RecordDamaged
from dumont.vault.records import CHUNK_BYTES, CHUNK_ID_BYTES

MANIFEST_FORMAT = 1
OWN_PREFIX = b".dumont"
"""Top-level names that begin so are the product's own: never saved, never replaced."""


class Kind(IntEnum):
    """What an entry is."""

    FILE = 1
    FOLDER = 2
    LINK = 3


@dataclass(frozen=True)
class Entry:
    """One path of a workspace.

    Units: `mtime_ns` in nanoseconds of Unix time, `size` in bytes. `group` is above zero for paths that share one
    file (hard links), numbered by first appearance; each of them carries the chunk list.
    """

    path: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    target: bytes = b""
    group: int = 0
    sparse: bool = False
    chunks: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """A snapshot: where it came from, what it holds, and what could not be read. Units: sizes in bytes."""

    name: str
    parent: str | None
    host: str
    root: str
    created: str
    epoch: int
    merkle_root: bytes
    entries: tuple[Entry, ...]
    exclude: tuple[str, ...] = ()
    read_errors: tuple[tuple[bytes, str], ...] = ()
    unstable: tuple[bytes, ...] = ()
    skipped: tuple[bytes, ...] = ()
    packs_new: tuple[bytes, ...] = ()
    totals: dict[str, int] = field(default_factory=dict)

    @property
    def files(self) -> int:
        """How many files it holds."""
        return sum(entry.kind is Kind.FILE for entry in self.entries)

    @property
    def bytes_total(self) -> int:
        """How many bytes the files hold; hard links count once."""
        return bytes_of(self.entries)

    def chunks(self) -> set[bytes]:
        """Return the ids of all chunks."""
        return {chunk for entry in self.entries for chunk in entry.chunks}


def bytes_of(entries: Iterable[Entry]) -> int:
    """Return the bytes of the files among entries; hard links count once."""
    sizes: dict[object, int] = {(e.group or e.path): e.size for e in entries if e.kind is Kind.FILE}
    return sum(sizes.values())


def dump_manifest(manifest: Manifest) -> bytes:
    """Return the content of a manifest object, before sealing."""
    document = {name: getattr(manifest, name) for name in _FIELDS}
    return _pack({"v": MANIFEST_FORMAT, **document, "entries": columns(manifest.entries)})


def load_manifest(name: str, content: bytes) -> Manifest:
    """Read the content of a manifest object.

    Errors: RecordDamaged if it is of another format, incomplete, or names an impossible path.
    """
    try:
        document = msgpack.unpackb(content, use_list=False, strict_map_key=False)
        if document["v"] != MANIFEST_FORMAT or document["name"] != name:
            raise RecordDamaged(f"{name} is of another format or belongs under another name.")
        return Manifest(**{f: document[f] for f in _FIELDS}, entries=tuple(from_columns(document["entries"])))
    except (KeyError, TypeError, ValueError, msgpack.UnpackException) as error:
        raise RecordDamaged(f"{name} does not have the form of a manifest.") from error


def columns(entries: Sequence[Entry]) -> dict[str, Any]:
    """Return entries as columns, which compress well."""
    return {
        **{name: [getattr(entry, name) for entry in entries] for name in _COLUMNS},
        "chunk_counts": [len(entry.chunks) for entry in entries],
        "chunks": b"".join(chunk for entry in entries for chunk in entry.chunks),
    }


def from_columns(found: dict[str, Any]) -> list[Entry]:
    """Read entries from columns and check them.

    Errors: RecordDamaged for columns of different lengths, impossible values or paths.
    """
    flat, counts = found["chunks"], found["chunk_counts"]
    rows = list(zip(*(found[name] for name in _COLUMNS), strict=False))
    if any(len(found[name]) != len(counts) for name in _COLUMNS) or len(flat) != CHUNK_ID_BYTES * sum(counts):
        raise RecordDamaged("The columns of a manifest have different lengths.")
    ends = list(accumulate(counts))
    entries = []
    for row, count, end in zip(rows, counts, ends, strict=True):
        ids = flat[(end - count) * CHUNK_ID_BYTES : end * CHUNK_ID_BYTES]
        chunks = tuple(ids[at : at + CHUNK_ID_BYTES] for at in range(0, len(ids), CHUNK_ID_BYTES))
        values = dict(zip(_COLUMNS, row, strict=True))
        entries.append(Entry(**{**values, "kind": Kind(values["kind"])}, chunks=chunks))
    check_entries(entries)
    return entries


def pack_columns(entries: Sequence[Entry]) -> bytes:
    """Return entries as bytes, for the way between control plane and machine."""
    return _pack(columns(entries))


def unpack_columns(data: bytes) -> list[Entry]:
    """Read what `pack_columns` wrote.

    Errors: RecordDamaged as for `from_columns`.
    """
    try:
        return from_columns(msgpack.unpackb(data, use_list=False))
    except (KeyError, TypeError, ValueError, msgpack.UnpackException) as error:
        raise RecordDamaged("A list of entries does not have the right form.") from error


def check_entries(entries: Sequence[Entry]) -> None:
    """Refuse anything that could lead out of the workspace or be told in two ways.

    Guarantees: paths are relative, plain, in strict order; each parent is a folder entry before its children, so that
    no path leads through a link; files have exactly the chunks that their size asks for.
    Errors: RecordDamaged.
    """
    folders = {b""}
    before = b""
    for entry in entries:
        parent, _, name = entry.path.rpartition(b"/")
        plain = name not in (b"", b".", b"..") and b"\x00" not in entry.path and not entry.path.startswith(b"/")
        if not plain or entry.path <= before or parent not in folders:
            raise RecordDamaged("A manifest names a path that leads out of the workspace or is out of order.")
        if not parent and name.startswith(OWN_PREFIX):
            raise RecordDamaged("A manifest names a path that belongs to the product itself.")
        if not 0 <= entry.mode <= 0o7777 or entry.size < 0 or entry.group < 0:
            raise RecordDamaged("A manifest gives an entry an impossible mode, size or group.")
        wanted = -(-entry.size // CHUNK_BYTES) if entry.kind is Kind.FILE else 0
        if len(entry.chunks) != wanted or (entry.kind is Kind.LINK) != bool(entry.target):
            raise RecordDamaged("A manifest gives an entry the wrong number of chunks or a wrong link target.")
        if entry.kind is Kind.FOLDER:
            folders.add(entry.path)
        before = entry.path


def piece_length(entry: Entry, position: int) -> int:
    """Return the length in bytes of the chunk at `position` of a file."""
    return min(CHUNK_BYTES, entry.size - position * CHUNK_BYTES)


_COLUMNS = ("path", "kind", "mode", "uid", "gid", "mtime_ns", "size", "target", "group", "sparse")
_FIELDS = (
    *("name", "parent", "host", "root", "created", "epoch", "merkle_root"),
    *("exclude", "read_errors", "unstable", "skipped", "packs_new", "totals"),
)


def _pack(document: dict[str, Any]) -> bytes:
    packed: bytes = msgpack.packb(document)
    return packed
