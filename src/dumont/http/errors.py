"""Every error becomes problem+json (RFC 9457) here, and nowhere else."""

import math
from collections.abc import Iterable
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from dumont.core import Problem
from dumont.http import problems
from dumont.http.body import escape_pointer

MEDIA_TYPE = "application/problem+json"
_PLACES = {"query", "header", "path", "cookie"}
_SENTENCES = {
    "missing": "This field is required.",
    "string_too_short": "At least {min_length} characters.",
    "string_too_long": "At most {max_length} characters.",
    "string_type": "Must be text.",
    "int_type": "Must be a whole number.",
    "int_parsing": "Must be a whole number.",
    "float_parsing": "Must be a number.",
    "bool_parsing": "Must be true or false.",
    "greater_than_equal": "Must be at least {ge}.",
    "greater_than": "Must be more than {gt}.",
    "less_than_equal": "Must be at most {le}.",
    "less_than": "Must be less than {lt}.",
    "extra_forbidden": "This field is not known here.",
    "model_attributes_type": "Must be a JSON object.",
    "dict_type": "Must be a JSON object.",
    "list_type": "Must be a JSON array.",
    "literal_error": "Must be one of: {expected}.",
    "enum": "Must be one of: {expected}.",
    "too_short": "At least {min_length} items.",
    "too_long": "At most {max_length} items.",
    "string_pattern_mismatch": "Does not have the required form.",
}
_CODES = {"string_too_short": "too-short", "string_too_long": "too-long", "string_pattern_mismatch": "wrong-form"}


def problem_response(problem: Problem, request_id: str | None) -> Response:
    """Show a problem as the answer to a request."""
    headers: dict[str, str] = {}
    if problem.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(problem.retry_after)))
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(problem.document(request_id), problem.status, headers, media_type=MEDIA_TYPE)


async def show_problem(request: Request, error: Exception) -> Response:
    """Answer with a Problem that a route raised."""
    if not isinstance(error, Problem):
        raise error
    return problem_response(error, request.state.request_id)


async def show_validation(request: Request, error: Exception) -> Response:
    """Answer with what FastAPI found wrong with the shape; a path id of the wrong form is a 404."""
    if not isinstance(error, RequestValidationError):
        raise error
    found = error.errors()
    if any(item["loc"][:1] == ("path",) for item in found):
        return problem_response(problems.RouteNotFound(), request.state.request_id)
    return problem_response(problems.InvalidRequest([_member(item) for item in found]), request.state.request_id)


async def show_http_exception(request: Request, error: Exception) -> Response:
    """Answer with what the router itself refused: an unknown path or method."""
    if not isinstance(error, HTTPException):
        raise error
    request_id = request.state.request_id
    if error.status_code == 405:
        response = problem_response(problems.MethodNotAllowed(), request_id)
        response.headers["Allow"] = ", ".join(sorted(_allowed(request))) or (error.headers or {}).get("Allow", "")
        return response
    kinds: dict[int, type[Problem]] = {404: problems.RouteNotFound, 413: problems.BodyTooLarge}
    kind = kinds.get(error.status_code, problems.BadRequest if error.status_code < 500 else problems.Internal)
    return problem_response(kind(), request_id)


def internal(request_id: str) -> Problem:
    """Return the one answer to an error that nobody foresaw: only the request id."""
    return problems.Internal(f"The request failed on our side. Report it to the operator with the id {request_id}.")


def _allowed(request: Request) -> set[str]:
    """Collect the methods of all routes at the path of the request."""
    scope = {**request.scope, "path_params": {}}
    matching: Iterable[Any] = (r for r in request.app.router.routes if r.matches(scope)[0] != Match.NONE)
    return {method for route in matching for method in (getattr(route, "methods", None) or ())}


def _member(item: Any) -> dict[str, str]:
    """Turn one finding of pydantic into a member of `errors`, without the value that was sent."""
    kind = str(item["type"])
    place, *steps = item["loc"] or ("body",)
    named = [place, *steps] if place in _PLACES else steps
    pointer = "".join(f"/{escape_pointer(step)}" for step in named)
    code = _CODES.get(kind, kind.replace("_", "-"))
    if kind == "missing" and not steps:
        return problems.field_error("", "A JSON body is required.", code)
    sentence = _SENTENCES.get(kind)
    if sentence is not None:
        return problems.field_error(pointer, sentence.format_map(_Limits(item.get("ctx") or {})), code)
    if kind in ("value_error", "assertion_error"):
        return problems.field_error(pointer, str((item.get("ctx") or {}).get("error", "")) or "Not acceptable.", code)
    return problems.field_error(pointer, "Does not have the required form or type.", code)


class _Limits(dict[str, Any]):
    """The limits that pydantic names; one that it does not name is shown as such."""

    def __missing__(self, key: str) -> str:
        return "the limit"
