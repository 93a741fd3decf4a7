"""Everybody else in the market: the weather's renters, those that a test sends, and what traces leave for us."""

import math
from dataclasses import dataclass
from typing import Any

from dumont.sandbox.catalogue import Box
from dumont.sandbox.traces import Binding
from dumont.sandbox.weather import Weather


@dataclass(frozen=True)
class Visitor:
    """A renter that was sent on purpose. Units: `bid` in nano-dollars per hour of one GPU, None for on demand."""

    number: int
    box_id: int
    gpus: tuple[int, ...]
    bid: int | None
    until_s: float

    def document(self) -> dict[str, Any]:
        """Return what `/_sandbox/rivals` shows."""
        return {
            "i": self.number,
            "machine_id": self.box_id,
            "gpus": list(self.gpus),
            "bid_nanousd_gpu_hour": self.bid,
            "until": None if math.isinf(self.until_s) else self.until_s,
        }


class Rivals:
    """What other renters hold and bid at a moment. Times in product seconds, bids in nano-dollars per GPU-hour."""

    def __init__(self, weather: Weather) -> None:
        self.weather = weather
        self.traces: list[Binding] = []
        self._visitors: list[Visitor] = []
        self._next = 0

    def send(self, box: Box, gpus: tuple[int, ...], bid: int | None, until_s: float) -> Visitor:
        """Let a renter come who wants these GPUs until then."""
        visitor = Visitor(self._next, box.id, gpus, bid, until_s)
        self._next += 1
        self._visitors.append(visitor)
        return visitor

    def dismiss(self, number: int | None = None) -> int:
        """Let one sent renter go, or all; return how many went."""
        before = len(self._visitors)
        self._visitors = [v for v in self._visitors if number is not None and v.number != number]
        return before - len(self._visitors)

    def visitors(self, at: float) -> list[Visitor]:
        """Return who was sent and has not left."""
        self._visitors = [visitor for visitor in self._visitors if visitor.until_s > at]
        return list(self._visitors)

    def occupied(self, box: Box, at: float) -> frozenset[int]:
        """Return the GPUs that sent renters hold on demand."""
        return frozenset(gpu for v in self._at(box, at) if v.bid is None for gpu in v.gpus)

    def held(self, box: Box, gpus: tuple[int, ...], at: float) -> bool:
        """Tell whether a rival holds some of these GPUs on demand."""
        return bool(self.occupied(box, at).intersection(gpus)) or self.weather.held(box, gpus, at)

    def ousts(self, box: Box, gpus: tuple[int, ...], at: float) -> bool:
        """Tell whether a rival on demand takes some of these GPUs from whoever bids for them."""
        return bool(self.occupied(box, at).intersection(gpus)) or self.weather.ousts(box, gpus, at)

    def bid(self, box: Box, gpus: tuple[int, ...], at: float) -> int:
        """Return the rivals' highest bid for these GPUs, 0 for none."""
        sent = [v.bid for v in self._at(box, at) if v.bid is not None and set(gpus).intersection(v.gpus)]
        return max([self.weather.rival_bid(box, gpus, at), *sent])

    def floor(self, box: Box, at: float) -> int:
        """Return the least that a bid for one GPU must be: the host's own floor, or a price trace's sample."""
        prices = [t.value(at) for t in self.traces if t.mode == "price" and t.covers(box)]
        return max(prices) if prices else round(self.weather.gpu_hour(box, at) * box.bid_share)

    def market_price(self, box: Box, at: float) -> int:
        """Return what a price trace asks of running bids, 0 where none covers the box."""
        return max([0, *(t.value(at) for t in self.traces if t.mode == "price" and t.covers(box))])

    def next_change(self, box: Box, gpus: tuple[int, ...], at: float) -> float:
        """Return the next moment at which anything of this may change for these GPUs by itself."""
        own = [v.until_s for v in self._at(box, at)]
        samples = [trace.next_change(at) for trace in self.traces if trace.covers(box)]
        return min([self.weather.next_change(box, gpus, at), *own, *samples])

    def is_plain(self, box: Box, at: float) -> bool:
        """Tell whether the weather alone says what happens to a box: no trace covers it, and nobody was sent there."""
        if not self.traces and not self._visitors:
            return True
        return not any(trace.covers(box) for trace in self.traces) and not self._at(box, at)

    def _at(self, box: Box, at: float) -> list[Visitor]:
        return [v for v in self._visitors if v.box_id == box.id and v.until_s > at]
