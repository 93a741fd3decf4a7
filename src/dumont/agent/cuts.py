"""Decide where a file is cut into chunks: at tensors' borders, else where the content says so, else not at all."""

import os
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from dumont.agent.rolling import LEAST_BYTES, rolling_cuts
from dumont.agent.tensors import borders
from dumont.vault import MAX_CHUNK_BYTES


class Piece(NamedTuple):
    """A stretch of a file that becomes one chunk; a hole is known to be zeros. Units: bytes."""

    offset: int
    length: int
    hole: bool = False


def cut(descriptor: int, size: int, *, sparse: bool = False) -> Iterator[Piece]:
    """Yield the pieces of a file, in order.

    Guarantees: the pieces make up `size` bytes, whatever the file says of itself.
    """
    if size <= LEAST_BYTES:
        if size:
            yield Piece(0, size)
        return

    def read(offset: int, length: int) -> bytes:
        return os.pread(descriptor, length, offset)

    marks = borders(read, size)
    if marks is not None:
        yield from _between([0, *marks, size])
        return
    for start, end, hole in _stretches(descriptor, size) if sparse else [(0, size, False)]:
        if hole:
            yield from _even(start, end, hole=True)
        else:
            yield from (Piece(*piece) for piece in rolling_cuts(read, start, end))


def _between(marks: list[int]) -> Iterator[Piece]:
    for start, end in pairwise(marks):
        yield from _even(start, end)


def _even(start: int, end: int, *, hole: bool = False) -> Iterator[Piece]:
    for offset in range(start, end, MAX_CHUNK_BYTES):
        yield Piece(offset, min(MAX_CHUNK_BYTES, end - offset), hole)


def _stretches(descriptor: int, size: int) -> Iterator[tuple[int, int, bool]]:
    """Yield start, end and whether it is a hole; holes that are smaller than a chunk count as bytes."""
    at = done = 0
    while at < size:
        start = _seek(descriptor, at, os.SEEK_DATA, size)
        if start - at >= MAX_CHUNK_BYTES:
            if done < at:
                yield done, at, False
            yield at, start, True
            done = start
        at = max(_seek(descriptor, start, os.SEEK_HOLE, size), start + 1)
    if done < size:
        yield done, size, False


def _seek(descriptor: int, offset: int, what: int, size: int) -> int:
    """Return where data or a hole begins, the end of the file where there is none; source: lseek(2)."""
    try:
        return min(size, os.lseek(descriptor, offset, what)) if offset < size else size
    except OSError:
        return size
