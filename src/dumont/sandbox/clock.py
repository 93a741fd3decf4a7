"""The sandbox's clock: the product's own, which can be turned forward, sped up and paused while it runs."""

import asyncio
import contextlib
import json
import math
import time

from dumont.core import Clock

_LONGEST_NAP = 3600.0


class DrivenClock(Clock):
    """A clock that somebody may turn; whoever sleeps by it notices.

    Units: product seconds and real Unix seconds; the rate is product seconds per real second, 0 while it is paused.
    """

    def __init__(self, origin: Clock, kept: str | None = None) -> None:
        """Begin as `origin`, or as `state()` was when it was last turned."""
        super().__init__(origin.epoch, origin.speed)
        self._real, self._product, self._rate = origin.epoch, origin.epoch, origin.speed
        self._speed = origin.speed
        if kept is not None:
            self._real, self._product, self._rate, self._speed = json.loads(kept)
        self._turned = asyncio.Event()

    def at_real(self, real_seconds: float) -> float:
        """Return the product time at a given real Unix time."""
        return self._product + self._rate * (real_seconds - self._real)

    def real_delay(self, product_seconds: float) -> float:
        """Return how many real seconds pass meanwhile, infinity while the clock is paused."""
        return product_seconds / self._rate if self._rate else math.inf

    def turn(self, *, advance_s: float = 0.0, speed: float | None = None, pause: bool | None = None) -> None:
        """Turn the clock forward, change its speed, pause it, or let it go on with `pause` False."""
        now = time.time()
        self._real, self._product = now, self.at_real(now) + advance_s
        self._speed = self._speed if speed is None else speed
        paused = self._rate == 0 if pause is None else pause
        self._rate = 0.0 if paused else self._speed
        self._turned.set()
        self._turned = asyncio.Event()

    def state(self) -> str:
        """Return what the clock must be begun with to go on as it is."""
        return json.dumps([self._real, self._product, self._rate, self._speed])

    def face(self) -> dict[str, object]:
        """Return what `/_sandbox/clock` shows."""
        return {"now": self.seconds(), "speed": self._speed, "paused": self._rate == 0}

    async def sleep_until(self, product_seconds: float) -> None:
        """Sleep until that moment of product time, however fast it comes."""
        while (left := product_seconds - self.seconds()) > 0:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._turned.wait(), min(_LONGEST_NAP, self.real_delay(left)))
