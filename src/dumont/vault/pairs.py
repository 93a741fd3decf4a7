"""Exponents two by two: weights use few of them, so that two fit into a byte and half as many are left to be coded.

Shapes, for `count` bytes: pairs of how far each lies above a base, 0 to 15, the earlier one in the lower four bits;
the places (u32) of those that lie elsewhere; these themselves; and last the base.
"""

import threading
from typing import Any

from dumont.vault.arrays import numpy_core
from dumont.vault.errors import RecordDamaged

Array = Any
_NEAR = 16
_MOST_BASE = 256 - _NEAR
_FEW = 2048
"""One in so many may lie elsewhere."""
LEAST_COUNT = 8 * _FEW
_ROW = 8192
"""Who lies elsewhere is looked for in rows of so many, all rows at once: quicker than one row after the other."""
_local = threading.local()


def base_of(sample: Array) -> int | None:
    """Return the base that nearly all of a sample's bytes lie near, None where they are spread wider."""
    np = numpy_core()
    upto = np.add.accumulate(np.bincount(sample, minlength=256))
    within = upto[_NEAR - 1 :].copy()
    within[1:] -= upto[:-_NEAR]
    base = int(within.argmax())
    return base if int(within[base]) * _FEW >= len(sample) * (_FEW - 1) else None


class Pairs:
    """Takes in a plane's bytes, block by block, and writes their pairs."""

    def __init__(self, plane: Array, count: int, base: int) -> None:
        self._plane = plane
        self._count = count
        self._base = base
        self._places: list[Array] = []
        self._others: list[Array] = []

    def take(self, at: int, firsts: Array) -> None:
        """Take in the bytes from an even place on: the lower halves of 16-bit words."""
        np, count = numpy_core(), len(firsts)
        near, shifted = _memory(-(-count // _ROW) * _ROW)
        near[:count] = firsts
        if count < len(near):
            near[count:] = self._base
        np.subtract(near, self._base, near)
        table = near.reshape(-1, _ROW)
        (mixed,) = (np.maximum.reduce(table, axis=0) >= _NEAR).nonzero()
        if len(mixed):
            rows, columns = (table[:, mixed] >= _NEAR).nonzero()
            places = rows * _ROW + mixed[columns]
            self._places.append(places + at)
            self._others.append(near[places] + self._base)
            near[places] = 0
        half = -(-count // 2)
        pairs, shifted = near.view("<u2")[:half], shifted[:half]
        np.right_shift(pairs, 4, shifted)
        self._plane[at // 2 : at // 2 + half] = np.bitwise_or(pairs, shifted, shifted)

    def finish(self) -> int | None:
        """List those that lie elsewhere and return the length of all; None where they are too many."""
        at, few = -(-self._count // 2), sum(map(len, self._places))
        if few * _FEW > self._count:
            return None
        for arrays, form in ((self._places, "<u4"), (self._others, "u1")):
            for array in arrays:
                part = array.astype(form).view("u1")
                self._plane[at : at + len(part)] = part
                at += len(part)
        self._plane[at] = self._base
        return at + 1


class Apart:
    """The bytes that pairs stand for.

    Errors: RecordDamaged where they do not have the form of `count` bytes.
    """

    def __init__(self, content: "bytes | memoryview", count: int) -> None:
        np = numpy_core()
        half = -(-count // 2)
        few, odd = divmod(len(content) - half - 1, 5)
        if few < 0 or odd or content[-1] > _MOST_BASE:
            raise RecordDamaged("The pairs of a field-split record have an impossible form.")
        self._base = content[-1]
        self._pairs = np.frombuffer(content, "u1", half)
        self._places = np.frombuffer(content, "<u4", few, half)
        self._others = np.frombuffer(content, "u1", few, half + 4 * few)
        if few and int(np.maximum.reduce(self._places)) >= count:
            raise RecordDamaged("The pairs of a field-split record name a place outside of it.")

    def lift(self, at: int, bits: int, words: Array) -> None:
        """Write the bytes from an even place on, so many bits up, into 16-bit words; those elsewhere are not right yet.

        Two words for a pair at once: a product puts each half where it belongs, and once more where it does not.
        """
        np = numpy_core()
        wide = words.view("<u4")
        wide[:] = self._pairs[at // 2 : at // 2 + len(wide)]
        np.multiply(wide, 1 << bits | 1 << bits + 12, wide)
        np.bitwise_and(wide, 0x000F000F << bits, wide)
        np.add(wide, self._base * 0x00010001 << bits, wide)

    def mend(self, at: int, bits: int, words: Array) -> None:
        """Put those that lie elsewhere into the words of the bytes from a place on."""
        np = numpy_core()
        (here,) = ((self._places >= at) & (self._places < at + len(words))).nonzero()
        if len(here):
            places = self._places[here] - at
            others = np.left_shift(self._others[here], bits, dtype="u2")
            words[places] = words[places] & 0xFFFF - (0xFF << bits) | others


def _memory(length: int) -> tuple[Array, Array]:
    """Return memory of this thread's own for so many bytes, and for half as many words, the same each time."""
    found: tuple[Array, Array] | None = getattr(_local, "memory", None)
    if found is None or len(found[0]) < length:
        np = numpy_core()
        found = _local.memory = np.empty(length, "u1"), np.empty(length // 2, "<u2")
    return found[0][:length], found[1]
