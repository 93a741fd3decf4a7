"""The one clock of the product: business time with an epoch and a speed.

The sandbox reads the same two settings, so that prices, bills and idle timers agree at any speed.
Timers of durable work stay on real time.
"""

import time
from dataclasses import dataclass
from datetime import datetime, timezone


@dataclass(frozen=True)
class Clock:
    """Product time = epoch + speed x (real time - epoch).

    Units: `epoch` in seconds of Unix time, `speed` in product seconds per real second.
    """

    epoch: float = 0.0
    speed: float = 1.0

    def seconds(self) -> float:
        """Return product time as Unix seconds."""
        return self.at_real(time.time())

    def now(self) -> datetime:
        """Return product time as an aware UTC datetime."""
        return datetime.fromtimestamp(self.seconds(), tz=timezone.utc)

    def at_real(self, real_seconds: float) -> float:
        """Return the product time at a given real Unix time."""
        if self.speed == 1.0:
            return real_seconds
        return self.epoch + self.speed * (real_seconds - self.epoch)

    def real_delay(self, product_seconds: float) -> float:
        """Return how many real seconds pass while `product_seconds` of product time pass."""
        return product_seconds / self.speed
