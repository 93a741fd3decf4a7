"""Compare a workspace with a snapshot by hashing every file again on the machine."""

from collections.abc import Callable

import msgpack

from dumont.agent.hashing import entries_with_chunks
from dumont.agent.partial import same
from dumont.agent.protocol import Progress
from dumont.agent.walk import Excluder, scan
from dumont.vault import Sealer, bytes_of, unpack_columns


def compare_tree(
    root: bytes, exclude: list[str], packed_entries: bytes, sealer: Sealer, progress: Callable[[Progress], None]
) -> bytes:
    """Return the paths that differ, are missing or are extra, with counts, packed.

    Guarantees: content, type, mode, link target and a file's time are compared; times of folders are not.
    Errors: RecordDamaged for a bad list of entries; OSError for files that cannot be read.
    """
    wanted = {entry.path: entry for entry in unpack_columns(packed_entries)}
    total = bytes_of(wanted.values())
    done = files = 0

    def on_file(size: int, _: int) -> None:
        nonlocal done, files
        done, files = done + size, files + 1
        progress(Progress("compare", done, max(total, done), files))

    scanned = scan(root, Excluder(exclude))
    found = {entry.path: entry for entry in entries_with_chunks(root, scanned, wanted, sealer.chunk_id, on_file)}
    unreadable = {path for path, _ in scanned.errors}
    differing = sorted({path for path in wanted.keys() & found.keys() if not same(wanted[path], found[path])})
    report = {
        "differing": sorted({*differing, *(unreadable & wanted.keys())}),
        "missing": sorted(wanted.keys() - found.keys() - unreadable),
        "extra": sorted(found.keys() - wanted.keys()),
        "files": files,
        "bytes": done,
    }
    packed: bytes = msgpack.packb(report)
    return packed
