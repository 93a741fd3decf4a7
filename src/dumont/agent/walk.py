"""Walk a workspace: list its entries, read its files in chunks, and notice what changes meanwhile."""

import fnmatch
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from typing import NamedTuple

from dumont.vault import CHUNK_BYTES, OWN_PREFIX, Entry, Kind

_READERS = min(4, os.cpu_count() or 1)
_KINDS = {stat.S_IFREG: Kind.FILE, stat.S_IFDIR: Kind.FOLDER, stat.S_IFLNK: Kind.LINK}


class Found(NamedTuple):
    """An entry without its chunks; `mark` is what tells that a file is still the same: see `mark_of`."""

    entry: Entry
    mark: tuple[int, ...]

    @property
    def inode(self) -> tuple[int, ...]:
        """The device and the inode that it was seen as."""
        return self.mark[:2]


@dataclass
class Scan:
    """What a walk saw, in the order of paths."""

    found: list[Found] = field(default_factory=list)
    errors: list[tuple[bytes, str]] = field(default_factory=list)
    skipped: list[bytes] = field(default_factory=list)


class Excluder:
    """Decide which paths stay out of snapshots.

    Shapes: a pattern without a slash is matched against each name, one with a slash against the whole relative path.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        names = [p for p in patterns if "/" not in p.strip("/")]
        paths = [p.strip("/") for p in patterns if "/" in p.strip("/")]
        self._names = _compile([p.strip("/") for p in names])
        self._paths = _compile(paths)
        self._any = bool(patterns)

    def __call__(self, path: bytes) -> bool:
        """Tell whether a path relative to the workspace is left out."""
        if path.startswith(OWN_PREFIX) and b"/" not in path:
            return True
        if not self._any:
            return False
        text = os.fsdecode(path)
        return bool(self._names.match(text.rpartition("/")[2]) or self._paths.match(text))


def scan(root: bytes, excluded: Callable[[bytes], bool], *, own: Sequence[bytes] = ()) -> Scan:
    """List the tree below `root` without following links.

    Guarantees: what cannot be read is listed in `errors`; sockets, pipes and devices in `skipped`; `own` folders are
    left out. Hard links are grouped by inode.
    """
    result = Scan()
    inodes_out = {mark_of(os.stat(path))[:2] for path in own if os.path.exists(path)}
    waiting = [b""]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(os.path.join(root, folder)) as listing:
                names = [item.name for item in listing]
        except OSError as error:
            result.errors.append((folder, _reason(error)))
            continue
        for name in names:
            path = folder + b"/" + name if folder else name
            if not excluded(path) and _look(root, path, inodes_out, result):
                waiting.append(path)
    result.found.sort(key=lambda found: found.entry.path)
    result.found = _grouped(result.found)
    if result.errors:
        unread = {path for path, _ in result.errors}
        result.errors.sort()
        result.found = [found for found in result.found if found.entry.path not in unread]
    return result


def open_regular(path: bytes) -> int:
    """Open a regular file for reading without following a link or waiting on a pipe.

    Errors: OSError, also where it is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "not a regular file")
    return descriptor


def entries_with_chunks(
    root: bytes,
    scanned: Scan,
    wanted: Mapping[bytes, Entry],
    chunk_id: Callable[[bytes], bytes],
    on_file: Callable[[int, int], None],
) -> list[Entry]:
    """Read every file of a scan and return the entries with their chunk ids; each inode is read once.

    Guarantees: a file is cut as the wanted entry of its path is, so that equal files have equal chunks.
    Errors: OSError for what cannot be read.
    """
    firsts = {found.inode: found.entry for found in reversed(scanned.found) if found.entry.kind is Kind.FILE}
    cuts = [wanted[e.path].lengths if e.path in wanted else () for e in firsts.values()]
    read: dict[tuple[int, ...], Entry] = {}
    with ThreadPoolExecutor(_READERS, "read") as pool:
        for inode, entry in zip(
            firsts, pool.map(_hashed, repeat(root), firsts.values(), cuts, repeat(chunk_id)), strict=True
        ):
            read[inode] = entry
            on_file(entry.size, len(entry.chunks))
    return [
        found.entry.filled(read[found.inode].chunks, read[found.inode].lengths)
        if found.entry.kind is Kind.FILE
        else found.entry
        for found in scanned.found
    ]


def mark_of(seen: os.stat_result) -> tuple[int, ...]:
    """Return what tells that a file is still the same; the third is its change time."""
    return seen.st_dev, seen.st_ino, seen.st_ctime_ns, seen.st_mtime_ns, seen.st_size


def unchanged(before: os.stat_result, after: os.stat_result) -> bool:
    """Tell whether a file stayed the same between two looks."""
    return (before.st_size, before.st_mtime_ns, before.st_ctime_ns) == (
        after.st_size,
        after.st_mtime_ns,
        after.st_ctime_ns,
    )


def _hashed(root: bytes, entry: Entry, cuts: Sequence[int], chunk_id: Callable[[bytes], bytes]) -> Entry:
    ids, lengths = [], []
    with open(open_regular(os.path.join(root, entry.path)), "rb", buffering=0) as stream:
        for length in chain(cuts, repeat(CHUNK_BYTES)):
            raw = _read_whole(stream.read, length)
            if raw:
                ids.append(chunk_id(raw))
                lengths.append(len(raw))
            if len(raw) < length:
                break
    return replace(entry, size=sum(lengths), chunks=tuple(ids), lengths=tuple(lengths))


def _look(root: bytes, path: bytes, inodes_out: set[tuple[int, ...]], result: Scan) -> bool:
    full = root + b"/" + path
    try:
        seen = os.lstat(full)
        form = stat.S_IFMT(seen.st_mode)
        target = os.readlink(full) if form == stat.S_IFLNK else b""
    except OSError as error:
        result.errors.append((path, _reason(error)))
        return False
    kind = _KINDS.get(form)
    if kind is None:
        result.skipped.append(path)
        return False
    if kind is Kind.FOLDER and (seen.st_dev, seen.st_ino) in inodes_out:
        return False
    result.found.append(Found(entry_of(path, kind, seen, target), mark_of(seen)))
    return kind is Kind.FOLDER


def entry_of(path: bytes, kind: Kind, seen: os.stat_result, target: bytes = b"") -> Entry:
    """Return the entry for a path as `lstat` saw it, without chunks."""
    file = kind is Kind.FILE
    size = seen.st_size if file else len(target)
    sparse = file and seen.st_blocks * 512 < size
    plain = (path, kind, seen.st_mode & 0o7777, seen.st_uid, seen.st_gid, seen.st_mtime_ns)
    return Entry(*plain, size, target, sparse=sparse)


def _grouped(found: list[Found]) -> list[Found]:
    """Number the files that share an inode, by first appearance."""
    seen = Counter(item.inode for item in found if item.entry.kind is Kind.FILE)
    shared = {inode for inode, count in seen.items() if count > 1}
    if not shared:
        return found
    numbers: dict[tuple[int, ...], int] = {}
    result = []
    for item in found:
        if item.entry.kind is Kind.FILE and item.inode in shared:
            number = numbers.setdefault(item.inode, len(numbers) + 1)
            item = Found(replace(item.entry, group=number), item.mark)
        result.append(item)
    return result


def _read_whole(read: Callable[[int], bytes | None], length: int) -> bytes:
    first = read(length) or b""
    if len(first) == length or not first:
        return first
    parts, missing = [first], length - len(first)
    while missing and (part := read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _compile(patterns: list[str]) -> "re.Pattern[str]":
    return re.compile("|".join(fnmatch.translate(p) for p in patterns) or r"(?!)")


def _reason(error: OSError) -> str:
    return (os.strerror(error.errno) if error.errno else str(error)) or "unreadable"
