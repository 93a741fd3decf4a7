"""Walk a workspace: list its entries, read its files in chunks, and notice what changes meanwhile."""

import errno
import fnmatch
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType
from typing import NamedTuple

from dumont.vault import OWN_PREFIX, XATTR_PREFIX, Entry, Kind, Xattrs

_KINDS = {stat.S_IFREG: Kind.FILE, stat.S_IFDIR: Kind.FOLDER, stat.S_IFLNK: Kind.LINK}


class Found(NamedTuple):
    """An entry as it was seen; `mark` is what tells that it is still the same: see `mark_of`.

    `read` where the entry has the chunks of the file's content; else it has none.
    """

    entry: Entry
    mark: tuple[int, ...]
    read: bool = False

    @property
    def inode(self) -> tuple[int, ...]:
        """The device and the inode that it was seen as."""
        return self.mark[:2]


class Scan:
    """What a walk saw, in the order of paths, and the names in each folder that it went into."""

    def __init__(self, skipped: Sequence[bytes] = ()) -> None:
        self.found: list[Found] = []
        self.names: dict[bytes, list[bytes]] = {}
        self.errors: list[tuple[bytes, str]] = []
        self.skipped = list(skipped)


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


def scan(
    root: bytes,
    excluded: Callable[[bytes], bool],
    *,
    own: Sequence[bytes] = (),
    known: Mapping[bytes, Found] = MappingProxyType({}),
    same: Mapping[bytes, Found] = MappingProxyType({}),
    names: Mapping[bytes, list[bytes]] = MappingProxyType({}),
    met: Callable[[Found], None] | None = None,
) -> Scan:
    """List the tree below `root` without following links; what is as it is `known` to be is taken over from there.

    `same` was looked at just now and is not looked at again, nor are folders among it whose `names` were listed then.
    `met` hears at once of each path that is not taken over.
    Guarantees: what cannot be read is listed in `errors`; sockets, pipes and devices in `skipped`; `own` folders are
    left out. Hard links are grouped by inode.
    """
    result = Scan()
    inodes_out = {mark_of(os.stat(path))[:2] for path in own if os.path.exists(path)}
    waiting = [b""]
    while waiting:
        folder = waiting.pop()
        try:
            listed = (names.get(folder) if folder in same else None) or os.listdir(os.path.join(root, folder))
        except OSError as error:
            result.errors.append((folder, _reason(error)))
            continue
        result.names[folder] = listed
        before = folder + b"/" if folder else folder
        for path in [before + name for name in listed]:
            if excluded(path):
                continue
            if (found := same.get(path)) is not None:
                result.found.append(found)
                goes_on = found.entry.kind is Kind.FOLDER
            else:
                goes_on = _look(root, path, known, inodes_out, result, met)
            if goes_on:
                waiting.append(path)
    result.found.sort(key=attrgetter("entry.path"))
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


def mark_of(seen: os.stat_result) -> tuple[int, ...]:
    """Return what tells that a path is still the same; see the names of its places below."""
    return (
        seen.st_dev,
        seen.st_ino,
        seen.st_ctime_ns,
        seen.st_mtime_ns,
        seen.st_size,
        seen.st_mode,
        seen.st_uid,
        seen.st_gid,
        seen.st_nlink,
    )


MARK_CHANGED, MARK_MODIFIED, MARK_LINKS, MARK_NUMBERS = 2, 3, 8, 9


def unchanged(before: os.stat_result, after: os.stat_result) -> bool:
    """Tell whether a file stayed the same between two looks."""
    return (before.st_size, before.st_mtime_ns, before.st_ctime_ns) == (
        after.st_size,
        after.st_mtime_ns,
        after.st_ctime_ns,
    )


def _look(
    root: bytes,
    path: bytes,
    known: Mapping[bytes, Found],
    inodes_out: set[tuple[int, ...]],
    result: Scan,
    met: Callable[[Found], None] | None,
) -> bool:
    """Take down a path; tell whether it is a folder to go into."""
    full = root + b"/" + path
    try:
        seen = os.lstat(full)
        mark, before = mark_of(seen), known.get(path)
        if before is not None and before.mark == mark:
            result.found.append(before)
            return before.entry.kind is Kind.FOLDER
        form = stat.S_IFMT(seen.st_mode)
        target = os.readlink(full) if form == stat.S_IFLNK else b""
        xattrs = xattrs_of(full) if form in (stat.S_IFREG, stat.S_IFDIR) else ()
    except OSError as error:
        result.errors.append((path, _reason(error)))
        return False
    kind = _KINDS.get(form)
    if kind is None:
        result.skipped.append(path)
        return False
    if kind is Kind.FOLDER and mark[:2] in inodes_out:
        return False
    found = Found(entry_of(path, kind, seen, target, xattrs), mark)
    result.found.append(found)
    if met is not None:
        met(found)
    return kind is Kind.FOLDER


def xattrs_of(path: bytes) -> Xattrs:
    """Return a user's extended attributes, by name; none where the file system has none or they went just now."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
        if not names:
            return ()
        users = sorted(name for name in map(os.fsencode, names) if name.startswith(XATTR_PREFIX))
        return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in users)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENODATA, errno.ENOENT, errno.ELOOP):
            raise
        return ()


def entry_of(path: bytes, kind: Kind, seen: os.stat_result, target: bytes = b"", xattrs: Xattrs = ()) -> Entry:
    """Return the entry for a path as `lstat` saw it, without chunks."""
    file = kind is Kind.FILE
    size = seen.st_size if file else len(target)
    sparse = file and seen.st_blocks * 512 < size
    plain = (path, kind, seen.st_mode & 0o7777, seen.st_uid, seen.st_gid, seen.st_mtime_ns)
    return Entry(*plain, size, target, sparse=sparse, xattrs=xattrs)


def _grouped(found: list[Found]) -> list[Found]:
    """Number the files that share an inode, by first appearance."""
    linked = [(n, item) for n, item in enumerate(found) if item.mark[MARK_LINKS] > 1 and item.entry.kind is Kind.FILE]
    counts = Counter(item.inode for _, item in linked)
    numbers: dict[tuple[int, ...], int] = {}
    for place, item in linked:
        number = numbers.setdefault(item.inode, len(numbers) + 1) if counts[item.inode] > 1 else 0
        if item.entry.group != number:
            found[place] = item._replace(entry=item.entry.changed(group=number))
    return found


def _compile(patterns: list[str]) -> "re.Pattern[str]":
    return re.compile("|".join(fnmatch.translate(p) for p in patterns) or r"(?!)")


def _reason(error: OSError) -> str:
    return (os.strerror(error.errno) if error.errno else str(error)) or "unreadable"
