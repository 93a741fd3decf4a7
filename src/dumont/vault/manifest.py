"""Manifests: what a snapshot holds, entry by entry, with the rules that a path must keep."""

import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from itertools import chain, compress, islice
from operator import attrgetter, lt
from typing import Any, overload

import msgpack

from dumont.vault.errors import RecordDamaged
from dumont.vault.records import CHUNK_BYTES, CHUNK_ID_BYTES, MAX_CHUNK_BYTES

MANIFEST_FORMAT = 2
"""Format 1 has no lengths of chunks: every file is cut into 4 MiB; everything else is the same."""
OWN_PREFIX = b".dumont"
"""Top-level names that begin so are the product's own: never saved, never replaced."""
XATTR_PREFIX = b"user."
"""Extended attributes of this name space are a user's own; others belong to the system of one machine."""

Columns = dict[str, Any]
Xattrs = tuple[tuple[bytes, bytes], ...]
_COLUMNS = ("path", "kind", "mode", "uid", "gid", "mtime_ns", "size", "target", "group", "sparse")


class Kind(IntEnum):
    """What an entry is."""

    FILE = 1
    FOLDER = 2
    LINK = 3


class Entry:
    """One path of a workspace. Nobody changes one; Python would allow it, so that they are made three times as quickly.

    Units: `mtime_ns` in nanoseconds of Unix time, `size` in bytes. `group` is above zero for paths that share one
    file (hard links), numbered by first appearance; each of them carries the chunk list. `lengths` are those of the
    chunks; where none are given, the file is cut into 4 MiB. `xattrs` are names and values, by name.
    """

    __slots__ = (*_COLUMNS, "chunks", "lengths", "xattrs")

    def __init__(
        self,
        path: bytes,
        kind: Kind,
        mode: int,
        uid: int,
        gid: int,
        mtime_ns: int,
        size: int = 0,
        target: bytes = b"",
        group: int = 0,
        sparse: bool = False,
        chunks: tuple[bytes, ...] = (),
        lengths: tuple[int, ...] = (),
        xattrs: Xattrs = (),
    ) -> None:
        self.path = path
        self.kind = kind
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime_ns = mtime_ns
        self.size = size
        self.target = target
        self.group = group
        self.sparse = sparse
        self.chunks = chunks
        self.lengths = lengths if lengths or not chunks else _fixed_lengths(size, len(chunks))
        self.xattrs = xattrs

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entry) and _values(self) == _values(other)

    def __hash__(self) -> int:
        return hash(_values(self))

    def __repr__(self) -> str:
        return f"Entry{_values(self)!r}"

    def changed(self, **fields: Any) -> "Entry":
        """Return a copy with other fields."""
        return Entry(**{**dict(zip(self.__slots__, _values(self), strict=True)), **fields})

    def filled(self, chunks: tuple[bytes, ...], lengths: tuple[int, ...]) -> "Entry":
        """Return the same entry with chunks: four times as quick as `changed`."""
        head = (self.path, self.kind, self.mode, self.uid, self.gid, self.mtime_ns, self.size, self.target)
        return Entry(*head, self.group, self.sparse, chunks, lengths, self.xattrs)

    def pieces(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield where each chunk begins in the file, its length and its id."""
        offset = 0
        for length, chunk in zip(self.lengths, self.chunks, strict=True):
            yield offset, length, chunk
            offset += length


class Entries(Sequence[Entry]):
    """The entries of a tree as columns; they become objects only where somebody looks at them one by one.

    A tree of many thousand files is packed, checked and compared some ten times as quickly so.
    """

    __slots__ = ("_whole", "checked", "columns")

    def __init__(self, columns: Columns, whole: tuple[Entry, ...] | None = None, *, checked: bool = False) -> None:
        self.columns = columns
        self.checked = checked
        self._whole = whole

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> "Entries":
        """Return entries as columns; those that are already come back as they are."""
        if isinstance(entries, Entries):
            return entries
        whole = tuple(entries)
        columns: Columns = {name: tuple(map(attrgetter(name), whole)) for name in _COLUMNS}
        lengths = tuple(chain.from_iterable(map(attrgetter("lengths"), whole)))
        columns["chunk_counts"] = tuple(len(entry.chunks) for entry in whole)
        columns["chunks"] = b"".join(chain.from_iterable(map(attrgetter("chunks"), whole)))
        columns["lengths"] = struct.pack(f"<{len(lengths)}I", *lengths)
        if any(map(attrgetter("xattrs"), whole)):
            columns["xattr"] = tuple(map(attrgetter("xattrs"), whole))
        return cls(columns, whole)

    @classmethod
    def read(cls, found: Columns) -> "Entries":
        """Take in columns that somebody else wrote.

        Errors: RecordDamaged for columns of different lengths, impossible values or paths.
        """
        try:
            columns: Columns = {name: tuple(found[name]) for name in (*_COLUMNS, "chunk_counts")}
            columns["chunks"] = bytes(found["chunks"])
            columns["lengths"] = bytes(found["lengths"]) if "lengths" in found else _old_lengths(found)
            if "xattr" in found:
                columns["xattr"] = tuple(tuple(map(tuple, pairs)) for pairs in found["xattr"])
            _check(columns)
        except (KeyError, TypeError, ValueError, struct.error) as error:
            raise RecordDamaged("A list of entries does not have the right form.") from error
        return cls(columns, checked=True)

    def __len__(self) -> int:
        return len(self.columns["path"])

    def __iter__(self) -> Iterator[Entry]:
        return self._made() if self._whole is None else iter(self._whole)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | Sequence[Entry]:
        if self._whole is None:
            self._whole = tuple(self._made())
        return self._whole[index]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Entries):
            return self.columns == other.columns
        return isinstance(other, (tuple, list)) and len(other) == len(self) and all(map(_equal, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Entries({list(self)!r})"

    def chunk_ids(self) -> list[bytes]:
        """Return the ids of the chunks of all entries, in order, with repetitions."""
        flat = self.columns["chunks"]
        return [flat[at : at + CHUNK_ID_BYTES] for at in range(0, len(flat), CHUNK_ID_BYTES)]

    def chunk_lengths(self) -> tuple[int, ...]:
        """Return the lengths of these chunks."""
        return _numbers(self.columns["lengths"])

    def _made(self) -> Iterator[Entry]:
        columns = self.columns
        ids, lengths = self.chunk_ids(), self.chunk_lengths()
        xattrs = columns.get("xattr") or ((),) * len(self)
        start = 0
        rows = zip(columns["chunk_counts"], xattrs, *(columns[name] for name in _COLUMNS), strict=True)
        for count, pairs, path, kind, *plain in rows:
            end = start + count
            rest: list[Any] = [*plain, tuple(ids[start:end]), lengths[start:end], pairs]
            yield Entry(path, _KINDS[kind], *rest)
            start = end


class Manifest:
    """A snapshot: where it came from, what it holds, and what could not be read. Units: sizes in bytes."""

    def __init__(
        self,
        name: str,
        parent: str | None,
        host: str,
        root: str,
        created: str,
        epoch: int,
        merkle_root: bytes,
        entries: Iterable[Entry],
        exclude: tuple[str, ...] = (),
        read_errors: tuple[tuple[bytes, str], ...] = (),
        unstable: tuple[bytes, ...] = (),
        skipped: tuple[bytes, ...] = (),
        packs_new: tuple[bytes, ...] = (),
        totals: dict[str, int] | None = None,
    ) -> None:
        self.name = name
        self.parent = parent
        self.host = host
        self.root = root
        self.created = created
        self.epoch = epoch
        self.merkle_root = merkle_root
        self.entries = Entries.of(entries)
        self.exclude = exclude
        self.read_errors = read_errors
        self.unstable = unstable
        self.skipped = skipped
        self.packs_new = packs_new
        self.totals = totals or {}

    def changed(self, **fields: Any) -> "Manifest":
        """Return a copy with other fields."""
        return Manifest(**{**vars(self), **fields})

    @property
    def files(self) -> int:
        """How many files it holds."""
        kinds: tuple[int, ...] = self.entries.columns["kind"]
        return kinds.count(_FILE)

    @property
    def bytes_total(self) -> int:
        """How many bytes the files hold; hard links count once."""
        columns = self.entries.columns
        rows = zip(columns["group"], columns["path"], columns["size"], columns["kind"], strict=True)
        return sum({group or path: size for group, path, size, kind in rows if kind == _FILE}.values())

    def chunks(self) -> set[bytes]:
        """Return the ids of all chunks."""
        return set(self.entries.chunk_ids())


def bytes_of(entries: Iterable[Entry]) -> int:
    """Return the bytes of the files among entries; hard links count once."""
    sizes: dict[object, int] = {(e.group or e.path): e.size for e in entries if e.kind is Kind.FILE}
    return sum(sizes.values())


def dump_manifest(manifest: Manifest) -> bytes:
    """Return the content of a manifest object, before sealing."""
    document = {name: getattr(manifest, name) for name in _FIELDS}
    return _pack({"v": MANIFEST_FORMAT, **document, "entries": manifest.entries.columns})


def load_manifest(name: str, content: bytes, *, check: bool = True) -> Manifest:
    """Read the content of a manifest object; without `check` nothing is proven of its entries.

    Errors: RecordDamaged if it is of another format, incomplete, or names an impossible path.
    """
    try:
        document = msgpack.unpackb(content, use_list=False, strict_map_key=False)
        if not 1 <= document["v"] <= MANIFEST_FORMAT or document["name"] != name:
            raise RecordDamaged(f"{name} is of another format or belongs under another name.")
        entries = Entries.read(document["entries"]) if check else Entries(document["entries"])
        return Manifest(**{f: document[f] for f in _FIELDS}, entries=entries)
    except (KeyError, TypeError, ValueError, msgpack.UnpackException) as error:
        raise RecordDamaged(f"{name} does not have the form of a manifest.") from error


def pack_columns(entries: Iterable[Entry]) -> bytes:
    """Return entries as bytes, for the way between control plane and machine."""
    return _pack(Entries.of(entries).columns)


def unpack_columns(data: bytes) -> Entries:
    """Read what `pack_columns` wrote.

    Errors: RecordDamaged as for `Entries.read`.
    """
    try:
        return Entries.read(msgpack.unpackb(data, use_list=False))
    except (KeyError, TypeError, ValueError, msgpack.UnpackException) as error:
        raise RecordDamaged("A list of entries does not have the right form.") from error


def check_entries(entries: Iterable[Entry]) -> None:
    """Refuse anything that could lead out of the workspace or be told in two ways.

    Guarantees: paths are relative, plain, in strict order; each parent is a folder entry before its children, so that
    no path leads through a link; files have exactly the chunks that their size asks for.
    Errors: RecordDamaged.
    """
    listed = Entries.of(entries)
    if not listed.checked:
        Entries.read(listed.columns)


def _check(columns: Columns) -> None:
    paths, kinds, targets = columns["path"], columns["kind"], columns["target"]
    wide = {len(columns[name]) for name in (*_COLUMNS, "chunk_counts")}
    wide.add(len(columns["xattr"]) if "xattr" in columns else len(paths))
    typed = {*map(type, chain.from_iterable(columns[name] for name in _WHOLE))} <= {int, bool, Kind}
    if len(wide) != 1 or not typed or {*map(type, chain(paths, targets))} - {bytes} or set(kinds) - set(Kind):
        raise RecordDamaged("The columns of a manifest have different lengths or values of a wrong kind.")
    _check_paths(paths, kinds)
    modes = columns["mode"]
    least = min(min(columns[name], default=0) for name in ("mode", "size", "group", "chunk_counts"))
    if least < 0 or max(modes, default=0) > 0o7777:
        raise RecordDamaged("A manifest gives an entry an impossible mode, size or group.")
    aimed = [*compress(kinds, targets)]
    if not len(aimed) == aimed.count(_LINK) == kinds.count(_LINK):
        raise RecordDamaged("A manifest gives an entry a wrong link target.")
    _check_chunks(columns)
    if not all(map(_plain_xattrs, columns.get("xattr", ()), kinds)):
        raise RecordDamaged("A manifest gives an entry extended attributes that are not a user's.")


def _check_paths(paths: Sequence[bytes], kinds: Sequence[int]) -> None:
    joined = b"\x00".join((b"", *paths, b""))
    if joined.count(b"\x00") != len(paths) + 1 or not all(map(lt, paths, islice(paths, 1, None))):
        raise RecordDamaged("A manifest names a path that leads out of the workspace or is out of order.")
    if b"\x00" + OWN_PREFIX in joined:
        raise RecordDamaged("A manifest names a path that belongs to the product itself.")
    names = joined.replace(b"/", b"\x00")
    parents = {path.rpartition(b"/")[0] for path in paths} - {b""}
    if any(odd in names for odd in _NO_NAMES) or not parents <= {
        path for path, kind in zip(paths, kinds, strict=True) if kind == _FOLDER
    }:
        raise RecordDamaged("A manifest names a path that leads out of the workspace or is out of order.")


def _check_chunks(columns: Columns) -> None:
    lengths = _numbers(columns["lengths"])
    total = sum(columns["chunk_counts"])
    if len(lengths) != total or len(columns["chunks"]) != CHUNK_ID_BYTES * total:
        raise RecordDamaged("The columns of a manifest have different lengths.")
    fits = not total or (min(lengths) > 0 and max(lengths) <= MAX_CHUNK_BYTES)
    start = 0
    for kind, count, size in zip(columns["kind"], columns["chunk_counts"], columns["size"], strict=True):
        end = start + count
        if kind != _FILE:
            fits = fits and not count
        elif (lengths[start] if count == 1 else sum(lengths[start:end])) != size:
            fits = False
        start = end
    if not fits:
        raise RecordDamaged("A manifest gives an entry chunks of the wrong lengths.")


def _plain_xattrs(pairs: Xattrs, kind: int) -> bool:
    if not pairs:
        return True
    names = [name for name, _ in pairs]
    plain = all(name.startswith(XATTR_PREFIX) and b"\x00" not in name for name in names)
    sized = all(len(name) < 256 and isinstance(value, bytes) and len(value) <= 65_536 for name, value in pairs)
    return kind != _LINK and plain and sized and names == sorted(set(names))


def _fixed_lengths(size: int, count: int) -> tuple[int, ...]:
    return tuple(max(0, min(CHUNK_BYTES, size - position * CHUNK_BYTES)) for position in range(count))


def _old_lengths(found: Columns) -> bytes:
    pairs = zip(found["size"], found["chunk_counts"], strict=True)
    lengths = [length for size, count in pairs for length in _fixed_lengths(size, count)]
    return struct.pack(f"<{len(lengths)}I", *lengths)


def _numbers(packed: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(packed) // 4}I", packed)


def _equal(one: Entry, other: object) -> bool:
    return one == other


_values = attrgetter(*Entry.__slots__)
_FILE, _FOLDER, _LINK = map(int, Kind)
_NO_NAMES = (b"\x00\x00", b"\x00.\x00", b"\x00..\x00")
"""Names that are none, between what parts them."""
_KINDS = {int(kind): kind for kind in Kind}
_WHOLE = ("kind", "mode", "uid", "gid", "mtime_ns", "size", "group", "sparse", "chunk_counts")
_FIELDS = (
    *("name", "parent", "host", "root", "created", "epoch", "merkle_root"),
    *("exclude", "read_errors", "unstable", "skipped", "packs_new", "totals"),
)


def _pack(document: dict[str, Any]) -> bytes:
    packed: bytes = msgpack.packb(document)
    return packed
