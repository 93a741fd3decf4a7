"""Bring records from the store: much of a pack with each request, taken apart by others while more of it comes."""

import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from dumont.vault import ROOM_BYTES, SPAN_BYTES, Location, Room, Rooms, by_pack, numpy_core, spans

if TYPE_CHECKING:
    from dumont.agent.transfer import Blobs

_STREAMS = 4
_OPENERS = min(4, os.cpu_count() or 1)
_GAP_BYTES = 256 << 10

Run = list[tuple[bytes, Location]]
"""Chunks that lie near each other in a pack, with their places."""
Take = Callable[[Run, memoryview, Rooms], None]


def fetch(blobs: "Blobs", needed: dict[bytes, Location], take: Take) -> None:
    """Have `take` called with each run of what is needed, as it lies in the store, in several threads.

    Guarantees: after an error, wherever it happens, nothing is under way any more.
    Errors: those of `take`; AgentFailed of the transfer.
    """
    fetching = _Fetching(blobs, take)
    with ThreadPoolExecutor(_OPENERS, "open") as openers, ThreadPoolExecutor(_STREAMS, "fetch") as streams:
        begun = [streams.submit(fetching.stream, openers, pack, runs) for pack, runs in _stretches(needed)]
        try:
            numpy_core()  # an opener would load it while the others wait; here it is loaded while the first bytes come
            for stream in begun:
                for taken in stream.result():
                    taken.result()
        except BaseException:
            fetching.failed = True
            raise


class _Fetching:
    """Streams that fill rooms and openers that empty them; the number of rooms bounds how much is under way."""

    def __init__(self, blobs: "Blobs", take: Take) -> None:
        self.failed = False
        self._blobs = blobs
        self._take = take
        self._local = threading.local()
        self._free: queue.LifoQueue[Room | None] = queue.LifoQueue()
        for _ in range(_STREAMS + _OPENERS):
            self._free.put(None)

    def stream(self, openers: ThreadPoolExecutor, pack: bytes, runs: list[Run]) -> "list[Future[None]]":
        """Read runs that follow each other in a pack, and hand each of them on; none any more after a failure."""
        fill = self._blobs.reader(pack, _end(runs[-1]))
        given: list[Future[None]] = []
        for run in runs:
            room = self._free.get()
            if self.failed:
                self._free.put(room)
                break
            try:
                room = room or Room(ROOM_BYTES)
                start = run[0][1].offset
                length = _end(run) - start
                view = (room if length <= ROOM_BYTES else Room(length)).view[:length]
                fill(start, view)
                given.append(openers.submit(self._open, room, view, run))
            except BaseException:
                self.failed = True
                self._free.put(room)
                raise
        return given

    def _rooms(self) -> Rooms:
        found: Rooms | None = getattr(self._local, "rooms", None)
        if found is None:
            found = self._local.rooms = Rooms()
        return found

    def _open(self, room: Room, view: memoryview, run: Run) -> None:
        try:
            if not self.failed:
                self._take(run, view, self._rooms())
        except BaseException:
            self.failed = True
            raise
        finally:
            self._free.put(room)


def _stretches(needed: dict[bytes, Location]) -> Iterator[tuple[bytes, list[Run]]]:
    """Gather runs that one request serves: as much of a pack as leaves something for each stream."""
    runs = [(pack, run) for pack, rows in by_pack(needed).items() for run in spans(rows)]
    most = max(SPAN_BYTES, sum(_end(run) - run[0][1].offset for _, run in runs) // _STREAMS)
    stretch: list[Run] = []
    last = b""
    for pack, run in runs:
        if stretch and (
            pack != last
            or run[0][1].offset - _end(stretch[-1]) > _GAP_BYTES
            or _end(run) - stretch[0][0][1].offset > most
        ):
            yield last, stretch
            stretch = []
        stretch.append(run)
        last = pack
    if stretch:
        yield last, stretch


def _end(run: Run) -> int:
    place = run[-1][1]
    return place.offset + place.length
