"""The OpenAPI document: made on the first request for it, because making it costs seconds of processor time."""

import asyncio
from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from dumont.core import Problem
from dumont.db import DatabaseUnavailable
from dumont.http import problems
from dumont.http.caller import _database
from dumont.http.errors import MEDIA_TYPE
from dumont.http.shapes import problem_schemas

Responses = dict[int | str, dict[str, Any]]

_CONTENT = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
_UNKNOWN_CALLER = (problems.MissingToken, problems.InvalidToken, problems.ExpiredToken, problems.RevokedToken)
_WRITES = frozenset({"post", "put", "patch", "delete"})
_TEAM_HEADER: dict[str, Any] = {
    "name": "X-Team-Id",
    "in": "header",
    "required": False,
    "description": "Another team of the caller; without it the team of his session.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 64},
}
_KEY_HEADER: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key and request again get the first answer, and nothing is done twice.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}
_ID_LIMITS = {"minLength": 1, "maxLength": 64, "pattern": "^[A-Za-z0-9_-]+$"}
"""What every id and every code fits in; anything else in its place is a 404."""

_PAGE = {name: {"type": "string"} for name in ("code", "title", "act", "meaning")} | {"status": {"type": "integer"}}
_READY_MADE: dict[str, dict[str, Any]] = {
    "problem_page": {
        "application/json": {"schema": {"type": "object", "required": [*_PAGE], "properties": _PAGE}},
        "text/html": {"schema": {"type": "string"}},
    },
    "openapi": {"application/json": {"schema": {"type": "object", "properties": {"openapi": {"type": "string"}}}}},
}
"""What the routes of this room answer that build their responses themselves."""


def raises(*kinds: type[Problem]) -> Responses:
    """Return the `responses` of a route that can answer with these problems.

    Example: `@router.get("/{id}", **permit("gpu.view"), responses=raises(InstanceNotFound))`. What the request kit
    answers by itself (401, 403, 413, 415, 422, 503 of the database) need not be named.
    """
    found: Responses = {}
    for kind in kinds:
        codes = found.setdefault(kind.status, {"x-codes": [], "content": _CONTENT})["x-codes"]
        codes.append(kind.code)
        found[kind.status]["description"] = _description(codes)
    return found


class LazyOpenapi:
    """Make the document once, in a thread, when somebody asks."""

    def __init__(self) -> None:
        self._document: dict[str, Any] | None = None
        self._lock = asyncio.Lock()

    async def document(self, app: FastAPI) -> dict[str, Any]:
        """Return the document of an application."""
        async with self._lock:
            if self._document is None:
                self._document = await asyncio.to_thread(describe, app)
        return self._document


def describe(app: FastAPI) -> dict[str, Any]:
    """Describe an application: FastAPI's document with problem+json in place of its own error shape."""
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas.update(problem_schemas())
    components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
    document["x-problems"] = {
        code: {"status": kind.status, "act": kind.act.value, "title": kind.title}
        for code, kind in sorted(Problem.registry.items())
    }
    for path, method, route in _routes(app):
        _complete(document["paths"][path][method], method, route)
    return document


def _routes(app: FastAPI) -> Iterable[tuple[str, str, APIRoute]]:
    for route in app.routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            for method in sorted(route.methods or ()):
                yield route.path_format, method.lower(), route


def _complete(operation: dict[str, Any], method: str, route: APIRoute) -> None:
    """Add what the request kit does for every route: its headers, its limits, its problems."""
    access = operation["x-access"]
    if route.name in _READY_MADE:
        operation["responses"]["200"]["content"] = _READY_MADE[route.name]
    parameters = operation.setdefault("parameters", [])
    for parameter in parameters:
        schema = parameter["schema"]
        if parameter["in"] == "path" and schema.get("type") == "string" and "pattern" not in schema:
            schema.update(_ID_LIMITS)
    named = {code for said in operation["responses"].values() for code in said.get("x-codes", ())}
    caller_keyed = method in _WRITES and not access["public"] and not access["stream"]
    keyed = caller_keyed or problems.IdempotencyKeyReused.code in named
    if not access["public"]:
        parameters.append(_TEAM_HEADER)
    if keyed:
        parameters.append({**_KEY_HEADER, "required": access.get("keyed", False)})
    if not parameters:
        del operation["parameters"]
    _show_problems(operation, _own_problems(operation, method, route, keyed))


def _own_problems(operation: dict[str, Any], method: str, route: APIRoute, keyed: bool) -> list[type[Problem]]:
    """Name the problems that the request kit itself can answer on a route."""
    access = operation["x-access"]
    named: list[type[Problem]] = [problems.InvalidRequest]
    if any(parameter["in"] == "path" for parameter in operation.get("parameters", ())):
        named.append(problems.RouteNotFound)
    if not access["public"]:
        named += [*_UNKNOWN_CALLER, problems.not_found("team")]
    if access.get("permission"):
        named.append(problems.Forbidden)
    if access.get("person"):
        named.append(problems.SessionRequired)
    if access.get("limited"):
        named.append(problems.RateLimited)
    if method in _WRITES:
        named += [problems.BadRequest, problems.BodyTooLarge]
    if "requestBody" in operation:
        named += [problems.MalformedJson, problems.UnsupportedMediaType]
    if access.get("keyed"):
        named.append(problems.IdempotencyKeyMissing)
    if keyed:
        named += [problems.IdempotencyInProgress, problems.IdempotencyKeyReused]
    if not access["public"] or any(part.call is _database for part in route.dependant.dependencies):
        named.append(DatabaseUnavailable)
    return named


def _show_problems(operation: dict[str, Any], own: list[type[Problem]]) -> None:
    responses = operation["responses"]
    if "x-codes" not in responses.get("422", {}):
        responses.pop("422", None)
    for status, more in raises(*own).items():
        known = responses.setdefault(str(status), {"x-codes": []})
        codes = [*known["x-codes"], *(code for code in more["x-codes"] if code not in known["x-codes"])]
        known.update({"description": _description(codes), "content": _CONTENT, "x-codes": codes})
    responses["default"] = {"description": "Another problem; its code says which.", "content": _CONTENT}


def _description(codes: Iterable[str]) -> str:
    return " · ".join(codes)
