"""HTTP by the standard library alone: one connection per call, bounded retries, the same key on each retry.

`http.client` is chosen because importing a larger client would cost more than the CLI's whole CPU budget.
"""

import http.client
import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlencode, urlsplit

from dumont.client.problems import ApiUnreachable, ApiUnreadable, problem_of

_BROKEN = (OSError, http.client.HTTPException)
_NEVER_SENT = (ConnectionRefusedError, socket.gaierror)
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0


@dataclass(frozen=True)
class Request:
    """One question to the API, complete enough to be asked again word for word."""

    method: str
    path: str
    query: Mapping[str, Any] | None = None
    body: Mapping[str, Any] | None = None
    key: str | None = None

    @property
    def repeatable(self) -> bool:
        """Whether asking twice has the effect of asking once."""
        return self.method == "GET" or self.key is not None


class Wire:
    """The way to one server. Units: `timeout` and `patience` in seconds."""

    def __init__(self, url: str, *, timeout: float = 30.0, patience: float = 15.0) -> None:
        parts = _address(url)
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self.timeout = timeout
        self.patience = patience
        self._secure = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port
        self._base = parts.path.rstrip("/")

    def ask(self, request: Request, headers: Mapping[str, str], *, extra_time: float = 0.0) -> Any:
        """Ask, and return the JSON document of the answer (None for an empty one).

        Guarantees: retries only what is repeatable, for at most `patience` seconds after the first break.
        Errors: ApiProblem, ApiUnreachable, ApiUnreadable.
        """
        give_up = None
        pause = _FIRST_PAUSE
        while True:
            try:
                status, found, document = self._once(request, headers, self.timeout + extra_time)
            except _BROKEN as error:
                give_up = give_up or self._deadline(request, error)
                if time.monotonic() + pause > give_up:
                    raise self._unreachable(error, perhaps_done=request.method != "GET") from error
            else:
                if status < 400:
                    return document
                problem = problem_of(document, status, _seconds(found.get("Retry-After")))
                if problem.code != "idempotency-in-progress":
                    raise problem
                give_up = give_up or time.monotonic() + self.patience
                pause = problem.retry_after or pause
                if time.monotonic() + pause > give_up:
                    raise problem
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def stream(self, path: str, headers: Mapping[str, str], timeout: float) -> http.client.HTTPResponse:
        """Open a long answer and return it unread; closing it closes the connection.

        Errors: ApiProblem for a refusal, ApiUnreachable when there is no answer.
        """
        connection = self._connection(timeout)
        try:
            connection.request("GET", self._base + path, headers={**headers, "Connection": "close"})
            response = connection.getresponse()
            if response.status >= 400:
                raise problem_of(_json_or_none(response.read()), response.status)
        except _BROKEN as error:
            connection.close()
            raise self._unreachable(error) from error
        return response

    def _once(self, request: Request, headers: Mapping[str, str], timeout: float) -> tuple[int, Any, Any]:
        sent = {**headers, "Accept": "application/json", "Connection": "close"}
        body = None
        if request.body is not None:
            body = json.dumps(request.body).encode()
            sent["Content-Type"] = "application/json"
        if request.key is not None:
            sent["Idempotency-Key"] = request.key
        connection = self._connection(timeout)
        try:
            connection.request(request.method, self._base + request.path + _query(request.query), body, sent)
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        if response.status >= 400:
            return response.status, response.headers, _json_or_none(text)
        return response.status, response.headers, self._document(text, response.status)

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        make: Callable[..., http.client.HTTPConnection] = http.client.HTTPConnection
        if self._secure:
            make = http.client.HTTPSConnection
        return make(self._host, self._port, timeout=timeout)

    def _document(self, text: bytes, status: int) -> Any:
        if 300 <= status < 400:
            raise ApiUnreadable(f"{self.url} answered with a redirect ({status}); is that the address of the API?")
        try:
            return json.loads(text) if text.strip() else None
        except ValueError as error:
            raise ApiUnreadable(f"{self.url} did not answer in JSON; is that the address of the API?") from error

    def _deadline(self, request: Request, error: Exception) -> float:
        if isinstance(error, _NEVER_SENT) or not request.repeatable or _is_certificate(error):
            return 0.0
        return time.monotonic() + self.patience

    def _unreachable(self, error: Exception, *, perhaps_done: bool = False) -> ApiUnreachable:
        if isinstance(error, _NEVER_SENT):
            return ApiUnreachable(f"Nothing answers at {self.url}.", self.url)
        if _is_certificate(error):
            return ApiUnreachable(f"The certificate of {self.url} is not trusted ({error}).", self.url)
        reason = "no answer in time" if isinstance(error, TimeoutError) else "the connection broke"
        doubt = " What was asked may have been done." if perhaps_done else ""
        return ApiUnreachable(f"{self.url} did not answer: {reason}.{doubt}", self.url, perhaps_done=perhaps_done)


def _address(url: str) -> SplitResult:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"{url!r} is not the address of a server; it looks like http://127.0.0.1:8766.")
    return parts


def _is_certificate(error: Exception) -> bool:
    return type(error).__name__ == "SSLCertVerificationError"


def _query(query: Mapping[str, Any] | None) -> str:
    shown = {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in (query or {}).items()
        if value is not None
    }
    return f"?{urlencode(shown)}" if shown else ""


def _json_or_none(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isdecimal() else None
