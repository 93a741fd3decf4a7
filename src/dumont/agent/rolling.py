"""Cut where the content says so, so that bytes put in or taken out move only the cuts around them.

A cut follows each place where a hash of the 16 bytes before it has 20 chosen bits: eight of them are looked for
everywhere with a cheap hash over three bytes, the others only where those fit.
"""

from collections.abc import Callable, Iterator

from dumont.vault import numpy_core

LEAST_BYTES = 1 << 20
MOST_BYTES = 4 << 20
_BLOCK_BYTES = 256 << 10
_REACH = 16
_RARE = 4096
_MARK = 0x5B
_FACTORS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)


def rolling_cuts(read: Callable[[int, int], bytes], start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield offset and length of the pieces of a stretch of a file: 1 to 4 MiB each, the last one what is left.

    Guarantees: the pieces make up the stretch, even if the file is shorter than it says.
    """
    while start < end:
        length = _next(read, start, end)
        yield start, length
        start += length


def _next(read: Callable[[int, int], bytes], start: int, end: int) -> int:
    most = min(MOST_BYTES, end - start)
    at = LEAST_BYTES
    while at < most:
        block = read(start + at - _REACH, min(_BLOCK_BYTES, most - at) + _REACH)
        found = _first_cut(block)
        if found:
            return at + found
        at += _BLOCK_BYTES
    return most


def _first_cut(block: bytes) -> int:
    """Return how far behind its first 16 bytes a block is to be cut, 0 for not at all."""
    np = numpy_core()
    if len(block) <= _REACH:
        return 0
    plain = np.frombuffer(block, "u1")
    mixed = plain[_REACH:] * 5
    mixed += plain[_REACH - 1 : -1] * 3
    mixed += plain[_REACH - 2 : -2]
    (places,) = (mixed == _MARK).nonzero()
    words = np.ndarray((len(block) - 7,), "<u8", block, 0, (1,))  # those that begin at each byte
    hashed = words[places + 1] * _FACTORS[0]
    hashed += words[places + 9] * _FACTORS[1]
    hashed ^= hashed >> 29
    hashed *= _FACTORS[2]
    (hits,) = ((hashed >> 40) % _RARE == 0).nonzero()
    return int(places[hits[0]]) + 1 if len(hits) else 0
