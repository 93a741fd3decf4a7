"""A glance: a short transaction for a request that comes in and asks one question, on a wire of its own.

The smallest transaction of an ORM session costs several times as much as a whole glance; see
docs/decisions/0015-glances.md.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any

import psycopg
from psycopg.types.json import Jsonb
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ClauseElement

from dumont.db.wire import Statement, Wire

_KEPT_FORMS = 100
_DIALECT = PGDialect_psycopg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
_BEGIN: Statement = (b"BEGIN", ())
_COMMIT: Statement = (b"COMMIT", ())
_ROLLBACK: Statement = (b"ROLLBACK", ())
_PLAN_ANEW: Statement = (b"SET LOCAL plan_cache_mode = force_custom_plan", ())
"""For what was put together from a caller's wishes: one plan for all values would be a bad plan for most."""


class NoneFree(Exception):
    """No connection for a glance became free in time."""


class Glance:
    """One transaction of two round trips: `enter` begins it, `ask` commits it.

    Guarantees: nothing is seen of a team that `enter` did not set; what was written is committed only by `ask`.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.open = False

    async def enter(self, question: "Question", values: Mapping[str, Any]) -> Sequence[Any]:
        """Begin the transaction with a question and return its one row."""
        self.open = True
        rows = await self._wire.send(_BEGIN, question.written(values))
        row: Sequence[Any] = rows[0]
        return row

    async def enter_and_ask(self, *questions: "Question", values: Mapping[str, Any]) -> Sequence[Any]:
        """Begin, ask all and commit in one round trip, where nobody has to be known first; all take from `values`.

        Returns the rows of the last question that has any. Each question sees what was committed when it began.
        """
        self.open = True
        rows = await self._wire.send(_BEGIN, *(question.written(values) for question in questions), _COMMIT)
        self.open = False
        return rows

    async def ask(self, question: "Question | ClauseElement", values: Mapping[str, Any]) -> Sequence[Any]:
        """Ask the one question, end the transaction, and return the rows as named tuples.

        `values` are those of the named parameters. A statement must not hold `IN` over parameters: its text would
        differ from question to question; use `= ANY`.
        """
        if not self.open:
            raise RuntimeError("a glance answers one question, once somebody has come in: use a session")
        if isinstance(question, Question):
            rows = await self._wire.send(question.written(values), _COMMIT)
        else:
            rows = await self._wire.send(_PLAN_ANEW, _written(question, values), _COMMIT)
        self.open = False
        return rows

    async def leave(self) -> None:
        """Undo what was not committed."""
        if self.open:
            self.open = False
            await self._wire.send(_ROLLBACK)


class Glances:
    """At most `size` connections for glances, opened when first needed; the last one used is the next one taken."""

    def __init__(self, connect: Callable[[], Awaitable[Wire]], size: int, wait_seconds: float = 10.0) -> None:
        self._connect = connect
        self._wait_seconds = wait_seconds
        self._free = asyncio.Semaphore(size)
        self._idle: list[Wire] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Glance]:
        """Give a glance; whatever it did not commit is rolled back at the end.

        Errors: NoneFree where no connection becomes free in time, psycopg's where none can be made.
        """
        wire = await self._take()
        glance = Glance(wire)
        try:
            yield glance
        finally:
            try:
                if not wire.broken:
                    await glance.leave()
            finally:
                await self._give_back(wire)

    async def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            await self._idle.pop().close()

    async def _take(self) -> Wire:
        try:
            async with asyncio.timeout(self._wait_seconds if self._free.locked() else None):
                await self._free.acquire()
        except TimeoutError as error:
            raise NoneFree() from error
        try:
            while self._idle:
                wire = self._idle.pop()
                if not wire.has_ended():
                    return wire
                await wire.close()
            return await self._connect()
        except BaseException:
            self._free.release()
            raise

    async def _give_back(self, wire: Wire) -> None:
        try:
            if wire.broken:
                await wire.close()
            else:
                self._idle.append(wire)
        finally:
            self._free.release()


async def connect(url: str, **options: Any) -> Wire:
    """Open a connection for glances.

    Errors: psycopg's.
    """
    return Wire(await psycopg.AsyncConnection.connect(url, autocommit=True, **options))


class Question:
    """A statement that never changes but for the values of its named parameters, written once."""

    def __init__(self, statement: ClauseElement) -> None:
        self._statement = statement

    def written(self, values: Mapping[str, Any]) -> Statement:
        """Return the text and its values in their order."""
        text, names, own = self._form
        return text, [values[name] if name in values else own[name] for name in names]

    @cached_property
    def _form(self) -> tuple[bytes, Sequence[str], Mapping[str, Any]]:
        """Text, names of the parameters in their order, and the values that the statement itself brought."""
        compiled = _compile(self._statement)
        return compiled.string.encode(), compiled.positiontup or [], compiled.params


_forms: OrderedDict[Any, tuple[SQLCompiler, bytes]] = OrderedDict()


def _written(statement: ClauseElement, values: Mapping[str, Any]) -> Statement:
    """Write a statement that was put together just now; the text is made once for each form.

    Source: SQLAlchemy 2.1, "SQL Compilation Caching"; the calls are those of its own execution.
    """
    key = statement._generate_cache_key()
    if key is None:
        raise TypeError("this statement cannot be kept: ask it of a session")
    known = _forms.get(key.key)
    if known is None:
        compiled = _compile(statement, cache_key=key)
        known = _forms[key.key] = compiled, compiled.string.encode()
        if len(_forms) > _KEPT_FORMS:
            _forms.popitem(last=False)
    compiled, text = known
    found = compiled.construct_params(values, extracted_parameters=key.bindparams)
    return text, [_adapted(found[name]) for name in compiled.positiontup or []]


def _adapted(value: Any) -> Any:
    return Jsonb(value) if isinstance(value, dict) else value


def _compile(statement: ClauseElement, **options: Any) -> SQLCompiler:
    compiled = statement.compile(dialect=_DIALECT, **options)
    assert isinstance(compiled, SQLCompiler)
    if compiled.post_compile_params or compiled.literal_execute_params:
        raise TypeError("a glance takes no IN over parameters: use = ANY")
    return compiled
