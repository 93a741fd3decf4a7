"""What can go wrong between a caller and the API, as three small classes."""

from collections.abc import Mapping
from typing import Any

from dumont.core import Act

_STANDARD = {"type", "title", "status", "detail", "code", "act", "instance", "error"}
_WAIT = {408, 425, 429, 502, 503, 504}


class ApiError(Exception):
    """Any failure of a call; the text is one or two sentences for a person."""


class ApiUnreachable(ApiError):
    """The server gave no answer. `perhaps_done` tells whether the request may have been carried out."""

    def __init__(self, detail: str, url: str, *, perhaps_done: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.url = url
        self.perhaps_done = perhaps_done


class ApiUnreadable(ApiError):
    """The server answered something that version 1 of the API does not promise."""


class ApiProblem(ApiError):
    """The server refused, and says what to do about it.

    `extra` holds the additional members of the document. `retry_after` is in seconds.
    """

    def __init__(
        self,
        code: str,
        act: Act,
        status: int,
        detail: str,
        extra: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.act = act
        self.status = status
        self.detail = detail
        self.extra = dict(extra or {})
        self.retry_after = retry_after

    def document(self) -> dict[str, Any]:
        """Return the problem as a JSON document with the member names of the API."""
        return {"code": self.code, "act": self.act.value, "status": self.status, "detail": self.detail, **self.extra}


def problem_of(document: Any, status: int, retry_after: float | None = None) -> ApiProblem:
    """Read a problem document; what is missing follows from the status (RFC 9110, section 15)."""
    found: dict[str, Any] = document if isinstance(document, dict) else {}
    try:
        act = Act(found.get("act"))
    except ValueError:
        act = _act_of(status)
    detail = found.get("detail")
    if not isinstance(detail, str) or not detail:
        detail = f"The server answered {status} without saying why."
    code = found.get("code")
    extra = {name: value for name, value in found.items() if name not in _STANDARD}
    if found.get("instance"):
        extra["instance"] = found["instance"]
    return ApiProblem(code if isinstance(code, str) else f"http-{status}", act, status, detail, extra, retry_after)


def _act_of(status: int) -> Act:
    if status == 402:
        return Act.PAY
    if status in _WAIT:
        return Act.WAIT
    return Act.FIX if 400 <= status < 500 else Act.REPORT
