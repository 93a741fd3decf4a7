"""Turn pieces of files into stored packs: workers read, hash, code and seal beside each other while packs are sent."""

import mmap
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from dumont.agent.cuts import Piece
from dumont.agent.hashing import read_into
from dumont.vault import (
    MAX_CHUNK_BYTES,
    MAX_GROUP_MEMBERS,
    PackBuilder,
    Sealer,
    fresh_memory,
    new_pack_room,
)

if TYPE_CHECKING:
    from dumont.agent.transfer import Blobs

SMALL_BYTES = 256 << 10
"""Chunks up to here share a record with others."""
_GROUP_BYTES = 2 << 20
_WORKERS = min(4, os.cpu_count() or 1)
_PACKS_AT_ONCE = 3
_PATIENCE_SECONDS = 0.1
"""How long a third pack waits for the memory of the others: to have more of it costs as much CPU as to seal a pack."""
_SENDERS = 2

AskPack = Callable[[], bytes]
TellStored = Callable[[bytes, int], None]
Ids = tuple[bytes, int]


class Saved:
    """The counts of a save. Units: bytes."""

    def __init__(self) -> None:
        self.files = 0
        self.bytes_total = 0
        self.bytes_read = 0
        self.bytes_new = 0
        self.bytes_stored = 0
        self.chunks = 0
        self.chunks_new = 0
        self.unstable: list[bytes] = []
        self.packs: list[bytes] = []


class Packer:
    """Take in pieces of files, store the chunks that are new, and send each pack as it fills.

    Guarantees: memory does not depend on the size of files.
    """

    def __init__(
        self, sealer: Sealer, known: set[bytes], blobs: "Blobs", ask_pack: AskPack, tell_stored: TellStored
    ) -> None:
        self.counts = Saved()
        self.known = known
        self._sealer = sealer
        self._blobs = blobs
        self._ask_pack = ask_pack
        self._tell_stored = tell_stored
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._local = threading.local()
        self._rooms: queue.LifoQueue[bytearray | mmap.mmap] = queue.LifoQueue()
        self._rooms_made = 0
        self._builder: PackBuilder | None = None
        self._group = _Group()
        self._grouped: list[Future[None]] = []
        self._sent: list[Future[None]] = []
        self._failed: BaseException | None = None
        self._finished = False
        self._holes: dict[int, bytes] = {}
        self._workers = ThreadPoolExecutor(_WORKERS, "seal")
        self._senders = ThreadPoolExecutor(_SENDERS, "send")

    @property
    def depth(self) -> int:
        """How many pieces are worth having under way at once."""
        return 2 * _WORKERS

    def submit(self, descriptor: int, piece: Piece) -> "Future[Ids]":
        """Read a piece of an open file and store it if it is new; its id and its length come with the future.

        Errors, in the future: OSError of reading; AgentFailed when packs cannot be stored.
        """
        return self._workers.submit(self._take, descriptor, piece)

    def small(self, raw: bytes) -> bytes:
        """Take in a small chunk and return its id; where the others are far behind, this waits for them.

        Errors: AgentFailed.
        """
        chunk = self._sealer.chunk_id(raw)
        full = self._add_small(chunk, raw)
        if full is not None:
            self._grouped.append(self._workers.submit(self._seal_group, full))
            if len(self._grouped) > self.depth:
                self._grouped[-1 - self.depth].result()
        return chunk

    def flush(self) -> None:
        """Begin to send what is left.

        Errors: AgentFailed.
        """
        for future in self._grouped:
            future.result()
        if self._group.members:
            self._seal_group(self._group)
        with self._lock:
            builder, self._builder = self._builder, None
        if builder is not None:
            self._sent.append(self._senders.submit(self._send, builder))

    def finish(self) -> None:
        """Wait until all is stored; there was a `flush` before.

        Errors: AgentFailed.
        """
        for sent in self._sent:
            sent.result()
        self._finished = True

    def close(self) -> None:
        """Let the threads go, and wait for them where they may still be at work."""
        self._failed = self._failed or RuntimeError("closed")
        self._workers.shutdown(wait=not self._finished, cancel_futures=True)
        self._senders.shutdown(wait=not self._finished, cancel_futures=True)

    def _take(self, descriptor: int, piece: Piece) -> Ids:
        if piece.hole and (chunk := self._holes.get(piece.length)):
            self._is_new(chunk, piece.length)
            return chunk, piece.length
        view = memoryview(self._buffer())[: piece.length]
        view = view[: _zeros(view) if piece.hole else read_into(descriptor, piece.offset, view)]
        if not len(view):
            return b"", 0
        chunk = self._sealer.chunk_id(view)
        if piece.hole:
            self._holes[piece.length] = chunk
        if len(view) <= SMALL_BYTES:
            full = self._add_small(chunk, bytes(view))
            if full is not None:
                self._seal_group(full)
        elif self._is_new(chunk, len(view)):
            self._seal(chunk, view, ())
        return chunk, len(view)

    def _add_small(self, chunk: bytes, raw: bytes) -> "_Group | None":
        """Put a small chunk into the group that is being gathered; return that when it is full."""
        if not self._is_new(chunk, len(raw)):
            return None
        with self._lock:
            group = self._group
            group.parts.append(raw)
            group.members.append((chunk, len(raw)))
            group.length += len(raw)
            if group.length < _GROUP_BYTES and len(group.members) < MAX_GROUP_MEMBERS:
                return None
            self._group = _Group()
            return group

    def _is_new(self, chunk: bytes, length: int) -> bool:
        with self._counting:
            self.counts.bytes_read += length
            if chunk in self.known:
                return False
            self.known.add(chunk)
            self.counts.chunks_new += 1
            self.counts.bytes_new += length
            return True

    def _seal_group(self, group: "_Group") -> None:
        if len(group.members) == 1:
            self._seal(group.members[0][0], group.parts[0], ())
            return
        raw = b"".join(group.parts)
        self._seal(self._sealer.chunk_id(raw), raw, group.members)

    def _seal(self, chunk: bytes, raw: "bytes | memoryview", members: "list[Ids] | tuple[()]") -> None:
        """Compress a chunk and write its record straight into its place in a pack, beside others who do the same."""
        coded = self._sealer.encode(raw)
        with self._lock:
            builder = self._builder or self._begin()
            room = builder.reserve(chunk, coded, members)
            if builder.full:
                self._builder = None
        try:
            self._sealer.seal_into(chunk, coded, room)
        except BaseException as error:
            self._failed = self._failed or error
            self._rooms.put(builder.room)
            raise
        if builder.written():
            self._sent.append(self._senders.submit(self._send, builder))

    def _begin(self) -> PackBuilder:
        """Begin a pack as soon as there is room for one more."""
        room = self._room()
        if self._failed is not None:
            self._rooms.put(room)
            raise self._failed
        self._builder = PackBuilder(self._sealer.keys, self._sealer.repository_id, room)
        return self._builder

    def _room(self) -> bytearray | mmap.mmap:
        patience = _PATIENCE_SECONDS if self._rooms_made > 1 else 0
        try:
            return self._rooms.get(timeout=patience if self._rooms_made < _PACKS_AT_ONCE else None)
        except queue.Empty:
            self._rooms_made += 1
            return new_pack_room()

    def _send(self, builder: PackBuilder) -> None:
        try:
            if self._failed is not None:
                raise self._failed
            pack = self._ask_pack()
            data = builder.finish(pack)
            self._blobs.put(pack, data)
            self._tell_stored(pack, len(data))
            with self._counting:
                self.counts.bytes_stored += len(data)
                self.counts.packs.append(pack)
        except BaseException as error:
            self._failed = self._failed or error
            raise
        finally:
            self._rooms.put(builder.room)

    def _buffer(self) -> mmap.mmap:
        found: mmap.mmap | None = getattr(self._local, "buffer", None)
        if found is None:
            found = self._local.buffer = fresh_memory(MAX_CHUNK_BYTES, large=True)
        return found


class _Group:
    """Small chunks that are to share a record."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.members: list[Ids] = []
        self.length = 0


def _zeros(view: memoryview) -> int:
    view[:] = bytes(len(view))
    return len(view)
