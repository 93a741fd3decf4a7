"""The Merkle root over a tree's entries: one number that stands for every path, mode, time, link and byte."""

import struct
from collections.abc import Iterable

from blake3 import blake3

from dumont.vault.manifest import Entry

_LEAF = struct.Struct("<BIqQII")


def leaf(key: bytes, entry: Entry) -> bytes:
    """Hash one entry. Owner and sparseness are left out: they do not survive every file system and user."""
    fixed = _LEAF.pack(entry.kind, entry.mode, entry.mtime_ns, entry.size, entry.group, len(entry.chunks))
    sized = (struct.pack("<I", len(part)) + part for part in (entry.path, entry.target))
    return blake3(b"".join((b"\x00", fixed, *sized, *entry.chunks)), key=key).digest()


def merkle_root(key: bytes, entries: Iterable[Entry]) -> bytes:
    """Return the root over entries in the order of their paths.

    Source: leaves and nodes are told apart by a first byte, the odd one moves up (RFC 6962, section 2.1).
    """
    level = [leaf(key, entry) for entry in entries]
    if not level:
        return blake3(b"\x02", key=key).digest()
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        odd = level[-1:] if len(level) % 2 else []
        level = [blake3(b"\x01" + left + right, key=key).digest() for left, right in pairs] + odd
    return level[0]
