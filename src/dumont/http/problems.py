"""The catalogue of problems that belong to the manners of the API itself, drawn as a tree.

Rooms above declare their own beside their tables, as subclasses of these.
"""

from collections.abc import Sequence
from typing import Any

from dumont.core import Act, Problem


class MalformedJson(Problem):
    """The body is not JSON in UTF-8, or nests too deeply to be read."""

    code = "malformed-json"
    status = 400
    act = Act.FIX
    title = "The body is not valid JSON"


class BadRequest(Problem):
    """The request cannot be read as HTTP that this API speaks."""

    code = "bad-request"
    status = 400
    act = Act.FIX
    title = "The request cannot be read"


class IdempotencyKeyMissing(Problem):
    """What moves money takes an Idempotency-Key, so that a retry never moves it twice: send one, and keep it."""

    code = "idempotency-key-missing"
    status = 400
    act = Act.FIX
    title = "This request needs an Idempotency-Key"


class Unauthenticated(Problem):
    """Nobody is known to be calling: parent of every 401, answered with `WWW-Authenticate: Bearer`."""

    code = "unauthenticated"
    status = 401
    act = Act.FIX
    title = "Sign in first"


class MissingToken(Unauthenticated):
    """The request carries no bearer token."""

    code = "missing-token"
    title = "No access token was sent"


class InvalidToken(Unauthenticated):
    """The token was not issued by this installation, or was altered."""

    code = "invalid-token"
    title = "The access token is not valid"


class ExpiredToken(Unauthenticated):
    """The token was good and its time is over: sign in again."""

    code = "expired-token"
    title = "The access token has expired"


class RevokedToken(Unauthenticated):
    """The session behind the token was ended, or its user or membership was."""

    code = "revoked-token"
    title = "The session of this access token was ended"


class Forbidden(Problem):
    """The caller is known and his role does not hold the permission that the route asks for."""

    code = "forbidden"
    status = 403
    act = Act.FIX
    title = "Your role does not allow this"

    def __init__(self, permission: str) -> None:
        super().__init__(
            f"This needs the permission {permission}. Ask an admin of your team for a role that has it.",
            permission=permission,
        )


class NotFound(Problem):
    """Nothing with that id is visible to the caller's team: parent of every `<noun>-not-found`."""

    code = "not-found"
    status = 404
    act = Act.FIX
    title = "Not found"


class RouteNotFound(NotFound):
    """No resource of this API has that path."""

    code = "route-not-found"
    title = "There is nothing at this path"


class MethodNotAllowed(Problem):
    """The path exists and does not answer this method; `Allow` lists those that it does."""

    code = "method-not-allowed"
    status = 405
    act = Act.FIX
    title = "This path does not answer that method"


class Conflict(Problem):
    """The request is right and the resource is not in a condition to take it: parent of the 409 family."""

    code = "conflict"
    status = 409
    act = Act.FIX
    title = "The resource is not in a condition for this"


class WrongState(Conflict):
    """The verb does not apply in the state in which the resource is."""

    code = "wrong-state"
    title = "Not possible in this state"

    def __init__(self, state: str, allowed: Sequence[str], detail: str | None = None) -> None:
        text = detail or f"The state is {state}; this works only in: {', '.join(allowed) or 'no state'}."
        super().__init__(text, state=state, allowed=list(allowed))


class IdempotencyInProgress(Conflict):
    """The first request with this Idempotency-Key is still being worked on."""

    code = "idempotency-in-progress"
    act = Act.WAIT
    title = "The first request with this Idempotency-Key is still running"


class BodyTooLarge(Problem):
    """The body is over the limit of 1 MiB."""

    code = "body-too-large"
    status = 413
    act = Act.FIX
    title = "The body is larger than 1 MiB"


class UnsupportedMediaType(Problem):
    """The body is not declared as JSON."""

    code = "unsupported-media-type"
    status = 415
    act = Act.FIX
    title = "The body must be sent as application/json"


class InvalidRequest(Problem):
    """One or more fields are missing or out of their limits; `errors` names each of them, never its value."""

    code = "invalid-request"
    status = 422
    act = Act.FIX
    title = "Some fields are not acceptable"

    def __init__(self, errors: Sequence[dict[str, str]], detail: str | None = None) -> None:
        text = detail or " ".join(f"{error['pointer'] or 'The body'}: {error['detail']}" for error in errors[:5])
        super().__init__(text, errors=list(errors))


class IdempotencyKeyReused(Problem):
    """The Idempotency-Key was used before with another body: use a fresh key for a new request."""

    code = "idempotency-key-reused"
    status = 422
    act = Act.FIX
    title = "This Idempotency-Key belongs to another request"


class RateLimited(Problem):
    """Too many requests in a short time."""

    code = "rate-limited"
    status = 429
    act = Act.WAIT
    title = "Too many requests"


class LoginRateLimited(RateLimited):
    """Too many wrong passwords for this account or from this address: wait until they are forgotten."""

    code = "login-rate-limited"
    title = "Too many failed attempts to sign in"


class SessionRequired(Problem):
    """The verb concerns the person himself or his sessions, and an API token was sent."""

    code = "session-required"
    status = 403
    act = Act.FIX
    title = "An API token cannot do this; sign in"


class Internal(Problem):
    """Something failed on our side; the request id leads the operator to the log line."""

    code = "internal"
    status = 500
    act = Act.REPORT
    title = "Something failed on our side"


def not_found(noun: str) -> type[NotFound]:
    """Return the problem class `<noun>-not-found`, the same class for the same noun.

    Example: `InstanceNotFound = problems.not_found("instance")`.
    """
    code = f"{noun}-not-found"
    known = Problem.registry.get(code)
    if known is not None and issubclass(known, NotFound):
        return known
    words = noun.replace("-", " ")
    name = "".join(part.capitalize() for part in noun.split("-")) + "NotFound"
    members: dict[str, Any] = {
        "__doc__": f"No {words} with that id is visible to the caller's team.",
        "__module__": __name__,
        "code": code,
        "title": f"No such {words}",
    }
    return type(name, (NotFound,), members)


def field_error(pointer: str, detail: str, code: str) -> dict[str, str]:
    """Return one member of `errors` of an invalid-request; `detail` must not hold what the caller sent."""
    return {"pointer": pointer, "detail": detail, "code": code}
