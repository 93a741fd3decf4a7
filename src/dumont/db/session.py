"""Sessions: one transaction at a time, with the team that it may see, over one pool."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, ClassVar

import psycopg
from sqlalchemy import Engine, MetaData, create_engine, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from dumont.core import Act, Problem
from dumont.db.documents import dump_json
from dumont.db.glance import Glance, Glances, NoneFree, connect
from dumont.db.urls import psycopg_url, sqlalchemy_url
from dumont.db.wire import has_ended

KEEPALIVE: dict[str, int] = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
"""libpq's words for giving up on a silent server after 25 seconds; source: decision 10."""

_PLAN_ANEW = "-c plan_cache_mode=force_custom_plan"
"""The driver prepares what it runs often, and the one plan that PostgreSQL then keeps for all values is often bad."""

_SERVER_OPTIONS = "-c idle_in_transaction_session_timeout=15000 -c jit=off"
"""No transaction waits for the world: one that idles so long belongs to a process that hangs, its locks to others.

Compiling (jit) takes longer than any statement of ours runs; PostgreSQL would do it for what it thinks expensive."""

_WAIT_STATES = {
    *("57P01", "57P02", "57P03", "57P05"),
    *("53000", "53100", "53200", "53300"),
    *("55P03", "40001", "40P01", "57014", "25P03", "25P04"),
}
"""Shutdown, crash, starting up, idle session; out of resources, disk, memory, connections; lock wait, serialisation,
deadlock, and what took too long: a statement, an idle transaction, a transaction; PostgreSQL manual, A."""


class Base(DeclarativeBase):
    """Parent of every table; names of constraints follow one convention so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class DatabaseUnavailable(Problem):
    """The database cannot serve this now: down, starting, full, or in conflict with another transaction."""

    code: ClassVar[str] = "database-unavailable"
    status: ClassVar[int] = 503
    act: ClassVar[Act] = Act.WAIT
    title: ClassVar[str] = "The database cannot take this now; try again in a moment"


def translate(error: BaseException) -> DatabaseUnavailable | None:
    """Return the problem that a database error amounts to, None where waiting would not help.

    Takes errors of SQLAlchemy and of psycopg. A connection that cannot be made or was lost carries no SQLSTATE.
    """
    if isinstance(error, (PoolTimeout, NoneFree)):
        return DatabaseUnavailable(retry_after=1.0)
    cause = error.orig if isinstance(error, DBAPIError) else error
    if not isinstance(cause, psycopg.Error):
        return None
    state = cause.sqlstate
    lost = state is None and isinstance(cause, psycopg.OperationalError)
    if lost or (state is not None and (state.startswith("08") or state in _WAIT_STATES)):
        return DatabaseUnavailable(retry_after=1.0)
    return None


def is_wait(error: BaseException) -> bool:
    """Whether waiting helps against an error, raw or translated."""
    return isinstance(error, DatabaseUnavailable) or translate(error) is not None


@contextmanager
def translated() -> Iterator[None]:
    """Raise `DatabaseUnavailable` in place of the driver errors that it stands for; others pass unchanged."""
    try:
        yield
    except (DBAPIError, PoolTimeout, NoneFree, psycopg.Error) as error:
        problem = translate(error)
        if problem is None:
            raise
        raise problem from error


def _refuse_ended(connection: DBAPIConnection, record: object, proxy: object) -> None:
    """Have the pool replace a connection that its server has ended, without a round trip for each transaction.

    Errors: DisconnectionError, upon which the pool connects anew.
    """
    driver = getattr(connection, "driver_connection", connection)  # a blocking pool holds the driver's own
    if driver is None or has_ended(driver):
        raise DisconnectionError("the server has ended the connection")


class Database:
    """One database as one role: a pool of connections for sessions, and `glances` more for glances.

    The connection that came back last is given first, here and to code that blocks: one whose server process is warm
    is quicker, and those that are seldom needed stay small.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 5,
        glances: int = 4,
        statement_timeout_ms: int = 30_000,
        application_name: str = "dumont",
    ) -> None:
        self.url = sqlalchemy_url(url)
        options: dict[str, Any] = {
            **KEEPALIVE,
            "application_name": application_name,
            "options": f"-c statement_timeout={statement_timeout_ms} {_SERVER_OPTIONS}",
        }
        self.engine: AsyncEngine = create_async_engine(
            self.url,
            pool_size=pool_size,
            max_overflow=0,
            pool_use_lifo=True,
            pool_timeout=10,
            json_serializer=dump_json,
            connect_args={**options, "options": f"{options['options']} {_PLAN_ANEW}"},
        )
        event.listen(self.engine.sync_engine, "checkout", _refuse_ended)
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)
        self._glances = Glances(partial(connect, psycopg_url(url), **options), glances)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncSession]:
        """Give a session in one transaction: commit on a normal end, roll back on any error.

        Errors: DatabaseUnavailable where waiting helps; after one raised by the commit itself the outcome is unknown.
        """
        with translated():
            async with self._sessions.begin() as session:
                yield session

    @asynccontextmanager
    async def glance(self) -> AsyncIterator[Glance]:
        """Give a glance: one short transaction over the driver, for whoever asks a single question.

        Errors: DatabaseUnavailable where waiting helps.
        """
        with translated():
            async with self._glances.open() as glance:
                yield glance

    async def close(self) -> None:
        """Close every connection."""
        await self._glances.close()
        await self.engine.dispose()


def blocking_engine(url: str, *, pool_size: int, application_name: str) -> Engine:
    """Make a pool for code that blocks, such as the durable engine's threads; it replaces ended connections, too."""
    engine = create_engine(
        sqlalchemy_url(url),
        pool_size=pool_size,
        max_overflow=0,
        pool_use_lifo=True,
        pool_timeout=30,
        json_serializer=dump_json,
        connect_args={**KEEPALIVE, "application_name": application_name, "options": _SERVER_OPTIONS},
    )
    event.listen(engine, "checkout", _refuse_ended)
    return engine


async def set_team(session: AsyncSession, team_id: str) -> None:
    """Let the rest of this transaction see and write the rows of one team, and of no other."""
    await session.execute(text("SELECT set_config('dumont.team_id', :team_id, true)"), {"team_id": team_id})


async def set_sweep(session: AsyncSession) -> None:
    """Let the rest of this transaction see and write the rows of all teams; has effect for worker and owner only."""
    await session.execute(text("SELECT set_config('dumont.sweep', 'on', true)"))
