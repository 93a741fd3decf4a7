"""Restore a workspace on the machine's side: fetch into a partial tree, prove it, then exchange."""

import ctypes
import os
import secrets
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import msgpack

from dumont.agent.errors import AgentFailed
from dumont.agent.exchange import OLD_PREFIX, PARTIAL_PREFIX, exchange, remove_tree
from dumont.agent.pipeline import keep_memory
from dumont.agent.protocol import Progress
from dumont.agent.transfer import Blobs
from dumont.agent.walk import Excluder, entries_with_chunks, open_regular, scan
from dumont.vault import (
    Entry,
    Kind,
    Location,
    RecordDamaged,
    RecordReader,
    Sealer,
    by_pack,
    bytes_of,
    merkle_root,
    spans,
    unpack_columns,
)

_AT_ONCE = min(4, 2 * (os.cpu_count() or 1))


@dataclass(frozen=True)
class RestorePlan:
    """What to restore: entries, where their chunks lie, and the root that must come out."""

    entries: list[Entry]
    places: dict[bytes, Location]
    root: bytes
    exclude: list[str]


@dataclass
class RestoreCounts:
    """The counts of a restore. Units: bytes; `bytes_fetched` as they lie in the store."""

    files: int = 0
    bytes_total: int = 0
    bytes_written: int = 0
    bytes_fetched: int = 0
    chunks_reused: int = 0
    hashes_compared: int = 0


def dump_plan(plan: RestorePlan, packed_entries: bytes) -> bytes:
    """Return a plan as bytes for the way to the machine."""
    places = [(chunk, *place) for chunk, place in plan.places.items()]
    document = {"entries": packed_entries, "places": places, "root": plan.root, "exclude": plan.exclude}
    packed: bytes = msgpack.packb(document)
    return packed


def load_plan(data: bytes) -> RestorePlan:
    """Read a plan and check every path in it.

    Errors: RecordDamaged for a path that leads out of the workspace; AgentFailed `bad_message`.
    """
    try:
        found = msgpack.unpackb(data)
        places = {row[0]: Location(*row[1:]) for row in found["places"]}
        entries = unpack_columns(found["entries"])
        return RestorePlan(entries, places, found["root"], found["exclude"])
    except (KeyError, TypeError, ValueError, msgpack.UnpackException) as error:
        raise AgentFailed("bad_message", "The plan of a restore does not have the right form.") from error


def restore_tree(
    root: bytes, plan: RestorePlan, sealer: Sealer, blobs: Blobs, progress: Callable[[Progress], None]
) -> RestoreCounts:
    """Make the tree below `root` what the plan says.

    Guarantees: nothing in the target changes before every byte was written and proven; a failure leaves it as it was.
    Errors: AgentFailed, RecordDamaged, OSError.
    """
    os.makedirs(root, exist_ok=True)
    name = secrets.token_hex(8)
    stale = [os.path.join(root, n) for n in os.listdir(root) if n.startswith((PARTIAL_PREFIX, OLD_PREFIX))]
    builder = PartialTree(root, name, plan, sealer, progress)
    try:
        builder.build([root, *stale], blobs)
        builder.prove()
        old, new = _top_level(root, plan)
        exchange(root, name, old, new)
    except BaseException as error:
        if not (isinstance(error, AgentFailed) and error.code == "rollback_failed"):
            with suppress(OSError):
                remove_tree(builder.path)
        raise
    for left in stale:
        with suppress(OSError):
            remove_tree(left)
    return builder.counts


def _top_level(root: bytes, plan: RestorePlan) -> tuple[list[bytes], list[bytes]]:
    excluded = Excluder(plan.exclude)
    new = [entry.path for entry in plan.entries if b"/" not in entry.path]
    here = os.listdir(root)
    return sorted(name for name in here if name in set(new) or not excluded(name)), new


class PartialTree:
    """The tree as it is being made, beside the one that it will replace."""

    def __init__(
        self, root: bytes, name: str, plan: RestorePlan, sealer: Sealer, progress: Callable[[Progress], None]
    ) -> None:
        self.path = os.path.join(root, PARTIAL_PREFIX + name.encode())
        files = [entry for entry in plan.entries if entry.kind is Kind.FILE]
        total = bytes_of(files)
        self.counts = RestoreCounts(files=len(files), bytes_total=total)
        self._plan = plan
        self._sealer = sealer
        self._progress = progress
        self._wanted: dict[bytes, list[tuple[Entry, int, int]]] = defaultdict(list)
        self._done: set[bytes] = set()
        self._counting = threading.Lock()

    def build(self, candidates: list[bytes], blobs: Blobs) -> None:
        """Write every entry: from the candidates' files where their bytes are the right ones, else from the store.

        Guarantees: links come last, so that no write can pass through one.
        """
        os.mkdir(self.path, 0o700)
        leaders: dict[int, Entry] = {}
        followers: list[tuple[Entry, Entry]] = []
        for entry in self._plan.entries:
            if entry.kind is Kind.FOLDER:
                os.mkdir(self._at(entry), 0o700)
            elif entry.kind is Kind.FILE and leaders.get(entry.group or -1):
                followers.append((entry, leaders[entry.group]))
            elif entry.kind is Kind.FILE:
                leaders[entry.group] = entry
                self._begin(entry, candidates)
        leaders.pop(0, None)
        self._fetch(blobs)
        for entry, leader in followers:
            os.link(self._at(leader), self._at(entry), follow_symlinks=False)
        for entry in self._plan.entries:
            if entry.kind is Kind.LINK:
                os.symlink(entry.target, self._at(entry))
        for entry in reversed(self._plan.entries):
            if entry.path not in self._done:
                _set_metadata(self._at(entry), entry)

    def prove(self) -> None:
        """Make the tree durable, read all of it again, and compare its Merkle root.

        Errors: AgentFailed `merkle_mismatch` naming the first path that differs.
        """
        _sync(self.path)
        done = 0

        def on_file(size: int, chunks: int) -> None:
            nonlocal done
            done += size
            self.counts.hashes_compared += chunks
            self._progress(Progress("verify", done, self.counts.bytes_total, self.counts.files))

        scanned = scan(self.path, lambda _: False)
        wanted = {entry.path: entry for entry in self._plan.entries}
        entries = entries_with_chunks(self.path, scanned, wanted, self._sealer.chunk_id, on_file)
        if scanned.errors:
            path, reason = scanned.errors[0]
            raise AgentFailed("machine_io", f"What was written cannot be read again: {_shown(path)} ({reason}).")
        if merkle_root(self._sealer.keys.merkle, entries) != self._plan.root:
            raise AgentFailed("merkle_mismatch", f"What was written differs from the snapshot: {self._first(entries)}.")

    def _first(self, entries: list[Entry]) -> str:
        by_path = {entry.path: entry for entry in entries}
        wrong = (e.path for e in self._plan.entries if not same(e, by_path.get(e.path)))
        return _shown(next(wrong, b"times of folders, or a path too many"))

    def _at(self, entry: Entry) -> bytes:
        return os.path.join(self.path, entry.path)

    def _begin(self, entry: Entry, candidates: list[bytes]) -> None:
        missing = set(range(len(entry.chunks)))
        for candidate in candidates if missing else ():
            if self._link(candidate, entry):
                self._done.add(entry.path)
                return
        with open(self._at(entry), "xb") as stream:
            os.truncate(stream.fileno(), entry.size)
        for candidate in candidates:
            missing -= self._copy(candidate, entry, missing)
        for position, (offset, length, chunk) in enumerate(entry.pieces()):
            if position in missing:
                self._wanted[chunk].append((entry, offset, length))

    def _link(self, candidate: bytes, entry: Entry) -> bool:
        """Take a file over whole, without copying, where bytes and metadata are already right."""
        path = os.path.join(candidate, entry.path)
        try:
            seen = os.lstat(path)
            fits = (seen.st_size, seen.st_mtime_ns, seen.st_mode & 0o7777) == (entry.size, entry.mtime_ns, entry.mode)
            owner = os.geteuid() != 0 or (seen.st_uid, seen.st_gid) == (entry.uid, entry.gid)
            if not (fits and owner and seen.st_nlink == 1 and entry.group == 0):
                return False
            if len(self._matching(path, entry, set(range(len(entry.chunks))))) != len(entry.chunks):
                return False
            os.link(path, self._at(entry), follow_symlinks=False)
        except OSError:
            return False
        self.counts.chunks_reused += len(entry.chunks)
        self._tell(entry.size)
        return True

    def _copy(self, candidate: bytes, entry: Entry, missing: set[int]) -> set[int]:
        path = os.path.join(candidate, entry.path)
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
                    self._write(entry, offset, raw)
                    self.counts.chunks_reused += 1
        finally:
            os.close(source)
        return found

    def _fetch(self, blobs: Blobs) -> None:
        """Fetch, open and write what is wanted, several runs of records beside each other; `prove` hashes it all."""
        keep_memory()
        needed = {chunk: self._plan.places[chunk] for chunk in self._wanted}
        runs = [(pack, run) for pack, rows in by_pack(needed).items() for run in spans(rows)]
        with ThreadPoolExecutor(_AT_ONCE, "fetch") as pool:
            try:
                for done in [pool.submit(self._fetch_run, blobs, pack, run) for pack, run in runs]:
                    done.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _fetch_run(self, blobs: Blobs, pack: bytes, run: list[tuple[bytes, Location]]) -> None:
        start = run[0][1].offset
        length = run[-1][1].offset + run[-1][1].length - start
        view = memoryview(blobs.get(pack, start, length))
        with self._counting:
            self.counts.bytes_fetched += length
        reader = RecordReader(self._sealer, view, start, hashed=False)
        for chunk, place in run:
            self._place(chunk, reader.open(chunk, place))

    def _place(self, chunk: bytes, raw: "bytes | bytearray | memoryview") -> None:
        for entry, offset, length in self._wanted[chunk]:
            if len(raw) != length:
                raise RecordDamaged("A chunk has another length than its file needs.")
            self._write(entry, offset, raw)

    def _write(self, entry: Entry, offset: int, raw: "bytes | bytearray | memoryview") -> None:
        if not (entry.sparse and _is_zeros(raw)):
            descriptor = os.open(self._at(entry), os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                view = memoryview(raw)
                while len(view):
                    written = os.pwrite(descriptor, view, offset)
                    view, offset = view[written:], offset + written
            finally:
                os.close(descriptor)
        self._tell(len(raw))

    def _tell(self, length: int) -> None:
        with self._counting:
            self.counts.bytes_written += length
            done = self.counts.bytes_written
        self._progress(Progress("fetch", done, self.counts.bytes_total, self.counts.files))


def same(wanted: Entry, found: Entry | None) -> bool:
    """Tell whether two entries agree in everything that a restore promises; times of folders are left out."""
    if found is None:
        return False
    plain = (wanted.kind, wanted.mode, wanted.size, wanted.target, wanted.chunks)
    timed = wanted.kind is Kind.FOLDER or wanted.mtime_ns == found.mtime_ns
    return timed and plain == (found.kind, found.mode, found.size, found.target, found.chunks)


def _is_zeros(raw: "bytes | bytearray | memoryview") -> bool:
    return not any(raw[:64]) and bytes(raw) == bytes(len(raw))


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


def _set_metadata(path: bytes, entry: Entry) -> None:
    if os.geteuid() == 0:
        with suppress(OSError):
            os.lchown(path, entry.uid, entry.gid)
    if entry.kind is not Kind.LINK:
        os.chmod(path, entry.mode)
    os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)


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
