"""Keep the minimum gaps between calls that Vast asks for, so that it does not have to refuse us.

Source: the `x-rate-limit` values of its API description. One `Gaps` serves one key within one process.
"""

import asyncio
import re
from dataclasses import dataclass

_PENALTY_SECONDS = 12.0
_SLACK_SECONDS = 0.1
"""Added to every gap, because two calls may travel at different speeds and arrive closer together than they left."""

_THRESHOLD = re.compile(r"threshold=([0-9.]+)")


@dataclass(slots=True)
class _Bucket:
    gap: float
    capacity: int
    next_free: float = 0.0


_GAPS: dict[str, tuple[float, int]] = {
    "create": (4.5, 1),
    "search": (6.0, 10),
    "list": (1.0, 1),
    "get": (2.0, 1),
    "change": (1.0, 1),
    "destroy": (3.0, 1),
    "keys": (1.0, 1),
    "charges": (1.0, 1),
    "account": (1.0, 1),
}
"""Endpoint class -> (seconds between calls, how many may come at once)."""


class Gaps:
    """A token bucket per endpoint class. Units: seconds of real time."""

    def __init__(self, *, enforced: bool) -> None:
        self._enforced = enforced
        self._buckets = {name: _Bucket(gap + _SLACK_SECONDS, capacity) for name, (gap, capacity) in _GAPS.items()}

    async def wait(self, kind: str) -> None:
        """Wait for the turn of one call; callers pass in the order in which they came."""
        if not self._enforced:
            return
        bucket, now = self._buckets[kind], asyncio.get_running_loop().time()
        turn = bucket.next_free - bucket.gap * (bucket.capacity - 1)
        bucket.next_free = max(bucket.next_free, now) + bucket.gap
        if turn > now:
            await asyncio.sleep(turn - now)

    def refused(self, kind: str, body: str, retry_after: float | None) -> float:
        """Learn from a refusal; return after how many seconds the next call may come."""
        bucket = self._buckets[kind]
        stated = _THRESHOLD.search(body)
        if stated and stated.group(1).count(".") <= 1 and stated.group(1) != ".":
            bucket.gap = min(60.0, max(bucket.gap, float(stated.group(1)) + _SLACK_SECONDS))
        pause = retry_after if retry_after is not None else _PENALTY_SECONDS
        until = asyncio.get_running_loop().time() + min(pause, 60.0) + bucket.gap * (bucket.capacity - 1)
        bucket.next_free = max(bucket.next_free, until)
        return pause
