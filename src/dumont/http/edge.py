"""The outermost layer of the API, in pure ASGI: request ids, slashes, and the last net under every error."""

import re
import traceback

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dumont.core import Problem, new_id
from dumont.db import translate
from dumont.http.errors import internal, problem_response

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,128}")
_log = structlog.get_logger("dumont.http")


class Edge:
    """Give each request its id, take a trailing slash away, and turn what escaped every other net into a problem.

    Guarantees: every answer carries X-Request-Id; nothing of an unforeseen error reaches the caller; a stream that
    fails after its beginning is cut off, which its reader sees as an incomplete answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        if len(scope["path"]) > 1 and scope["path"].endswith("/"):
            scope["path"] = scope["path"].rstrip("/") or "/"
        started = False

        async def stamped(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                limit = scope["state"].get("rate_limit")
                more = [(b"x-request-id", request_id.encode()), *(limit.headers() if limit is not None else ())]
                message["headers"] = [*message.get("headers", []), *more]
            await send(message)

        try:
            await self._app(scope, receive, stamped)
        except Exception as error:
            problem = foreseen(error) or (foreseen(error.__cause__) if isinstance(error.__cause__, Exception) else None)
            if problem is None:
                _log_failure(error, request_id, scope["method"])
            if not started:
                await problem_response(problem or internal(request_id), request_id)(scope, receive, stamped)
            elif problem is not None:
                _log.info("stream-ended", request_id=request_id, code=problem.code)
            else:
                raise


def foreseen(error: Exception) -> Problem | None:
    """Return the problem that an error is known to mean, such as a database that does not answer, or None."""
    return error if isinstance(error, Problem) else translate(error)


def _log_failure(error: Exception, request_id: str, method: str) -> None:
    """Log the plain traceback: the values of variables, which may be secrets, stay out however logging is set up."""
    trace = "".join(traceback.format_exception(error))
    _log.error("request-failed", request_id=request_id, method=method, trace=trace)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text = value.decode("latin-1")
            return text if _REQUEST_ID.fullmatch(text) else new_id("req")
    return new_id("req")
