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
    limited: bool = True
    person: bool = False
    path_team: bool = False
    secret: bool = False
    keyed: bool = False


class AccessNotDeclared(TypeError):
    """A route was declared with neither `permit`, `signed_in` nor `public`."""


def permit(
    permission: str, *, stream: bool = False, person: bool = False, path_team: bool = False, keyed: bool = False
) -> dict[str, Any]:
    """Return the route arguments that admit callers whose role holds `permission`.

    `stream` marks a route that answers server-sent events when asked: its answers are never kept for a replay.
    `person` refuses API tokens; `path_team` works in the team of the path's `team_id`, whatever X-Team-Id says.
    `keyed` refuses requests without an Idempotency-Key: for what moves or reserves money.
    """
    return _arguments(Access(False, permission, stream, person=person, path_team=path_team, keyed=keyed))


def signed_in(
    *, stream: bool = False, person: bool = False, path_team: bool = False, secret: bool = False
) -> dict[str, Any]:
    """Return the route arguments that admit every signed-in user, for what concerns himself alone.

    `stream`, `person` and `path_team` as in `permit`; the answer of a `secret` route is kept sealed, for 24 hours.
    """
    return _arguments(Access(False, None, stream, person=person, path_team=path_team, secret=secret))


def public(*, limited: bool = True) -> dict[str, Any]:
    """Return the route arguments that admit everybody; the Authorization header is not read.

    `limited` False takes a route out of the rate limits, for what the operator's own probes ask.
    """
    return _arguments(Access(True, None, False, limited=limited))


def read_access(path: str, openapi_extra: dict[str, Any] | None) -> Access:
    """Read what `permit`, `signed_in` or `public` declared.

    Errors: AccessNotDeclared, so that a forgotten declaration stops the start and opens nothing.
    """
    declared = (openapi_extra or {}).get(_EXTENSION)
    if declared is None:
        raise AccessNotDeclared(f"{path}: say **permit(...), **signed_in() or **public() in the route's declaration")
    return Access(**declared)


def _arguments(access: Access) -> dict[str, Any]:
    security: list[dict[str, list[str]]] = [] if access.public else [{"bearer": []}]
    return {"openapi_extra": {_EXTENSION: vars(access), "security": security}}
