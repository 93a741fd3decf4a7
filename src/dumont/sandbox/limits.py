"""The marketplace's rate rule: a shortest interval per endpoint and key, and the forms in which it is told."""

from collections.abc import Callable
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response

_GAPS = {
    "search": 6.0,
    "create": 4.5,
    "launch": 5.0,
    "list": 1.0,
    "show": 2.0,
    "change": 1.0,
    "destroy": 3.0,
    "start_many": 2.0,
    "bid": 5.5,
    "reboot": 1.0,
    "recycle": 1.0,
    "command": 1.5,
    "key": 1.0,
    "keys": 1.0,
    "attach": 1.0,
    "detach": 2.0,
    "charges": 1.0,
    "invoices": 3.0,
    "balance": 3.0,
    "prepay": 2.0,
    "integrations": 2.9,
    "volumes": 5.5,
}
"""Seconds between two calls, as documented; ten searches a minute are read as one in six seconds."""
CREATE_PENALTY = 12.0


class Limits:
    """When each (endpoint, identity) may be asked again, in product time."""

    def __init__(self, enforced: bool, now_s: Callable[[], float]) -> None:
        self.enforced = enforced
        self._now_s = now_s
        self._next: dict[tuple[str, str], float] = {}

    def check(self, name: str, identity: str) -> float | None:
        """Return None when the call may pass, else the interval that it broke; a refused create waits longer."""
        gap = _GAPS.get(name)
        if not self.enforced or gap is None:
            return None
        now, key = self._now_s(), (name, identity)
        if now < self._next.get(key, 0.0):
            if name == "create":
                self._next[key] += CREATE_PENALTY
            return gap
        self._next[key] = now + gap
        return None


def gap_of(name: str) -> float:
    """Return the documented interval of an endpoint, 1 where none is stated."""
    return _GAPS.get(name, 1.0)


def too_frequent(threshold: float, form: str = "text", retry_after_s: float | None = None) -> Response:
    """Say 429 in one of the forms that have been seen; source: the rate-limit pages and OpenAPI files of 2026-08."""
    message = f"API requests too frequent endpoint threshold={threshold}"
    documents: dict[str, Any] = {
        "detail": {"detail": message},
        "json": {"success": False, "error": "rate_limit_exceeded", "msg": message},
    }
    if form in documents:
        return JSONResponse(documents[form], 429)
    text = "API requests too frequent" + ("" if form == "text_short" else f": endpoint threshold={threshold}")
    headers = {"Retry-After": f"{retry_after_s or threshold:g}"} if form == "retry_after" else None
    return PlainTextResponse(text, 429, headers)
