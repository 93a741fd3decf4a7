"""Save a workspace from the machine's side: walk, cut, and hand the pieces on; what was seen before is not read."""

import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from operator import attrgetter
from threading import Lock

import msgpack

from dumont.agent.cuts import cut
from dumont.agent.pipeline import SMALL_BYTES, Ids, Packer, Saved
from dumont.agent.protocol import Progress
from dumont.agent.seen import Last, Seen
from dumont.agent.still import NO_LOOK, Still
from dumont.agent.walk import (
    MARK_CHANGED,
    MARK_LINKS,
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
    with _Tree(root, packer, progress, beside=bool(seen.found)) as tree:
        known, same = seen.found, seen.settled(again.same)
        scanned = scan(root, Excluder(exclude), own=own, known=known, same=same, names=again.names, met=tree.meet)
        entries = _regrouped(tree.read(scanned))
    packer.flush()
    settled = seen.keep(scanned.found)
    if entries != seen.listed[0]:
        seen.listed = entries, pack_columns(entries)
    chunks = frozenset(chain.from_iterable(map(attrgetter("chunks"), entries)))
    counts.files = sum(entry.kind is Kind.FILE for entry in entries)
    counts.bytes_total, counts.chunks = bytes_of(entries), len(chunks)
    still = Still(scanned.found, scanned.names)
    try:
        packer.finish()
    finally:
        seen.kept()
    whole = settled and not scanned.errors and not counts.unstable
    seen.last = Last(asked, still, whole, chunks, counts.files, counts.bytes_total, scanned.skipped)
    return counts, _report(seen, scanned, counts)


def _report(seen: Seen, scanned: Scan, counts: Saved) -> bytes:
    report = {"entries": seen.listed[1], "errors": scanned.errors, "skipped": scanned.skipped}
    packed: bytes = msgpack.packb({**report, "unstable": counts.unstable, "packs": counts.packs})
    return packed


class _Tree:
    """Reads the files of a tree and gathers the entries in order: small files itself, large ones beside that.

    Where most is known (`beside`), large ones begin as soon as the walk meets them, except where a file has several
    names: its first is read. In a first save there is enough to do for all: more at once would cost more CPU.
    """

    def __init__(self, root: bytes, packer: Packer, progress: Callable[[Progress], None], *, beside: bool) -> None:
        self._beside = beside
        self._root = root
        self._packer = packer
        self._progress = progress
        self._large = _Large(root, packer, self)
        self._met: set[bytes] = set()
        self._read: dict[bytes, Found | None] = {}
        self._first: dict[tuple[int, ...], int] = {}
        self._links: list[int] = []
        self._errors: list[tuple[bytes, str]] = []
        self._total: int | None = None
        self._kept = self._smalls = 0
        self._telling = Lock()
        self._tell_next = 0.0

    def __enter__(self) -> "_Tree":
        return self

    def __exit__(self, *_: object) -> None:
        self._large.close()

    def meet(self, found: Found) -> None:
        """Begin with a file that the walk has just met and that is not known, if it is large."""
        entry = found.entry
        large = entry.size > SMALL_BYTES and entry.kind is Kind.FILE
        if self._beside and large and found.mark[MARK_LINKS] == 1:
            self._met.add(entry.path)
            self._large.add(found)

    def read(self, scanned: Scan) -> list[Entry]:
        """Return the entries of all that could be read, and note in the scan what was read and what could not be."""
        found = scanned.found
        self._total = bytes_of(item.entry for item in found)
        for place, item in enumerate(found):
            if item.entry.kind is Kind.FILE and item.entry.path not in self._met:
                found[place] = self._file(place, item)
                self._large.heed()
        self._large.finish()
        self.tell(last=True)
        for place, item in enumerate(found):
            found[place] = self._read.get(item.entry.path) or item
        lost = {path for path, read in self._read.items() if read is None}
        for place in self._links:
            item, leader = found[place], found[self._first[found[place].inode]]
            if leader.entry.path in lost:
                lost.add(item.entry.path)
                continue
            entry = leader.entry.changed(path=item.entry.path, group=item.entry.group)
            if entry != item.entry:
                found[place] = leader._replace(entry=entry)
        scanned.errors.extend(self._errors)
        return [item.entry for item in found if item.entry.path not in lost]

    def _file(self, place: int, found: Found) -> Found:
        """Return a file as it was read, as it was found where it is read later or not at all."""
        if found.entry.group:
            if found.inode in self._first:
                self._links.append(place)
                return found
            self._first[found.inode] = place
        if found.read and self._packer.known.issuperset(found.entry.chunks):
            self._kept += found.entry.size
        elif found.entry.size > SMALL_BYTES:
            begun = self._large.add(found)
            if not self._beside:
                begun.result()
        else:
            with _Forgiving(self, found):
                return self._small(found)
        return found

    def _small(self, found: Found) -> Found:
        """Read a small file at once; one that is not what it was when it was found is read again as any other."""
        entry = found.entry
        descriptor = open_regular(self._root + b"/" + entry.path)
        try:
            raw = os.read(descriptor, entry.size + 1)
            mark = mark_of(os.fstat(descriptor))
        finally:
            os.close(descriptor)
        if mark != found.mark or len(raw) != entry.size:
            self._large.add(found)
            return found
        self._smalls += 1
        self.tell()
        return Found(entry.filled((self._packer.small(raw),), (len(raw),)) if raw else entry, mark, read=True)

    def fill(self, entry: Entry, mark: tuple[int, ...], *, stable: bool = True) -> None:
        """Take in a large file that was read."""
        self._read[entry.path] = Found(entry, mark, read=stable)
        self.tell()

    def fail(self, found: Found, error: OSError) -> None:
        """Leave a file out that vanished or cannot be read, and say so."""
        path = found.entry.path
        self._read[path] = None
        if isinstance(error, FileNotFoundError):
            self._packer.counts.unstable.append(path)
        else:
            self._errors.append((path, os.strerror(error.errno) if error.errno else str(error)))

    def tell(self, *, last: bool = False) -> None:
        """Tell how far the save is, now and then, once the walk is over and it is known how much there is."""
        counts, now, total = self._packer.counts, time.monotonic(), self._total
        if total is None or (now < self._tell_next and not last):
            return
        with self._telling:
            self._tell_next = now + _TELL_SECONDS
            done = counts.bytes_read + self._kept
            told = (done, max(total, done), self._smalls + len(self._read), counts.bytes_new, counts.bytes_stored)
            self._progress(Progress("save", *told))


class _Reading:
    """A file that is being read: its first look, and its pieces in order."""

    def __init__(self, found: Found, descriptor: int) -> None:
        self.found = found
        self.descriptor = descriptor
        self.before = os.fstat(descriptor)
        self.pieces: list[Future[Ids]] = []


class _Large:
    """Reads large files in a thread of its own, several at once; the first error that is not of one file ends it."""

    def __init__(self, root: bytes, packer: Packer, tree: _Tree) -> None:
        self._root = root
        self._packer = packer
        self._tree = tree
        self._readings: deque[_Reading] = deque()
        self._under_way = 0
        self._failed: BaseException | None = None
        self._thread = ThreadPoolExecutor(1, "large")

    def add(self, found: Found) -> "Future[None]":
        """Read a file after those that were added before; the future is done when its last piece was handed on."""
        return self._thread.submit(self._guarded, self._begin, found)

    def heed(self) -> None:
        """Raise what ended it, if anything did."""
        if self._failed is not None:
            raise self._failed

    def finish(self) -> None:
        """Wait until all files are read."""
        self._thread.submit(self._guarded, self._end_all)
        self._thread.shutdown()
        self.heed()

    def close(self) -> None:
        """Let go of what is still being read."""
        self._failed = self._failed or RuntimeError("closed")
        self._thread.shutdown(cancel_futures=True)
        for reading in self._readings:
            _release(reading)
        self._readings.clear()

    def _guarded(self, work: Callable[..., None], *args: Found) -> None:
        try:
            self.heed()
            work(*args)
        except BaseException as error:  # noqa: BLE001 - raised again by `heed`
            self._failed = self._failed or error

    def _begin(self, found: Found) -> None:
        with _Forgiving(self._tree, found):
            descriptor = open_regular(os.path.join(self._root, found.entry.path))
            reading = _Reading(found, descriptor)
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
            self.heed()
            reading.pieces.append(self._packer.submit(reading.descriptor, piece))
            self._under_way += 1
            self._tree.tell()

    def _end_all(self) -> None:
        while self._readings:
            self._end()

    def _end(self) -> None:
        """Wait for the oldest file; if it changed meanwhile, read it again, a few times."""
        reading = self._readings.popleft()
        with _Forgiving(self._tree, reading.found):
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
        mark = mark_of(after)
        entry = reading.found.entry if mark == reading.found.mark else self._looked_at_again(reading.found, after, mark)
        if entry.size != size:
            entry = entry.changed(size=size)
        chunks, lengths = tuple(chunk for chunk, _ in ids), tuple(length for _, length in ids)
        self._tree.fill(entry.filled(chunks, lengths), mark, stable=stable)

    def _result(self, piece: "Future[Ids]") -> Ids:
        self._under_way -= 1
        return piece.result()

    def _looked_at_again(self, found: Found, after: os.stat_result, mark: tuple[int, ...]) -> Entry:
        path, xattrs = found.entry.path, found.entry.xattrs
        if mark[MARK_CHANGED] != found.mark[MARK_CHANGED]:
            xattrs = xattrs_of(os.path.join(self._root, path))
        entry = entry_of(path, Kind.FILE, after, xattrs=xattrs)
        return entry.changed(group=found.entry.group) if found.entry.group else entry


class _Forgiving:
    """Turns an error of reading one file into a line of the report."""

    def __init__(self, tree: _Tree, found: Found) -> None:
        self._tree, self._found = tree, found

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> bool:
        if isinstance(error, OSError):
            self._tree.fail(self._found, error)
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
        result.append(entry if number == entry.group else entry.changed(group=number))
    return result
