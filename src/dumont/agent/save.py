"""Save a workspace from the machine's side: walk, chunk, seal, pack and send."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import msgpack

from dumont.agent.protocol import Progress
from dumont.agent.transfer import Blobs
from dumont.agent.walk import Excluder, Found, Scan, entry_of, open_regular, read_chunks, scan, unchanged
from dumont.vault import Entry, Kind, PackBuilder, Record, Sealer, bytes_of, pack_columns

_TRIES = 3
_SMALL_BYTES = 256 << 10
_AT_ONCE = 2

AskPack = Callable[[], bytes]
TellStored = Callable[[bytes, int], None]


@dataclass
class Saved:
    """The counts of a save. Units: bytes."""

    files: int = 0
    bytes_total: int = 0
    bytes_read: int = 0
    bytes_new: int = 0
    bytes_stored: int = 0
    chunks: int = 0
    chunks_new: int = 0
    unstable: list[bytes] = field(default_factory=list)
    packs: list[bytes] = field(default_factory=list)


class Packer:
    """Gather new chunks into packs and send each as it fills, one on its way while the next is made."""

    def __init__(
        self, sealer: Sealer, known: set[bytes], blobs: Blobs, ask_pack: AskPack, tell_stored: TellStored
    ) -> None:
        self.counts = Saved()
        self.tick: Callable[[], None] = lambda: None
        self._sealer = sealer
        self._known = known
        self._blobs = blobs
        self._ask_pack = ask_pack
        self._tell_stored = tell_stored
        self._builder: PackBuilder | None = None
        self._sending: Future[None] | None = None
        self._sender = ThreadPoolExecutor(1, "send")
        self._sealers = ThreadPoolExecutor(min(_AT_ONCE, os.cpu_count() or 1), "seal")

    def ids(self, chunks: Iterator[bytes]) -> Iterator[tuple[bytes, int]]:
        """Take in chunks and yield their ids and lengths, in order."""
        waiting: deque[Future[tuple[bytes, int, Record | None]]] = deque()
        for raw in chunks:
            if len(raw) <= _SMALL_BYTES:
                while waiting:
                    yield self._take(waiting.popleft().result())
                yield self._take(self._seal(raw))
                continue
            waiting.append(self._sealers.submit(self._seal, raw))
            del raw
            if len(waiting) > _AT_ONCE:
                yield self._take(waiting.popleft().result())
        while waiting:
            yield self._take(waiting.popleft().result())

    def finish(self) -> None:
        """Send what is left and wait until all is stored."""
        if self._builder is not None and not self._builder.empty:
            self._send()
        self._settle()

    def close(self) -> None:
        """Let the threads go."""
        self._sealers.shutdown(wait=True, cancel_futures=True)
        self._sender.shutdown(wait=True, cancel_futures=True)

    def _seal(self, raw: bytes) -> tuple[bytes, int, Record | None]:
        chunk = self._sealer.chunk_id(raw)
        return chunk, len(raw), None if chunk in self._known else self._sealer.seal(chunk, raw)

    def _take(self, sealed: tuple[bytes, int, Record | None]) -> tuple[bytes, int]:
        chunk, length, record = sealed
        self.counts.bytes_read += length
        if record is not None and chunk not in self._known:
            self._known.add(chunk)
            self.counts.chunks_new += 1
            self.counts.bytes_new += length
            if self._builder is None:
                self._builder = PackBuilder(self._sealer.keys, self._sealer.repository_id, self._ask_pack())
            self._builder.add(record)
            if self._builder.full:
                self._send()
        self.tick()
        return chunk, length

    def _send(self) -> None:
        self._settle()
        builder = self._builder
        if builder is not None:
            self._builder = None
            self._sending = self._sender.submit(self._put, builder.pack, builder.finish())

    def _put(self, pack: bytes, data: bytearray) -> None:
        self._blobs.put(pack, data)
        self._tell_stored(pack, len(data))
        self.counts.bytes_stored += len(data)
        self.counts.packs.append(pack)

    def _settle(self) -> None:
        if self._sending is not None:
            self._sending.result()
            self._sending = None


def save_tree(
    root: bytes, exclude: list[str], own: list[bytes], packer: Packer, progress: Callable[[Progress], None]
) -> tuple[Saved, bytes]:
    """Save the tree below `root`; return the counts and the packed list of entries.

    Guarantees: every chunk named is stored when this returns. A file that changes under the reader three times is
    listed as unstable, with what was read last.
    Errors: AgentFailed as the transfer raises it.
    """
    scanned = scan(root, Excluder(exclude), own=own)
    total = bytes_of(found.entry for found in scanned.found)
    counts = packer.counts
    entries: list[Entry] = []
    read: dict[tuple[int, int], Entry] = {}
    packer.tick = lambda: progress(Progress("save", counts.bytes_read, max(total, counts.bytes_read), len(read)))
    for found in scanned.found:
        entry: Entry | None = found.entry
        if found.entry.kind is Kind.FILE:
            entry = _read_once(root, found, packer, read, scanned)
        if entry is not None:
            entries.append(entry)
    packer.finish()
    counts.files = sum(entry.kind is Kind.FILE for entry in entries)
    counts.bytes_total = bytes_of(entries)
    counts.chunks = len({chunk for entry in entries for chunk in entry.chunks})
    report = {"entries": pack_columns(_regrouped(entries)), "errors": scanned.errors, "skipped": scanned.skipped}
    packed: bytes = msgpack.packb({**report, "unstable": counts.unstable, "packs": counts.packs})
    return counts, packed


def _read_once(
    root: bytes, found: Found, packer: Packer, read: dict[tuple[int, int], Entry], scanned: Scan
) -> Entry | None:
    known = read.get(found.inode)
    if known is None:
        try:
            known = _read_stable(root, found.entry, packer)
        except FileNotFoundError:
            packer.counts.unstable.append(found.entry.path)
            return None
        except OSError as error:
            scanned.errors.append((found.entry.path, os.strerror(error.errno) if error.errno else str(error)))
            return None
        read[found.inode] = known
    return replace(known, path=found.entry.path, group=found.entry.group)


def _read_stable(root: bytes, entry: Entry, packer: Packer) -> Entry:
    path = os.path.join(root, entry.path)
    for attempt in range(_TRIES):
        descriptor = open_regular(path)
        try:
            before = os.fstat(descriptor)
            ids, lengths = [], 0
            for chunk, length in packer.ids(read_chunks(descriptor)):
                ids.append(chunk)
                lengths += length
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        stable = unchanged(before, after) and lengths == after.st_size
        if stable or attempt == _TRIES - 1:
            break
    if not stable:
        packer.counts.unstable.append(entry.path)
    return replace(entry_of(entry.path, Kind.FILE, after), size=lengths, chunks=tuple(ids))


def _regrouped(entries: list[Entry]) -> list[Entry]:
    """Number hard-link groups by first appearance among the entries that could be read."""
    counts: dict[int, int] = {}
    for entry in entries:
        counts[entry.group] = counts.get(entry.group, 0) + 1
    numbers: dict[int, int] = {}
    result = []
    for entry in entries:
        alone = entry.group == 0 or counts[entry.group] == 1
        number = 0 if alone else numbers.setdefault(entry.group, len(numbers) + 1)
        result.append(replace(entry, group=number))
    return result
