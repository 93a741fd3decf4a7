"""Manifests: what a snapshot holds, entry by entry, with the rules that a path must keep."""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import msgpack

from dumont.vault.errors import RecordDamaged
from dumont.vault.records import CHUNK_BYTES, CHUNK_ID_BYTES, MAX_CHUNK_BYTES

MANIFEST_FORMAT = 2
"""Format 1 has no lengths of chunks: every file is cut into 4 MiB; everything else is the same."""
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
    file (hard links), numbered by first appearance; each of them carries the chunk list. `lengths` are those of the
    chunks; where none are given, the file is cut into 4 MiB.
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
    lengths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.chunks and not self.lengths:
            object.__setattr__(self, "lengths", _fixed_lengths(self.size, len(self.chunks)))

    def filled(self, chunks: tuple[bytes, ...], lengths: tuple[int, ...]) -> "Entry":
        """Return the same entry with chunks: ten times as quick as `replace`."""
        head = (self.path, self.kind, self.mode, self.uid, self.gid, self.mtime_ns, self.size, self.target)
        return Entry(*head, self.group, self.sparse, chunks, lengths)

    def pieces(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield where each chunk begins in the file, its length and its id."""
        offset = 0
        for length, chunk in zip(self.lengths, self.chunks, strict=True):
            yield offset, length, chunk
            offset += length


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
        if not 1 <= document["v"] <= MANIFEST_FORMAT or document["name"] != name:
            raise RecordDamaged(f"{name} is of another format or belongs under another name.")
        return Manifest(**{f: document[f] for f in _FIELDS}, entries=tuple(from_columns(document["entries"])))
    except (KeyError, TypeError, ValueError, msgpack.UnpackException) as error:
        raise RecordDamaged(f"{name} does not have the form of a manifest.") from error


def columns(entries: Sequence[Entry]) -> dict[str, Any]:
    """Return entries as columns, which compress well."""
    total = sum(len(entry.lengths) for entry in entries)
    return {
        **{name: [getattr(entry, name) for entry in entries] for name in _COLUMNS},
        "chunk_counts": [len(entry.chunks) for entry in entries],
        "chunks": b"".join(chunk for entry in entries for chunk in entry.chunks),
        "lengths": struct.pack(f"<{total}I", *(length for entry in entries for length in entry.lengths)),
    }


def from_columns(found: dict[str, Any]) -> list[Entry]:
    """Read entries from columns and check them.

    Errors: RecordDamaged for columns of different lengths, impossible values or paths.
    """
    flat, counts = found["chunks"], found["chunk_counts"]
    total = sum(counts)
    if any(len(found[name]) != len(counts) for name in _COLUMNS) or len(flat) != CHUNK_ID_BYTES * total:
        raise RecordDamaged("The columns of a manifest have different lengths.")
    sizes = _lengths(found, total)
    ids = [flat[at : at + CHUNK_ID_BYTES] for at in range(0, len(flat), CHUNK_ID_BYTES)]
    entries = []
    start = 0
    for count, path, kind, *plain in zip(counts, *(found[name] for name in _COLUMNS), strict=True):
        end = start + count
        values: list[Any] = [*plain, tuple(ids[start:end]), tuple(sizes[start:end])]
        entries.append(Entry(path, Kind(kind), *values))
        start = end
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
        if not _adds_up(entry) or (entry.kind is Kind.LINK) != bool(entry.target):
            raise RecordDamaged("A manifest gives an entry chunks of the wrong lengths or a wrong link target.")
        if entry.kind is Kind.FOLDER:
            folders.add(entry.path)
        before = entry.path


def _adds_up(entry: Entry) -> bool:
    if entry.kind is not Kind.FILE:
        return not entry.chunks and not entry.lengths
    lengths = entry.lengths
    if not lengths:
        return entry.size == 0 and not entry.chunks
    fits = min(lengths) > 0 and max(lengths) <= MAX_CHUNK_BYTES
    return fits and len(lengths) == len(entry.chunks) and sum(lengths) == entry.size


def _fixed_lengths(size: int, count: int) -> tuple[int, ...]:
    return tuple(max(0, min(CHUNK_BYTES, size - position * CHUNK_BYTES)) for position in range(count))


def _lengths(found: dict[str, Any], total: int) -> Sequence[int]:
    if "lengths" not in found:
        pairs = zip(found["size"], found["chunk_counts"], strict=True)
        return [length for size, count in pairs for length in _fixed_lengths(size, count)]
    if len(found["lengths"]) != 4 * total:
        raise RecordDamaged("The columns of a manifest have different lengths.")
    return struct.unpack(f"<{total}I", found["lengths"])


_COLUMNS = ("path", "kind", "mode", "uid", "gid", "mtime_ns", "size", "target", "group", "sparse")
_FIELDS = (
    *("name", "parent", "host", "root", "created", "epoch", "merkle_root"),
    *("exclude", "read_errors", "unstable", "skipped", "packs_new", "totals"),
)


def _pack(document: dict[str, Any]) -> bytes:
    packed: bytes = msgpack.packb(document)
    return packed
