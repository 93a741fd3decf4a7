"""The tree that a restore makes beside the one that it will replace: written, made durable, and proven."""

import ctypes
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from dumont.agent.errors import AgentFailed
from dumont.agent.exchange import PARTIAL_PREFIX
from dumont.agent.fetching import Run, fetch
from dumont.agent.hashing import entries_with_chunks
from dumont.agent.protocol import Progress
from dumont.agent.walk import Found, open_regular, scan, xattrs_of
from dumont.agent.writing import Writer, set_metadata, shown
from dumont.vault import (
    Entry,
    Kind,
    Location,
    Raw,
    RecordDamaged,
    RecordReader,
    RecordUnknown,
    Rooms,
    Sealer,
    bytes_of,
    merkle_root,
    whole,
)

if TYPE_CHECKING:
    from dumont.agent.transfer import Blobs

_TELL_SECONDS = 0.05
_TELL_BYTES = 1 << 20


class RestorePlan(NamedTuple):
    """What to restore: entries, where their chunks lie, and the root that must come out.

    `parts` are the paths to be put in place where it is not all of the tree; with `replace` folders too are replaced.
    """

    entries: list[Entry]
    places: dict[bytes, Location]
    root: bytes
    exclude: list[str]
    parts: list[bytes] | None = None
    replace: bool = False


class RestoreCounts:
    """The counts of a restore. Units: bytes; `bytes_fetched` as they lie in the store.

    `xattrs_lost` are extended attributes that the file system there does not take; `replaced` paths gave way.
    """

    def __init__(self, files: int, bytes_total: int) -> None:
        self.files = files
        self.bytes_total = bytes_total
        self.bytes_written = 0
        self.bytes_fetched = 0
        self.bytes_opened = 0
        self.chunks_reused = 0
        self.hashes_compared = 0
        self.xattrs_lost = 0
        self.replaced = 0


class PartialTree:
    """The tree as it is being made."""

    def __init__(
        self, root: bytes, name: str, plan: RestorePlan, sealer: Sealer, progress: Callable[[Progress], None]
    ) -> None:
        self.path = os.path.join(root, PARTIAL_PREFIX + name.encode())
        files = [entry for entry in plan.entries if entry.kind is Kind.FILE]
        total = bytes_of(files)
        self.counts = RestoreCounts(len(files), total)
        self.proven: list[Found] = []
        """The files that this restore wrote, as they were when they were hashed."""
        self._plan = plan
        self._sealer = sealer
        self._progress = progress
        self._wanted: dict[bytes, list[tuple[Entry, int, int]]] = defaultdict(list)
        self._writer = Writer(self.path, sealer)
        self._done: set[bytes] = set()
        self._tell_next = 0.0
        self._plain: dict[bytes, bool] = {}
        self._counting = threading.Lock()

    def build(self, candidates: list[bytes], blobs: "Blobs") -> None:
        """Write every entry: from the candidates' files where their bytes are the right ones, else from the store.

        Guarantees: links come last, so that no write can pass through one.
        """
        os.mkdir(self.path, 0o700)
        leaders: dict[int, Entry] = {}
        followers: list[tuple[Entry, Entry]] = []
        for entry in self._plan.entries:
            if entry.kind is Kind.FOLDER:
                os.mkdir(self._at(entry), 0o700)
                for candidate in candidates:
                    self._is_plain(candidate, entry.path)
            elif entry.kind is Kind.FILE and leaders.get(entry.group or -1):
                followers.append((entry, leaders[entry.group]))
            elif entry.kind is Kind.FILE:
                leaders[entry.group] = entry
                self._begin(entry, candidates)
        leaders.pop(0, None)
        self._fetch(blobs)
        for entry, leader in followers:
            os.link(self._at(leader), self._at(entry), follow_symlinks=False)
        rest = [entry for entry in reversed(self._plan.entries) if entry.kind is not Kind.FILE]
        for entry in rest:
            if entry.kind is Kind.LINK:
                os.symlink(entry.target, self._at(entry))
        for entry in rest:
            self.counts.xattrs_lost += set_metadata(self._at(entry), entry)
        self.counts.xattrs_lost += self._writer.xattrs_lost

    def prove(self) -> None:
        """Make the tree durable, read again meanwhile what was not yet or has changed, and compare its Merkle root.

        Errors: AgentFailed `merkle_mismatch` naming the first path that differs.
        """
        done = 0

        def on_file(size: int, chunks: int) -> None:
            nonlocal done
            done += size
            self.counts.hashes_compared += chunks
            self._progress(Progress("verify", done, self.counts.bytes_total, self.counts.files))

        with ThreadPoolExecutor(1, "sync") as pool:
            durable = pool.submit(_sync, self.path)
            scanned = scan(self.path, lambda _: False)
            wanted = {entry.path: entry for entry in self._plan.entries}
            entries = entries_with_chunks(
                *(self.path, scanned, wanted, self._sealer.chunk_id, on_file), self._writer.marks
            )
            durable.result()
        if scanned.errors:
            path, reason = scanned.errors[0]
            raise AgentFailed("machine_io", f"What was written cannot be read again: {shown(path)} ({reason}).")
        if merkle_root(self._sealer.keys.merkle, entries) != self._plan.root:
            raise AgentFailed("merkle_mismatch", f"What was written differs from the snapshot: {self._first(entries)}.")
        self.proven = [
            Found(entry, found.mark, read=True)
            for entry, found in zip(entries, scanned.found, strict=True)
            if entry.kind is Kind.FILE and entry.path not in self._done
        ]

    def _first(self, entries: list[Entry]) -> str:
        by_path = {entry.path: entry for entry in entries}
        wrong = (e.path for e in self._plan.entries if not same(e, by_path.get(e.path)))
        return shown(next(wrong, b"times of folders, or a path too many"))

    def _at(self, entry: Entry) -> bytes:
        return self._writer.at(entry)

    def _begin(self, entry: Entry, candidates: list[bytes]) -> None:
        missing = set(range(len(entry.chunks)))
        parent = entry.path.rpartition(b"/")[0]
        there = [c + b"/" + entry.path for c in candidates if self._is_plain(c, parent)]
        for path in there:
            if self._link(path, entry):
                self._done.add(entry.path)
                return
        self._writer.begin(entry)
        for path in there if missing else ():
            missing -= self._copy(path, entry, missing)
        for position, (offset, length, chunk) in enumerate(entry.pieces()):
            if position in missing:
                self._wanted[chunk].append((entry, offset, length))

    def _is_plain(self, candidate: bytes, folder: bytes) -> bool:
        """Tell whether a folder is there and no link on the way leads elsewhere."""
        if not folder:
            return True
        path = candidate + b"/" + folder
        if path not in self._plain:
            above = self._is_plain(candidate, folder.rpartition(b"/")[0])
            self._plain[path] = above and os.path.isdir(path) and not os.path.islink(path)
        return self._plain[path]

    def _link(self, path: bytes, entry: Entry) -> bool:
        """Take a file over whole, without copying, where bytes and metadata are already right."""
        try:
            seen = os.lstat(path)
            fits = (seen.st_size, seen.st_mtime_ns, seen.st_mode & 0o7777) == (entry.size, entry.mtime_ns, entry.mode)
            owner = os.geteuid() != 0 or (seen.st_uid, seen.st_gid) == (entry.uid, entry.gid)
            if not (fits and owner and seen.st_nlink == 1 and entry.group == 0 and xattrs_of(path) == entry.xattrs):
                return False
            if len(self._matching(path, entry, set(range(len(entry.chunks))))) != len(entry.chunks):
                return False
            os.link(path, self._at(entry), follow_symlinks=False)
        except OSError:
            return False
        self.counts.chunks_reused += len(entry.chunks)
        self._tell(entry.size)
        return True

    def _copy(self, path: bytes, entry: Entry, missing: set[int]) -> set[int]:
        try:
            return self._matching(path, entry, missing, write=True) if missing else set()
        except FileNotFoundError:
            return set()

    def _matching(self, path: bytes, entry: Entry, missing: set[int], *, write: bool = False) -> set[int]:
        try:
            source = open_regular(path)
        except OSError:
            return set()
        found = set()
        try:
            for position, (offset, length, chunk) in enumerate(entry.pieces()):
                raw = os.pread(source, length, offset) if position in missing else b""
                if len(raw) != length or self._sealer.chunk_id(raw) != chunk:
                    continue
                found.add(position)
                if write:
                    self._writer.write(entry, offset, raw, chunk)
                    self.counts.chunks_reused += 1
                    self._tell(length)
        finally:
            os.close(source)
        return found

    def _fetch(self, blobs: "Blobs") -> None:
        """Fetch, open and write what is wanted."""
        fetch(blobs, {chunk: self._plan.places[chunk] for chunk in self._wanted}, self._take)

    def _take(self, run: Run, view: memoryview, rooms: Rooms) -> None:
        """Open the records of a run and write what is in them.

        Errors: AgentFailed `unknown_record` where only a newer version can decode one; RecordDamaged.
        """
        try:
            self._open(run, view, rooms)
        except RecordUnknown as error:
            raise AgentFailed("unknown_record", error.detail) from error

    def _open(self, run: Run, view: memoryview, rooms: Rooms) -> None:
        reader = RecordReader(self._sealer, view, run[0][1].offset, hashed=False, rooms=rooms)
        opened = written = 0
        for chunk, place in run:
            raw = reader.open(chunk, place)
            opened += len(raw)
            written += self._place(chunk, raw)
            if written >= _TELL_BYTES:
                written = self._tell(written)
        self._tell(written, opened, len(view))

    def _place(self, chunk: bytes, raw: Raw) -> int:
        wanted = self._wanted[chunk]
        if len(wanted) > 1:
            raw = whole(raw)  # put together once for all who want it
        for entry, offset, length in wanted:
            if len(raw) != length:
                raise RecordDamaged("A chunk has another length than its file needs.")
            self._writer.write(entry, offset, raw, chunk)
        return len(wanted) * len(raw)

    def _tell(self, written: int, opened: int = 0, fetched: int = 0) -> int:
        """Take down what was done and report it from time to time; return 0, which is left to tell."""
        with self._counting:
            counts, now = self.counts, time.monotonic()
            counts.bytes_written += written
            counts.bytes_opened += opened
            counts.bytes_fetched += fetched
            if now < self._tell_next and counts.bytes_written != counts.bytes_total:
                return 0
            self._tell_next = now + _TELL_SECONDS
            told = Progress("fetch", counts.bytes_written, counts.bytes_total, counts.files)
        self._progress(told._replace(bytes_new=counts.bytes_opened, bytes_stored=counts.bytes_fetched))
        return 0


def same(wanted: Entry, found: Entry | None) -> bool:
    """Tell whether two entries agree in everything that a restore promises; times of folders are left out."""
    if found is None:
        return False
    plain = (wanted.kind, wanted.mode, wanted.size, wanted.target, wanted.chunks)
    timed = wanted.kind is Kind.FOLDER or wanted.mtime_ns == found.mtime_ns
    return timed and plain == (found.kind, found.mode, found.size, found.target, found.chunks)


def _sync(path: bytes) -> None:
    """Make a whole tree durable at once: one call is far cheaper than one per file. Source: syncfs(2)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if not hasattr(library, "syncfs"):
            os.sync()
        elif library.syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(descriptor)
