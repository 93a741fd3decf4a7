"""Read a tree again and hash it: what a restore wrote, or what a machine holds, told by chunk ids."""

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat
from types import MappingProxyType

from dumont.agent.walk import Scan, open_regular
from dumont.vault import CHUNK_BYTES, MAX_CHUNK_BYTES, Entry, Kind, fresh_memory

_READERS = min(4, os.cpu_count() or 1)
_BATCH_BYTES = 4 << 20
_BATCH_FILES = 256

ChunkId = Callable[[memoryview], bytes]


def entries_with_chunks(
    root: bytes,
    scanned: Scan,
    wanted: Mapping[bytes, Entry],
    chunk_id: ChunkId,
    on_file: Callable[[int, int], None],
    proven: Mapping[bytes, tuple[int, ...]] = MappingProxyType({}),
) -> list[Entry]:
    """Read every file of a scan and return the entries with their chunk ids; each inode is read once.

    A file that still has the mark under which it is `proven` is what is wanted, and is not read.
    Guarantees: a file is cut as the wanted entry of its path is, so that equal files have equal chunks.
    Errors: OSError for what cannot be read.
    """
    files = [found for found in reversed(scanned.found) if found.entry.kind is Kind.FILE]
    whole = [found for found in files if proven.get(found.entry.path) == found.mark]
    read = {found.inode: wanted[found.entry.path] for found in whole}
    for entry in read.values():
        on_file(entry.size, len(entry.chunks))
    firsts = {found.inode: found.entry for found in files if found.inode not in read}
    hasher = _Hasher(root, wanted, chunk_id)
    with ThreadPoolExecutor(_READERS, "read") as pool:
        for batch in pool.map(hasher.batch, _batches(firsts.items())):
            for inode, entry in batch:
                read[inode] = entry
                on_file(entry.size, len(entry.chunks))
    return [
        found.entry.filled(read[found.inode].chunks, read[found.inode].lengths)
        if found.entry.kind is Kind.FILE
        else found.entry
        for found in scanned.found
    ]


_Batch = list[tuple[tuple[int, ...], Entry]]


def _batches(items: Iterable[tuple[tuple[int, ...], Entry]]) -> Iterator[_Batch]:
    batch: _Batch = []
    size = 0
    for inode, entry in items:
        batch.append((inode, entry))
        size += entry.size
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_FILES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Hasher:
    """Hashes files, in several threads, each with memory of its own."""

    def __init__(self, root: bytes, wanted: Mapping[bytes, Entry], chunk_id: ChunkId) -> None:
        self._root = root
        self._wanted = wanted
        self._chunk_id = chunk_id
        self._local = threading.local()
        self._zeros: dict[int, bytes] = {}

    def batch(self, batch: _Batch) -> _Batch:
        return [(inode, self._hashed(entry)) for inode, entry in batch]

    def _hashed(self, entry: Entry) -> Entry:
        wanted = self._wanted.get(entry.path)
        descriptor = open_regular(os.path.join(self._root, entry.path))
        try:
            pieces = list(self._pieces(descriptor, entry, wanted.lengths if wanted else ()))
        finally:
            os.close(descriptor)
        chunks, lengths = tuple(chunk for chunk, _ in pieces), tuple(length for _, length in pieces)
        size = sum(lengths)
        return (entry if size == entry.size else entry.changed(size=size)).filled(chunks, lengths)

    def _pieces(self, descriptor: int, entry: Entry, cuts: tuple[int, ...]) -> Iterator[tuple[bytes, int]]:
        room: memoryview | None = getattr(self._local, "room", None)
        if room is None:
            room = self._local.room = memoryview(fresh_memory(MAX_CHUNK_BYTES))
        offset = 0
        for length in chain(cuts, repeat(CHUNK_BYTES)):
            if entry.sparse and offset + length <= entry.size and _is_hole(descriptor, offset, length):
                yield self._id_of_zeros(length), length
                offset += length
                continue
            count = read_into(descriptor, offset, room[:length])
            if count:
                yield self._chunk_id(room[:count]), count
            if count < length:
                return
            offset += length

    def _id_of_zeros(self, length: int) -> bytes:
        found = self._zeros.get(length)
        if found is None:
            found = self._zeros[length] = self._chunk_id(memoryview(bytes(length)))
        return found


def read_into(descriptor: int, offset: int, view: memoryview) -> int:
    """Fill `view` from an open file and return how many bytes there were."""
    done = 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if not count:
            break
        done += count
    return done


def _is_hole(descriptor: int, offset: int, length: int) -> bool:
    """Tell whether a stretch is zeros that no block stands for; source: lseek(2)."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA) >= offset + length
    except OSError as error:
        return error.errno == errno.ENXIO
