"""How the market moves: prices, listings and rival renters as pure functions of the seed and product time.

Nothing runs in the background: whoever asks names a moment. Between two moments of its processes a box stands still,
so answers are kept until the next one. Rates, medians and shares without a source are chosen.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from dumont.core import nanousd
from dumont.sandbox.catalogue import Box
from dumont.sandbox.chance import Cell, cell, exponential, key_of, latest, lognormal, normal, unit

_HOUR = 3600.0
_DAY = 86_400.0
_LISTING, _RIVAL, _BID, _PRICE, _DRIFT, _SHOCK = range(1, 7)
_REPRICE = 6 * _DAY
_SHOCK_FACTOR = 3.0
_OUSTS_BID = 0.08

_Rival = tuple[int, tuple[int, ...], float]
"""Key, GPUs, and the part of the time that it holds them."""
_Shown = tuple[tuple[tuple[int, int], ...], float, float]
"""What is on offer, since and until when."""
_Standing = tuple[int, float, float]
"""A price, since and until when."""
_DRIFT_DAYS = 60


@dataclass(frozen=True)
class Profile:
    """A climate. Units: `tightness` divides what is free; `haste` multiplies how often rivals come.

    `grace_real_s` is how many real seconds an offer can still be rented after it left the market, so that a person who
    clicks on what the list shows gets it.
    """

    name: str
    moving: bool
    tightness: float = 1.0
    price: float = 1.0
    haste: float = 1.0
    grace_real_s: float = 0.0


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("still", moving=False),
        Profile("slack", moving=True, grace_real_s=60.0),
        Profile("busy", moving=True, tightness=8.0, price=1.25, haste=3.0),
    )
}


_PRICE_STEPS = ((0.9, 0.01), (0.16, 0.0025), (0.0, 0.0015))
"""Dollars from which hosts ask prices in steps of so many dollars."""


def host_price(gpu_hour: float) -> int:
    """Return nano-dollars per GPU-hour that a host would ask: a round price of its own times 4/3.

    Source: hosts keep three quarters of what the renter pays, which makes prices such as 0.246667.
    """
    step = next(step for least, step in _PRICE_STEPS if gpu_hour * 0.75 >= least)
    return round(nanousd(max(1, round(gpu_hour * 0.75 / step)) * step) * 4 / 3 / 1000) * 1000


class Weather:
    """The climate of one seed."""

    def __init__(self, seed: int, profile: Profile) -> None:
        self._seed = seed
        self.profile = profile
        self._cells: dict[int, Cell] = {}
        self._shown: dict[int, _Shown] = {}
        self._prices: dict[int, _Standing] = {}
        self._bids: dict[tuple[int, int, int], _Standing] = {}

    def gpu_hour(self, box: Box, at: float) -> int:
        """Return what a GPU of the box costs, nano-dollars per hour: hosts change it every few days."""
        if not self.profile.moving:
            return box.gpu_hour
        known = self._prices.get(box.id)
        if known is None or not known[1] <= at < known[2]:
            known = self._prices[box.id] = self._price(box, at)
        return known[0]

    def shown(self, box: Box, at: float, blocked: frozenset[int] = frozenset()) -> tuple[tuple[int, int], ...]:
        """Return what is on offer of a box as (column of its slices, number of the listing).

        A moving market shows one free slice of each size that the host lists; a still one shows all. GPUs in `blocked`
        are not free.
        """
        return self._standing(box, at, blocked)[0]

    def window(self, box: Box, at: float, blocked: frozenset[int] = frozenset()) -> tuple[float, float]:
        """Return since and until when a box stands still: what it shows, its price and the rivals' bids for that."""
        if not self.profile.moving:
            return -math.inf, math.inf
        shown, since, until = self._standing(box, at, blocked)
        self.gpu_hour(box, at)
        spans = [self._prices[box.id][1:], *(self._bid(box, box.slices()[column], at)[1:] for column, _ in shown)]
        return max(since, *(span[0] for span in spans)), min(until, *(span[1] for span in spans))

    def _standing(self, box: Box, at: float, blocked: frozenset[int]) -> _Shown:
        if not self.profile.moving:
            shown = tuple((c, 0) for c, gpus in enumerate(box.slices()) if not blocked.intersection(gpus))
            return shown, -math.inf, math.inf
        if blocked:
            return self._look(box, at, blocked)
        known = self._shown.get(box.id)
        if known is None or not known[1] <= at < known[2]:
            known = self._shown[box.id] = self._look(box, at, blocked)
        return known

    def shown_lately(
        self, box: Box, at: float, earliest: float, blocked: frozenset[int]
    ) -> Iterator[tuple[tuple[int, int], ...]]:
        """Walk back in time through what was on offer of a box, from a moment to an earlier one."""
        yield self.shown(box, at, blocked)
        while self.profile.moving and at > earliest:
            at = math.nextafter(self._look(box, at, blocked)[1], -math.inf)
            yield self._look(box, max(at, earliest), blocked)[0]

    def held(self, box: Box, gpus: tuple[int, ...], at: float) -> bool:
        """Tell whether rivals hold some of these GPUs on demand."""
        return self.profile.moving and any(self._holds(box, rival, at) for rival in self._rivals(box, gpus))

    def ousts(self, box: Box, gpus: tuple[int, ...], at: float) -> bool:
        """Tell whether one of the rivals on demand takes a bid's place on these GPUs rather than go elsewhere."""
        return self.profile.moving and any(
            self._holds(box, rival, at) and unit(self._cell(rival[0], self._stay(rival[0]), at).draw, 1) < _OUSTS_BID
            for rival in self._rivals(box, gpus)
        )

    def rival_bid(self, box: Box, gpus: tuple[int, ...], at: float) -> int:
        """Return the highest bid of the rivals for a slice, nano-dollars per hour of one GPU; 0 for none.

        Nobody bids what the machine costs on demand, so a bid at that price wins against the weather; a host's own
        floor may be higher all the same.
        """
        return min(self._bid(box, gpus, at)[0], self.gpu_hour(box, at) * 100 // 101) if self.profile.moving else 0

    def next_change(self, box: Box, gpus: tuple[int, ...], at: float) -> float:
        """Return the next moment at which rivals for some of these GPUs may come or go."""
        if not self.profile.moving:
            return math.inf
        ends = [self._cell(key, self._stay(key), at).end for key, _, _ in self._rivals(box, gpus)]
        return min([*ends, self._bid(box, gpus, at)[2]])

    def presence(self, box: Box) -> float:
        """Return how many offers of the box are on the market on average, near enough to size a catalogue."""
        if not self.profile.moving:
            return float(len(box.slices()))
        total, size, free = 0.0, box.smallest, box.free
        while size <= box.gpus:
            some_free = 1 - (1 - math.pow(free, 1 + size / box.gpus)) ** (box.gpus / size)
            total += some_free * _listing_habit(key_of(self._seed, box.id, size, _LISTING))[0]
            size *= 2
        return total

    def _cell(self, key: int, mean: float, at: float) -> Cell:
        known = self._cells.get(key)
        if known is None or not known.start <= at < known.end:
            known = self._cells[key] = cell(key, mean, at)
        return known

    def _look(self, box: Box, at: float, blocked: frozenset[int]) -> _Shown:
        """Find what is on offer, and the moments since and until when that holds."""
        since, until = -math.inf, math.inf
        found: dict[int, tuple[int, int]] = {}
        listed: dict[int, int | None] = {}
        for column, gpus in enumerate(box.slices()):
            size = len(gpus)
            if size not in listed:
                key = key_of(self._seed, box.id, size, _LISTING)
                chance, mean = _listing_habit(key)
                now = self._cell(key, mean, at)
                since, until = max(since, now.start), min(until, now.end)
                listed[size] = now.number if unit(now.draw) < chance else None
            number = listed[size]
            if number is None or size in found or blocked.intersection(gpus):
                continue
            rivals = self._rivals(box, gpus)
            cells = [self._cell(rival[0], self._stay(rival[0]), at) for rival in rivals]
            since, until = max(since, *(one.start for one in cells)), min(until, *(one.end for one in cells))
            if not any(self._holds(box, rival, at) for rival in rivals):
                found[size] = (column, number)
        return tuple(found.values()), since, until

    def _rivals(self, box: Box, gpus: tuple[int, ...]) -> tuple[_Rival, ...]:
        return _habits(self._seed, box.id, box.gpus, box.smallest, box.free / self.profile.tightness, gpus)

    def _holds(self, box: Box, rival: _Rival, at: float) -> bool:
        key, _, share = rival
        now = self._cell(key, self._stay(key), at)
        return unit(now.draw) < self._chance(box, share, now.start)

    def _stay(self, key: int) -> float:
        return _stay(key) / self.profile.haste

    def _chance(self, box: Box, share: float, at: float) -> float:
        """Return how probably a rival came to stay at that moment: by hour, weekday, shock, and how good the box is."""
        demand = _demand(at) * box.liking * (_SHOCK_FACTOR if self._shock(box.model.name, at) else 1.0)
        return 1.0 - math.pow(1 - share, demand)

    def _shock(self, model: str, at: float) -> bool:
        key = key_of(self._seed, _word(model), _SHOCK)
        begun = self._cell(key, 10 * _DAY, at)
        return at < begun.start + (2 + 10 * unit(begun.draw)) * _HOUR

    def _price(self, box: Box, at: float) -> _Standing:
        """Return what a GPU costs, since and until when: steps of 8 %, each drawing a quarter of the way back."""
        key = key_of(self._seed, box.host, _PRICE)
        now = self._cell(key, _REPRICE, at)
        lean = sum(0.75**back * 0.08 * normal(draw) for back, draw in enumerate(latest(key, _REPRICE, now.start, 8)))
        drift = _drift(key_of(self._seed, _word(box.model.name), _DRIFT), int(now.start // _DAY))
        return host_price(box.gpu_hour / 1e9 * math.exp(lean) * drift * self.profile.price), now.start, now.end

    def _bid(self, box: Box, gpus: tuple[int, ...], at: float) -> _Standing:
        """Return the rivals' bid for a GPU of the slice, since and until when it stands."""
        place = (box.id, len(gpus), gpus[0])
        known = self._bids.get(place)
        if known is None or not known[1] <= at < known[2]:
            come = self._cell(key_of(self._seed, *place, _BID), 9 * _HOUR / self.profile.haste, at)
            leaves = min(come.end, come.start + lognormal(come.draw, 3 * _HOUR, 1.0))
            if at < leaves:
                premium = math.exp(0.05 + 0.18 * exponential(come.draw, 1))
                known = round(self.gpu_hour(box, come.start) * box.bid_share * premium), come.start, leaves
            else:
                known = 0, leaves, come.end
            self._bids[place] = known
        return known


@lru_cache(maxsize=8192)
def _habits(seed: int, box: int, gpus: int, smallest: int, free: float, wanted: tuple[int, ...]) -> tuple[_Rival, ...]:
    """Return the rivals for the wanted GPUs: one for each smallest slice, and one for all of the box."""
    free = min(0.97, max(0.01, free))
    slots = tuple(tuple(range(at, at + smallest)) for at in range(0, gpus, smallest))
    if len(slots) == 1:
        return ((key_of(seed, box, 0, _RIVAL), slots[0], 1 - free),)
    # Where a box is let in parts, rivals for all of it are rarer than those for a part.
    parts = [(key_of(seed, box, at, _RIVAL), slot, 1 - free**0.7) for at, slot in enumerate(slots) if slot[0] in wanted]
    return (*parts, (key_of(seed, box, len(slots), _RIVAL), tuple(range(gpus)), 1 - free**0.3))


@lru_cache(maxsize=8192)
def _stay(key: int) -> float:
    """Return the mean stay of one kind of rival: a median of 5 hours, one in ten above three days."""
    return min(20 * _DAY, max(_HOUR / 2, lognormal(key, 5 * _HOUR, 2.08)))


def _demand(at: float) -> float:
    """Return the day's and the week's wave: most at 16:00 UTC, less on Saturday and Sunday."""
    hour, day = at % _DAY / _HOUR, int(at // _DAY)
    # Day 0 of Unix time was a Thursday.
    return (1 + 0.1 * math.cos((hour - 16) * math.pi / 12)) * (0.92 if day % 7 in (2, 3) else 1.0)


@lru_cache(maxsize=8192)
def _listing_habit(key: int) -> tuple[float, float]:
    """Return for what part of the time a host lists a size, and the mean wait until it thinks again, in seconds.

    Source: chosen so that one week's cheapest prices move as those of the real market did in the summer of 2026:
    unchanged from day to day 35 % of the time, lag-1 autocorrelation of the changes -0.41, log level's deviation 12 %.
    """
    if unit(key) < 0.10:
        return 0.96, 36 * _HOUR
    return min(0.9, max(0.02, lognormal(key, 0.4, 0.5, 1))), max(_HOUR, lognormal(key, 6 * _HOUR, 1.0, 2))


@lru_cache(maxsize=1024)
def _drift(key: int, day: int) -> float:
    """Return a model's price level: a walk of 1 % a day that leans back, never beyond 30 %."""
    walk = sum(0.01 * 0.98**back * normal(key, day - back) for back in range(_DRIFT_DAYS))
    return math.exp(max(-0.26, min(0.26, walk)))


@lru_cache(maxsize=256)
def _word(name: str) -> int:
    return key_of(*name.encode())
