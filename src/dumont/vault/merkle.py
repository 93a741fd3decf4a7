"""The Merkle root over a tree's entries: one number that stands for every path, mode, time, link and byte."""

import struct
from collections.abc import Iterable, Iterator

from blake3 import blake3

from dumont.vault.manifest import Entries, Entry
from dumont.vault.records import CHUNK_ID_BYTES

_LEAF = struct.Struct("<BBIqQIII")
_LENGTH = struct.Struct("<I")
_NO_TARGET = _LENGTH.pack(0)


def merkle_root(key: bytes, entries: Iterable[Entry]) -> bytes:
    """Return the root over entries in the order of their paths.

    Source: leaves and nodes are told apart by a first byte, the odd one moves up (RFC 6962, section 2.1).
    """
    level = list(_hashes(key, _leaves(Entries.of(entries))))
    if not level:
        return blake3(b"\x02", key=key).digest()
    while len(level) > 1:
        odd = level[-1:] if len(level) % 2 else []
        pairs = zip(level[::2], level[1::2], strict=False)
        level = [*_hashes(key, (b"\x01" + left + right for left, right in pairs)), *odd]
    return level[0]


def _hashes(key: bytes, texts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the hash of each text; one hasher serves all of them, as to make one costs more than to hash."""
    hasher = blake3(key=key)
    reset, update, digest = hasher.reset, hasher.update, hasher.digest
    for text in texts:
        reset()
        update(text)
        yield digest()


def _leaves(entries: Entries) -> Iterator[bytes]:
    """Yield what each entry's leaf is the hash of. What does not survive every system is left out."""
    columns = entries.columns
    names = ("path", "kind", "mode", "mtime_ns", "size", "target", "group", "chunk_counts")
    flat, start = columns["chunks"], 0
    rows = zip(*(columns[name] for name in names), strict=True)
    for path, kind, mode, mtime_ns, size, target, group, count in rows:
        end = start + count * CHUNK_ID_BYTES
        fixed = _LEAF.pack(0, kind, mode, mtime_ns, size, group, count, len(path))
        sized = _LENGTH.pack(len(target)) + target if target else _NO_TARGET
        yield fixed + path + sized + flat[start:end]
        start = end
