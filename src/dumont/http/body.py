"""Reading the body of a request: limits, media type, JSON, and text that the database can store."""

import json
import re
from dataclasses import dataclass
from email.message import Message
from typing import Any

from starlette.requests import ClientDisconnect, Request

from dumont.core import Problem
from dumont.http import problems

BODY_LIMIT_BYTES = 1024 * 1024
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True)
class Body:
    """A body as it was read; `problem` is what is wrong with its form, told only once the caller is known."""

    raw: bytes = b""
    value: Any = None
    problem: Problem | None = None

    def check(self) -> None:
        """Raise what is wrong with the form of the body, if anything is."""
        if self.problem is not None:
            raise self.problem


async def read_body(request: Request, *, wanted: bool) -> Body:
    """Read the whole body before any transaction begins, so that a slow sender holds no connection.

    Guarantees: never more than the limit is kept; the JSON is parsed once and left where FastAPI looks for it.
    """
    try:
        _check_query(request)
        raw = await _read_limited(request)
        request._body = raw
        value = _parse(request, raw) if wanted and raw else None
    except Problem as problem:
        request._body = b""
        return Body(problem=problem)
    if wanted and raw:
        request._json = value
    return Body(raw, value)


async def _read_limited(request: Request) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > BODY_LIMIT_BYTES:
        raise problems.BodyTooLarge()
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > BODY_LIMIT_BYTES:
                raise problems.BodyTooLarge()
            parts.append(part)
    except ClientDisconnect as error:
        raise problems.BadRequest("The connection closed before the whole body had arrived.") from error
    return b"".join(parts)


def _parse(request: Request, raw: bytes) -> Any:
    declared = Message()
    declared["content-type"] = request.headers.get("content-type", "")
    subtype = declared.get_content_subtype()
    json_like = declared.get_content_maintype() == "application" and (subtype == "json" or subtype.endswith("+json"))
    charset = str(declared.get_param("charset", "utf-8")).lower()
    if "content-type" not in request.headers or not json_like or charset not in ("utf-8", "utf8", "us-ascii"):
        raise problems.UnsupportedMediaType("Send the body as UTF-8 JSON with Content-Type: application/json.")
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
        _check_text(value)
    except (ValueError, RecursionError) as error:
        raise problems.MalformedJson("The body is not JSON in UTF-8. Mend it and send it again.") from error
    return value


def _check_query(request: Request) -> None:
    for name, value in request.query_params.multi_items():
        if _UNSTORABLE.search(name + value):
            detail = "Text must not hold the character NUL."
            raise problems.InvalidRequest([problems.field_error("/query", detail, "invalid-text")])


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _check_text(value: Any, pointer: str = "") -> None:
    if isinstance(value, str):
        if _UNSTORABLE.search(value):
            detail = "Text must not hold the character NUL or half a surrogate pair."
            raise problems.InvalidRequest([problems.field_error(pointer, detail, "invalid-text")])
    elif isinstance(value, dict):
        for name, item in value.items():
            _check_text(name, pointer)
            _check_text(item, f"{pointer}/{escape_pointer(name)}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_text(item, f"{pointer}/{index}")


def escape_pointer(name: object) -> str:
    """Write one step of a JSON pointer (RFC 6901), at most 64 characters of it."""
    return str(name)[:64].replace("~", "~0").replace("/", "~1")
