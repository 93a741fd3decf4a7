"""Problems: errors that tell their reader what to do.

A `Problem` crosses every room unchanged and becomes problem+json (RFC 9457) at the HTTP border. Each room declares
its own small subclasses in its `model.py`.
"""

from enum import Enum
from typing import Any, ClassVar

from dumont.core.texts import storable


class Act(str, Enum):
    """What the reader of a problem should do about it."""

    FIX = "fix"
    PAY = "pay"
    WAIT = "wait"
    REPORT = "report"


class Problem(Exception):
    """One thing that went wrong, with what to do about it.

    Subclasses set `code`, `status`, `act` and `title`; `detail` is human sentences, never echoed input, SQL or a stack.
    `extra` holds the documented additional members, JSON values only. `retry_after` is in seconds.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    act: ClassVar[Act] = Act.REPORT
    title: ClassVar[str] = "Something failed on our side"
    registry: ClassVar[dict[str, type["Problem"]]] = {}

    def __init__(self, detail: str | None = None, *, retry_after: float | None = None, **extra: Any) -> None:
        self.detail = storable(detail or self.title + ".")
        self.retry_after = retry_after
        self.extra = extra
        super().__init__(self.detail)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        known = Problem.registry.setdefault(cls.code, cls)
        if known is not cls and known.__qualname__ != cls.__qualname__:
            raise TypeError(f"two classes claim the problem code {cls.code!r}: {known!r} and {cls!r}")

    def document(self, instance: str | None = None) -> dict[str, Any]:
        """Return the problem+json document; `instance` is the request or operation id."""
        return {
            "type": f"/problems/{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "act": self.act.value,
            "instance": instance,
            **self.extra,
        }
