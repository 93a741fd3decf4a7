"""The caller of a request: who he is, what he may do, and the one transaction that his request runs in."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Protocol

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.db import Database, Glance
from dumont.http import problems


@dataclass(frozen=True, kw_only=True)
class CallerFacts:
    """What the look-up of a token found: rows of this moment, never claims of the token.

    Shapes: exactly one of `session_id` and `api_token_id` is set; `token_expires_at` None is a token without an end.
    """

    user_id: str
    email: str
    username: str | None
    session_id: str | None
    api_token_id: str | None = None
    team_id: str
    team_name: str
    role: str
    permissions: frozenset[str]
    token_expires_at: datetime | None


class Authenticator(Protocol):
    """What identity gives to the request kit."""

    @property
    def permissions(self) -> frozenset[str]:
        """Every permission that exists: a route that asks for another one stops the start."""
        ...

    def may_be_good(self, bearer_token: str) -> bool:
        """Tell without the database whether a token is worth a look-up.

        Asked only while too many bad ones come from an address: False for a good token costs its owner a wait.
        """
        ...

    async def enter(self, session: AsyncSession | Glance, bearer_token: str, team_id: str | None) -> CallerFacts:
        """Look the token up and set the team for row-level security, in one round trip.

        Errors: a 401 of `problems` for a token that does not count, a 404 for a team that is not the user's.
        """
        ...


@dataclass(frozen=True)
class Door:
    """Where a caller came in, kept so that he can come in again: `open` starts a transaction and checks everything."""

    database: Database
    authenticator: Authenticator
    token: str
    team_id: str | None
    permission: str | None
    person: bool = False
    glance: bool = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[AsyncSession | Glance, CallerFacts]]:
        """Run one transaction in which the caller is looked up first; commit at the end, roll back on an error."""
        async with self.database.glance() if self.glance else self.database.begin() as session:
            yield session, await self.authenticator.enter(session, self.token, self.team_id)


@dataclass(frozen=True, kw_only=True)
class Caller(CallerFacts):
    """The caller of this request, with the session of the request's transaction.

    Guarantees: the transaction commits before the answer leaves, and is rolled back when the route raises.
    """

    request_id: str
    door: Door = field(repr=False)
    writes: bool
    _held: list[tuple[AbstractAsyncContextManager[object], AsyncSession | Glance]] = field(
        default_factory=list, repr=False
    )

    @property
    def session(self) -> AsyncSession:
        """The session of the request's transaction; row-level security already knows the team."""
        held = self._transaction()
        if isinstance(held, Glance):
            raise RuntimeError("this route takes a glance, which is its one transaction")
        return held

    @property
    def glance(self) -> Glance:
        """The one question that a route may ask which takes a `GlanceDep`."""
        held = self._transaction()
        if not isinstance(held, Glance):
            raise RuntimeError("this route takes no glance: use the session")
        return held

    def _transaction(self) -> AsyncSession | Glance:
        if not self._held:
            raise RuntimeError("the request's transaction has ended: use reenter()")
        return self._held[0][1]

    def allow(self) -> None:
        """Raise unless the caller may do what the route does.

        Errors: SessionRequired for an API token where a person is asked for, Forbidden without the permission.
        """
        _allow(self.door, self)

    async def release(self) -> None:
        """Commit and give the connection back, before waiting or talking to the world. Idempotent.

        Errors: RuntimeError in a POST, PUT, PATCH or DELETE, whose effect and Idempotency-Key commit as one.
        """
        if self.writes:
            raise RuntimeError("a request that writes keeps its one transaction: let a workflow do what takes longer")
        await self.finish(None)

    async def finish(self, error: BaseException | None) -> None:
        """End the transaction: commit without an error, roll back with one. The request kit calls it."""
        while self._held:
            scope, _ = self._held.pop()
            await scope.__aexit__(type(error) if error else None, error, error.__traceback__ if error else None)

    async def come_back(self) -> None:
        """Start a new transaction in place of the one that was finished; everything is looked up and checked again.

        Errors: the 401 problems, SessionRequired and Forbidden, when the caller lost his right in the meantime.
        """
        scope = self.door.open()
        session, facts = await scope.__aenter__()
        self._held.append((scope, session))
        _allow(self.door, facts)

    @asynccontextmanager
    async def reenter(self) -> AsyncIterator[AsyncSession]:
        """Run one more transaction after `release()`, with token, session, team and permission checked again.

        Errors: the 401 problems and Forbidden, when the caller lost his right in the meantime.
        """
        async with self.door.open() as (session, facts):
            _allow(self.door, facts)
            assert isinstance(session, AsyncSession), "a route that takes a glance does not come in again"
            yield session


def _allow(door: Door, facts: CallerFacts) -> None:
    if door.person and facts.session_id is None:
        raise problems.SessionRequired("This concerns a person and his sessions. Sign in and use the access token.")
    if door.permission is not None and door.permission not in facts.permissions:
        raise problems.Forbidden(door.permission)


async def come_in(door: Door, *, request_id: str, writes: bool) -> Caller:
    """Start the request's transaction and look the caller up in it; the caller must be `finish`ed."""
    scope = door.open()
    session, facts = await scope.__aenter__()
    return Caller(**vars(facts), request_id=request_id, door=door, writes=writes, _held=[(scope, session)])


def bearer_token(request: Request) -> str:
    """Read the bearer token of a request.

    Errors: MissingToken, or InvalidToken for another scheme or an odd form.
    """
    header = request.headers.get("authorization")
    if header is None:
        raise problems.MissingToken("Send your access token in the header Authorization: Bearer <token>.")
    scheme, _, token = header.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or not token.isascii() or len(token.split()) != 1:
        raise problems.InvalidToken("The Authorization header must be: Bearer <token>.")
    return token


@dataclass(frozen=True)
class Given:
    """Marks an argument that the request kit gives to a route: an attribute of the caller, or `self` for himself.

    FastAPI never sees it: its own way to an argument costs more than what it fetches.
    """

    name: str

    def of(self, caller: Caller) -> Any:
        """Return what the argument gets."""
        return caller if self.name == "self" else getattr(caller, self.name)


CallerDep = Annotated[Caller, Given("self")]
"""The caller, as an argument of a route."""

GlanceDep = Annotated[Glance, Given("glance")]
"""The route's one question: a route that takes this has a glance in place of the caller's session."""


async def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


DatabaseDep = Annotated[Database, Depends(_database)]
"""The database, as an argument of a public route: such a route opens its own short transactions."""
