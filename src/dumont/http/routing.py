"""Routes that run in one transaction each, in the order of checks that the contract gives (api.md 1.3).

404/405 path, 429 rate, 401 caller, 400/413/415/422 shape, 403 permission, Idempotency-Key, then the route's own
verbs. The transaction commits before the answer leaves.
"""

import functools
import inspect
import types
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Union

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from dumont.http import idempotency, problems
from dumont.http.access import read_access
from dumont.http.body import Body, read_body
from dumont.http.caller import Caller, Door, Given, bearer_token, come_in
from dumont.http.rates import Limits, address_of, refusal, spend

_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})


@dataclass
class _Visit:
    """One request past the shape checks: what the guard around the route's function needs."""

    caller: Caller
    claim: "idempotency.Claim | None"
    keyed: bool = False

    async def admit(self) -> Response | None:
        """Check the permission, then the key; return the stored answer when this is a repetition."""
        self.caller.allow()
        if self.claim is None:
            if self.keyed:
                raise problems.IdempotencyKeyMissing("Send a header Idempotency-Key, the same one with each retry.")
            return None
        return await self.claim.take(self.caller.session)


class _Repeated(Exception):
    """The request was answered before, which was seen only after it came back in."""

    def __init__(self, stored: Response) -> None:
        self.stored = stored


_visit: ContextVar[_Visit | None] = ContextVar("dumont_http_visit", default=None)


class Route(APIRoute):
    """A route that says who may call it and runs inside the request's transaction."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        self.access = read_access(path, options.get("openapi_extra"))
        if not inspect.iscoroutinefunction(endpoint):
            raise TypeError(f"{path}: a route is an async function")
        if isinstance(options.get("response_model"), type(None)) or not _is_given(options["response_model"]):
            options["response_model"] = _shown_type(endpoint)
        given = _given(endpoint)
        if given and self.access.public:
            raise TypeError(f"{path}: a public route has no caller")
        self.glance = Given("glance") in given.values()
        super().__init__(path, _guarded(endpoint, given), **options)
        self._fixed = path.partition("{")[0]

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match as ever, after a look at the fixed beginning of the path."""
        if not scope.get("root_path") and not scope["path"].startswith(self._fixed):
            return Match.NONE, {}
        return super().matches(scope)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's own handler in reading, looking up, and committing."""
        run = super().get_route_handler()

        async def handle(request: Request) -> Response:
            if "\x00" in request.scope["path"]:
                raise problems.RouteNotFound()
            if self.access.public:
                if self.access.limited:
                    await _spend_open(request)
                body = await read_body(request, wanted=self.body_field is not None)
                body.check()
                return await run(request)
            return await self._attend(request, run)

        return handle

    async def _attend(self, request: Request, run: Callable[[Request], Awaitable[Response]]) -> Response:
        caller, body = await self._admit(request)
        try:
            response = await self._answer(request, caller, body, run)
        except BaseException as error:
            await caller.finish(error)
            raise
        await caller.finish(None)
        return response

    async def _admit(self, request: Request) -> tuple[Caller, Body]:
        """Let the caller in; a request whose token is missing or not good counts for its address."""
        state = request.app.state
        limits: Limits = state.limits
        try:
            token = bearer_token(request)
            _refuse_unlikely(request, token)
            await spend(request, limits.rules.token_requests, token, shown=True)
            body = await read_body(request, wanted=self.body_field is not None)
            team = request.path_params["team_id"] if self.access.path_team else request.headers.get("x-team-id")
            access = self.access
            door = Door(state.database, state.authenticator, token, team, access.permission, access.person, self.glance)
            writes = request.method in _WRITES
            return await come_in(door, request_id=request.state.request_id, writes=writes), body
        except problems.Unauthenticated:
            await _spend_open(request)
            raise

    async def _answer(
        self, request: Request, caller: Caller, body: Body, run: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        body.check()
        claim = None
        if caller.writes and not self.access.stream:
            key = request.app.state.idempotency_key
            claim = idempotency.read_claim(request, caller, body, key, secret=self.access.secret)
        mark = _visit.set(_Visit(caller, claim, self.access.keyed))
        try:
            response = await run(request)
        finally:
            _visit.reset(mark)
        if claim is not None:
            await claim.keep(caller.session, response)
        return response


class Router(APIRouter):
    """A router of such routes; `prefix` is the whole path from the root, such as `/api/v1/instances`."""

    def __init__(self, *, prefix: str = "", tags: list[str] | None = None) -> None:
        super().__init__(prefix=prefix, tags=list(tags or []), route_class=Route, redirect_slashes=False)


@asynccontextmanager
async def apart() -> AsyncIterator[None]:
    """Give the request's connection back for slow work, in a route that has written nothing yet, and come in again.

    Guarantees: afterwards token, team, permission and Idempotency-Key were checked again in a new transaction; what was
    read before may have changed. After an error inside there is no transaction any more.
    """
    visit = _visit.get()
    if visit is None:
        raise RuntimeError("a public route holds no transaction")
    await visit.caller.finish(None)
    yield
    await visit.caller.come_back()
    stored = await visit.admit()
    if stored is not None:
        raise _Repeated(stored)


def _refuse_unlikely(request: Request, token: str) -> None:
    """Refuse a token that is hardly good, without a look-up, while its address has sent too many bad ones."""
    limits: Limits = request.app.state.limits
    found = limits.seen_over(limits.rules.open_requests, address_of(request))
    if found is not None and not request.app.state.authenticator.may_be_good(token):
        raise refusal(request, found)


async def _spend_open(request: Request) -> None:
    limits: Limits = request.app.state.limits
    await spend(request, limits.rules.open_requests, address_of(request), shown=True)


def _given(endpoint: Callable[..., Any]) -> dict[str, Given]:
    """Find the arguments that the request kit gives."""
    hints = typing.get_type_hints(endpoint, include_extras=True)
    marks = {name: getattr(hinted, "__metadata__", ()) for name, hinted in hints.items() if name != "return"}
    return {name: mark for name, found in marks.items() for mark in found if isinstance(mark, Given)}


def _guarded(endpoint: Callable[..., Awaitable[Any]], given: dict[str, Given]) -> Callable[..., Awaitable[Any]]:
    """Put permission and Idempotency-Key between the checked shape and the route's function, and give it its caller."""

    @functools.wraps(endpoint)
    async def guarded(*args: Any, **arguments: Any) -> Any:
        visit = _visit.get()
        if visit is None:
            return await endpoint(*args, **arguments)
        stored = await visit.admit()
        if stored is not None:
            return stored
        caller = visit.caller
        try:
            return await endpoint(*args, **arguments, **{name: mark.of(caller) for name, mark in given.items()})
        except _Repeated as repeated:
            return repeated.stored

    own = inspect.signature(endpoint)
    guarded.__signature__ = own.replace(  # type: ignore[attr-defined]
        parameters=[parameter for name, parameter in own.parameters.items() if name not in given]
    )
    return guarded


def _is_given(response_model: Any) -> bool:
    from fastapi.datastructures import DefaultPlaceholder

    return not isinstance(response_model, DefaultPlaceholder)


def _shown_type(endpoint: Callable[..., Any]) -> Any:
    """Return the type of the documents that a route answers, without the ready-made responses of its annotation."""
    hinted = typing.get_type_hints(endpoint, include_extras=True).get("return")
    if typing.get_origin(hinted) not in (Union, types.UnionType):
        return None if _is_response(hinted) or hinted is type(None) else hinted
    kept = tuple(member for member in typing.get_args(hinted) if not _is_response(member))
    return Union[kept] if kept else None  # noqa: UP007 - a union of a computed number of members


def _is_response(hinted: Any) -> bool:
    return isinstance(hinted, type) and issubclass(hinted, Response)
