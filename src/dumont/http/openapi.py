"""The OpenAPI document: made on the first request for it, because making it costs seconds of processor time."""

import asyncio
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from dumont.core import Problem
from dumont.http.errors import MEDIA_TYPE

_PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "act"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "Sentences for a person; never what the caller sent."},
        "code": {"type": "string"},
        "act": {"type": "string", "enum": ["fix", "pay", "wait", "report"]},
        "instance": {"type": ["string", "null"], "description": "The id of the request."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "detail", "code"],
                "properties": {name: {"type": "string"} for name in ("pointer", "detail", "code")},
            },
        },
    },
}


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
    schemas["Problem"] = _PROBLEM_SCHEMA
    components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
    document["x-problems"] = {
        code: {"status": kind.status, "act": kind.act.value, "title": kind.title}
        for code, kind in sorted(Problem.registry.items())
    }
    for operations in document.get("paths", {}).values():
        for operation in operations.values():
            _show_problems(operation)
    return document


def _show_problems(operation: dict[str, Any]) -> None:
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    responses = operation["responses"]
    public = not operation.get("security")
    if "422" in responses or "requestBody" in operation:
        responses["422"] = {"description": "Some fields are not acceptable", "content": content}
    if not public:
        responses["401"] = {"description": "No valid access token", "content": content}
    if operation.get("x-access", {}).get("permission"):
        responses["403"] = {"description": "The role lacks the permission", "content": content}
    responses["default"] = {"description": "Another problem; its code says which", "content": content}
