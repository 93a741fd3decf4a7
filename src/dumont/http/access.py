"""Who may call a route: every route says it, or does not exist."""

from dataclasses import dataclass
from typing import Any

_EXTENSION = "x-access"


@dataclass(frozen=True)
class Access:
    """What a route asks of its caller; `permission` None with `public` False is "any signed-in user"."""

    public: bool
    permission: str | None
    stream: bool


class AccessNotDeclared(TypeError):
    """A route was declared with neither `permit`, `signed_in` nor `public`."""


def permit(permission: str, *, stream: bool = False) -> dict[str, Any]:
    """Return the route arguments that admit callers whose role holds `permission`.

    `stream` marks a route that answers server-sent events when asked: its answers are never kept for a replay.
    """
    return _arguments(public=False, permission=permission, stream=stream)


def signed_in(*, stream: bool = False) -> dict[str, Any]:
    """Return the route arguments that admit every signed-in user, for what concerns himself alone."""
    return _arguments(public=False, permission=None, stream=stream)


def public() -> dict[str, Any]:
    """Return the route arguments that admit everybody; the Authorization header is not read."""
    return _arguments(public=True, permission=None, stream=False)


def read_access(path: str, openapi_extra: dict[str, Any] | None) -> Access:
    """Read what `permit`, `signed_in` or `public` declared.

    Errors: AccessNotDeclared, so that a forgotten declaration stops the start and opens nothing.
    """
    declared = (openapi_extra or {}).get(_EXTENSION)
    if declared is None:
        raise AccessNotDeclared(f"{path}: say **permit(...), **signed_in() or **public() in the route's declaration")
    return Access(public=declared["public"], permission=declared["permission"], stream=declared["stream"])


def _arguments(*, public: bool, permission: str | None, stream: bool) -> dict[str, Any]:
    security: list[dict[str, list[str]]] = [] if public else [{"bearer": []}]
    access = {"public": public, "permission": permission, "stream": stream}
    return {"openapi_extra": {_EXTENSION: access, "security": security}}
