"""Save a workspace from the machine's side: walk, cut, and hand the pieces on; what was seen before is not read."""

import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import chain
from operator import attrgetter

import msgpack

from dumont.agent.cuts import cut
from dumont.agent.pipeline import SMALL_BYTES, Ids, Packer, Saved
from dumont.agent.protocol import Progress
from dumont.agent.seen import Last, Seen
from dumont.agent.still import NO_LOOK, Still
from dumont.agent.walk import (
    MARK_CHANGED,
    Excluder,
    Found,
    Scan,
    entry_of,
    mark_of,
    open_regular,
    scan,
    unchanged,
    xattrs_of,
)
from dumont.vault import Entry, Kind, bytes_of, pack_columns

_TRIES = 3
_TELL_SECONDS = 0.05


def save_tree(
    root: bytes, exclude: list[str], own: list[bytes], packer: Packer, seen: Seen, progress: Callable[[Progress], None]
) -> tuple[Saved, bytes]:
    """Save the tree below `root`; return the counts and the packed list of entries.

    Guarantees: every chunk named is stored when this returns. A file that changes under the reader three times is
    listed as unstable, with what was read last.
    Errors: AgentFailed as the transfer raises it.
    """
    asked = (root, *exclude, None, *own)
    last, counts = seen.last, packer.counts
    again = last.tree.look(root) if last and last.asked == asked else NO_LOOK
    if last and again.holds and last.whole and packer.known.issuperset(last.chunks):
        counts.files, counts.bytes_total, counts.chunks = last.files, last.bytes_total, len(last.chunks)
        return counts, _report(seen, Scan(skipped=last.skipped), counts)
    seen.begin()
    scanned = scan(root, Excluder(exclude), own=own, known=seen.found, same=seen.settled(again.same), names=again.names)
    tree = _Tree(root, scanned, packer, progress)
    entries = _regrouped(tree.read())
    packer.flush()
    settled = seen.keep(scanned.found)
    if entries != seen.listed[0]:
        seen.listed = entries, pack_columns(entries)
    packer.finish()
    chunks = frozenset(chain.from_iterable(map(attrgetter("chunks"), entries)))
    counts.files = sum(entry.kind is Kind.FILE for entry in entries)
    counts.bytes_total, counts.chunks = bytes_of(entries), len(chunks)
    whole = settled and not scanned.errors and not counts.unstable
    still = Still(scanned.found, scanned.names)
    seen.last = Last(asked, still, whole, chunks, counts.files, counts.bytes_total, scanned.skipped)
    return counts, _report(seen, scanned, counts)


def _report(seen: Seen, scanned: Scan, counts: Saved) -> bytes:
    report = {"entries": seen.listed[1], "errors": scanned.errors, "skipped": scanned.skipped}
    packed: bytes = msgpack.packb({**report, "unstable": counts.unstable, "packs": counts.packs})
    return packed


@dataclass
class _Reading:
    """A file that is being read: where its entry goes, its first look, and its pieces in order."""

    place: int
    found: Found
    descriptor: int
    before: os.stat_result
    pieces: "list[Future[Ids]]" = field(default_factory=list)


class _Tree:
    """Reads the files of a scan, several at once, and gathers the entries in order."""

    def __init__(self, root: bytes, scanned: Scan, packer: Packer, progress: Callable[[Progress], None]) -> None:
        self._root = root
        self._scanned = scanned
        self._packer = packer
        self._progress = progress
        self._entries: list[Entry | None] = [found.entry for found in scanned.found]
        self._total = bytes_of(found.entry for found in scanned.found)
        self._kept = 0
        self._first: dict[tuple[int, ...], int] = {}
        self._links: list[tuple[int, Found]] = []
        self._readings: deque[_Reading] = deque()
        self._under_way = 0
        self._done = 0
        self._tell_next = 0.0

    def read(self) -> list[Entry]:
        """Return the entries of all that could be read."""
        try:
            for place, found in enumerate([*self._scanned.found]):
                if found.entry.kind is Kind.FILE:
                    self._file(place, found)
            while self._readings:
                self._end()
        finally:
            for reading in self._readings:
                _release(reading)
        for place, found in self._links:
            first = self._entries[self._first[found.inode]]
            entry = first and replace(first, path=found.entry.path, group=found.entry.group)
            if entry != found.entry:
                self._entries[place] = entry
                leader = self._scanned.found[self._first[found.inode]]
                self._scanned.found[place] = leader._replace(entry=entry or found.entry, read=bool(entry))
        return [entry for entry in self._entries if entry is not None]

    def _file(self, place: int, found: Found) -> None:
        if found.entry.group:
            if found.inode in self._first:
                self._links.append((place, found))
                return
            self._first[found.inode] = place
        if found.read and self._packer.known.issuperset(found.entry.chunks):
            self._kept += found.entry.size
            return
        with _Forgiving(self, place, found):
            if found.entry.size <= SMALL_BYTES:
                self._read_small(place, found)
            else:
                self._begin(place, found)

    def _read_small(self, place: int, found: Found) -> None:
        """Read a small file at once; one that is not what it was when it was found is read again as any other."""
        entry = found.entry
        descriptor = open_regular(self._root + b"/" + entry.path)
        try:
            raw = os.read(descriptor, entry.size + 1)
            mark = mark_of(os.fstat(descriptor))
        finally:
            os.close(descriptor)
        if mark != found.mark or len(raw) != entry.size:
            self._begin(place, found)
            return
        self._fill(place, entry.filled((self._packer.small(raw),), (len(raw),)) if raw else entry, mark)

    def _begin(self, place: int, found: Found) -> None:
        descriptor = open_regular(os.path.join(self._root, found.entry.path))
        reading = _Reading(place, found, descriptor, os.fstat(descriptor))
        self._readings.append(reading)
        try:
            self._submit(reading)
        except BaseException:
            self._readings.remove(reading)
            _release(reading)
            raise

    def _submit(self, reading: _Reading) -> None:
        before = reading.before
        sparse = before.st_blocks * 512 < before.st_size
        for piece in cut(reading.descriptor, before.st_size, sparse=sparse):
            while self._under_way >= self._packer.depth and self._readings[0] is not reading:
                self._end()
            if len(reading.pieces) >= self._packer.depth:
                reading.pieces[-self._packer.depth].exception()
            reading.pieces.append(self._packer.submit(reading.descriptor, piece))
            self._under_way += 1
            self._tell()

    def _end(self) -> None:
        """Wait for the oldest file; if it changed meanwhile, read it again, a few times."""
        reading = self._readings.popleft()
        with _Forgiving(self, reading.place, reading.found):
            try:
                self._conclude(reading)
            finally:
                _release(reading)

    def _conclude(self, reading: _Reading) -> None:
        for attempt in range(_TRIES):
            ids = [ids for ids in map(self._result, reading.pieces) if ids[1]]
            after = os.fstat(reading.descriptor)
            size = sum(length for _, length in ids)
            stable = unchanged(reading.before, after) and size == after.st_size
            if stable or attempt == _TRIES - 1:
                break
            reading.before, reading.pieces = after, []
            self._readings.appendleft(reading)
            try:
                self._submit(reading)
            finally:
                self._readings.popleft()
        if not stable:
            self._packer.counts.unstable.append(reading.found.entry.path)
        chunks, lengths = tuple(chunk for chunk, _ in ids), tuple(length for _, length in ids)
        self._settle(reading.place, reading.found, after, chunks, lengths, stable=stable)

    def _result(self, piece: "Future[Ids]") -> Ids:
        self._under_way -= 1
        return piece.result()

    def _settle(
        self,
        place: int,
        found: Found,
        after: os.stat_result,
        chunks: tuple[bytes, ...],
        lengths: tuple[int, ...],
        *,
        stable: bool = True,
    ) -> None:
        mark = mark_of(after)
        entry = found.entry if mark == found.mark else self._looked_at_again(found, after, mark)
        if entry.size != sum(lengths):
            entry = replace(entry, size=sum(lengths))
        self._fill(place, entry.filled(chunks, lengths), mark, stable=stable)

    def _fill(self, place: int, entry: Entry, mark: tuple[int, ...], *, stable: bool = True) -> None:
        self._entries[place] = entry
        self._scanned.found[place] = Found(entry, mark, read=stable)
        self._done += 1
        self._tell()

    def _looked_at_again(self, found: Found, after: os.stat_result, mark: tuple[int, ...]) -> Entry:
        path, xattrs = found.entry.path, found.entry.xattrs
        if mark[MARK_CHANGED] != found.mark[MARK_CHANGED]:
            xattrs = xattrs_of(os.path.join(self._root, path))
        entry = entry_of(path, Kind.FILE, after, xattrs=xattrs)
        return replace(entry, group=found.entry.group) if found.entry.group else entry

    def _tell(self) -> None:
        counts, now = self._packer.counts, time.monotonic()
        done = counts.bytes_read + self._kept
        if now < self._tell_next and done != self._total:
            return
        self._tell_next = now + _TELL_SECONDS
        self._progress(
            Progress("save", done, max(self._total, done), self._done, counts.bytes_new, counts.bytes_stored)
        )

    def fail(self, place: int, found: Found, error: OSError) -> None:
        """Leave a file out that vanished or cannot be read, and say so."""
        self._entries[place] = None
        path = found.entry.path
        if isinstance(error, FileNotFoundError):
            self._packer.counts.unstable.append(path)
        else:
            self._scanned.errors.append((path, os.strerror(error.errno) if error.errno else str(error)))


class _Forgiving:
    """Turns an error of reading one file into a line of the report."""

    def __init__(self, tree: _Tree, place: int, found: Found) -> None:
        self._tree, self._place, self._found = tree, place, found

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> bool:
        if isinstance(error, OSError):
            self._tree.fail(self._place, self._found, error)
            return True
        return False


def _release(reading: _Reading) -> None:
    """Close a file when nobody reads from it any more."""
    for piece in reading.pieces:
        if not piece.cancel():
            piece.exception()
    os.close(reading.descriptor)


def _regrouped(entries: list[Entry]) -> list[Entry]:
    """Number hard-link groups by first appearance among the entries that could be read."""
    counts: dict[int, int] = {}
    for entry in entries:
        if entry.group:
            counts[entry.group] = counts.get(entry.group, 0) + 1
    if not counts:
        return entries
    numbers: dict[int, int] = {}
    result = []
    for entry in entries:
        alone = entry.group == 0 or counts[entry.group] == 1
        number = 0 if alone else numbers.setdefault(entry.group, len(numbers) + 1)
        result.append(entry if number == entry.group else replace(entry, group=number))
    return result
