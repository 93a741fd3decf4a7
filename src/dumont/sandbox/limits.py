"""The marketplace's rate rule: a shortest interval per endpoint and key, enforced only on request."""

import time

_GAPS = {
    "search": 6.0,
    "create": 4.5,
    "list": 1.0,
    "show": 2.0,
    "change": 1.0,
    "destroy": 3.0,
    "bid": 5.5,
    "reboot": 1.0,
    "key": 1.0,
    "keys": 1.0,
    "attach": 1.0,
    "detach": 2.0,
    "charges": 1.0,
}
"""Seconds between two calls, as documented; ten searches a minute are read as one in six seconds."""
_CREATE_PENALTY = 12.0


class Limits:
    """When each (endpoint, key) may be asked again, in real time."""

    def __init__(self, enforced: bool) -> None:
        self._enforced = enforced
        self._next: dict[tuple[str, str], float] = {}

    def check(self, name: str, identity: str) -> float | None:
        """Return None when the call may pass, else the interval that it broke; a refused create waits longer."""
        gap = _GAPS.get(name)
        if not self._enforced or gap is None:
            return None
        now, key = time.monotonic(), (name, identity)
        if now < self._next.get(key, 0.0):
            if name == "create":
                self._next[key] += _CREATE_PENALTY
            return gap
        self._next[key] = now + gap
        return None
