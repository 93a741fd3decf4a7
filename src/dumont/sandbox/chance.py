"""Chance without memory: draws and moments that depend on a key and on nothing that was asked before.

Source: the mixer is SplitMix64 (Steele, Lea, Flood 2014).
"""

import math
from bisect import bisect
from statistics import NormalDist
from typing import NamedTuple

_MASK = (1 << 64) - 1
_NORMAL = NormalDist()
# Chances that a stretch as long as the mean wait holds at most 0, 1, 2 ... of the moments of a Poisson process.
_AT_MOST = tuple(sum(math.exp(-1) / math.factorial(i) for i in range(n + 1)) for n in range(9))


class Cell(NamedTuple):
    """The stretch between two moments of a process. Units: seconds; `number` grows with time, `draw` seeds chance."""

    start: float
    end: float
    number: int
    draw: int


def mix(value: int) -> int:
    """Return 64 bits that look random and depend on `value` alone."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def key_of(*parts: int) -> int:
    """Return one key for several numbers; their order counts."""
    key = 0
    for part in parts:
        key = mix(key ^ part)
    return key


def unit(key: int, turn: int = 0) -> float:
    """Return a number from 0 up to 1, without 1."""
    return (mix(key + turn) >> 11) * 2.0**-53


def normal(key: int, turn: int = 0) -> float:
    """Return a draw from the normal distribution of mean 0 and deviation 1."""
    return _NORMAL.inv_cdf(max(unit(key, turn), 2.0**-53))


def exponential(key: int, turn: int = 0) -> float:
    """Return a draw from the exponential distribution of mean 1."""
    return -math.log(1.0 - unit(key, turn))


def lognormal(key: int, median: float, sigma: float, turn: int = 0) -> float:
    """Return a draw whose logarithm is normal around the median's with deviation `sigma`."""
    return median * math.exp(sigma * normal(key, turn))


def cell(key: int, mean: float, at: float) -> Cell:
    """Return the stretch around `at` between two moments of a Poisson process with that mean wait in seconds.

    Guarantees: the same key and mean always give the same moments, in whatever order they are asked for.
    """
    bucket = math.floor(at / mean)
    here = moments(key, bucket, mean)
    later = [moment for moment, _ in here if moment > at]
    earlier = here[: len(here) - len(later)]
    before = after = bucket
    while not earlier:
        before -= 1
        earlier = moments(key, before, mean)
    while not later:
        after += 1
        later = [moment for moment, _ in moments(key, after, mean)]
    start, number = earlier[-1]
    return Cell(start, later[0], number, key_of(key, number))


def latest(key: int, mean: float, at: float, count: int) -> list[int]:
    """Return the draws of the last `count` moments up to `at`, newest first."""
    bucket = math.floor(at / mean)
    found: list[int] = []
    while len(found) < count:
        found += [key_of(key, number) for moment, number in reversed(moments(key, bucket, mean)) if moment <= at]
        bucket -= 1
    return found[:count]


def moments(key: int, bucket: int, mean: float) -> list[tuple[float, int]]:
    """Return the (moment, number) pairs of one bucket as long as the mean wait, in order."""
    seed = key_of(key, bucket)
    count = bisect(_AT_MOST, unit(seed))
    if count == 1:
        return [((bucket + unit(seed, 1)) * mean, bucket * 16)]
    found = sorted((bucket + unit(seed, turn)) * mean for turn in range(1, count + 1))
    return [(moment, bucket * 16 + turn) for turn, moment in enumerate(found)]
