"""One connection at the level of libpq: several statements in one round trip, each prepared once.

The driver's own cursors do the same; what they do beyond it is five times the work of a small read.
"""

import asyncio
import select
from collections import namedtuple
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.abc import PGresult

Connection = psycopg.AsyncConnection[Any]
Statement = tuple[bytes, Sequence[Any]]
"""A text with `$1`, `$2` ... and its values."""

Row = tuple[bytes | None, ...]
"""A row as the server wrote it."""

_MOST_PREPARED = 200
_FAILED = (ExecStatus.FATAL_ERROR, ExecStatus.BAD_RESPONSE)


class Wire:
    """A connection in pipeline mode, read by the event loop that made it.

    Guarantees: after any error, and after a `send` that was interrupted, it is `broken`; also once its end was read.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pg = connection.pgconn
        self._socket = self._pg.socket
        self._look = _looking_at(self._socket)
        self._loop = asyncio.get_running_loop()
        self._adapt = Transformer(connection)
        self._prepared: dict[tuple[bytes, tuple[int, ...]], bytes] = {}
        self._rows: dict[bytes, Callable[[Sequence[Any]], Any]] = {}
        self._results: list[PGresult] = []
        self._done: asyncio.Future[None] | None = None
        self._answer_by: float | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self.broken = False
        self._pg.nonblocking = 1
        self._pg.enter_pipeline_mode()
        self._loop.add_reader(self._socket, self._read)

    async def send(self, *statements: Statement) -> Sequence[Any]:
        """Run statements in one round trip and return the rows of the one that gave some last, as named tuples.

        Errors: psycopg's; the first statement that fails ends them all.
        """
        self._expect_rest()
        await self._exchange(self._queue, statements)
        return self._last_rows(statements)

    async def call(self, text: bytes, values: Sequence[bytes | None], *, seconds: float) -> list[Row]:
        """Run one statement in a round trip of its own and return its rows as the server wrote them.

        The values are written as PostgreSQL reads them; the statement says their types. A small call costs less so.
        Errors: psycopg's; TimeoutError where the answer takes longer than `seconds`.
        """
        self._expect_rest()
        self._answer_by = self._loop.time() + seconds
        if self._alarm is None or self._alarm.when() > self._answer_by:
            self._set_alarm(seconds)
        try:
            await self._exchange(self._queue_written, ((text, values),))
        finally:
            self._answer_by = None
        found = self._results[-1]
        columns = range(found.nfields)
        return [tuple([found.get_value(row, column) for column in columns]) for row in range(found.ntuples)]

    def has_ended(self) -> bool:
        """Tell without a round trip whether an idle one cannot be used any more."""
        return self.broken or self._connection.closed or bool(self._look.poll(0))

    async def close(self) -> None:
        """Close the connection; a call that waits ends with an error."""
        self.broken = True
        if self._done is not None and not self._done.done():
            self._done.set_exception(psycopg.OperationalError("the connection to the database was closed"))
        if self._alarm is not None:
            self._alarm.cancel()
        if not self._connection.closed:
            self._loop.remove_reader(self._socket)
            await self._connection.close()

    def _look_at_the_time(self) -> None:
        """End a call that takes too long; one timer serves all calls until the connection rests."""
        self._alarm = None
        if self._answer_by is None:
            return
        left = self._answer_by - self._loop.time()
        if left > 0:
            self._set_alarm(left)
        else:
            self._end(TimeoutError("the database did not answer"))

    def _set_alarm(self, seconds: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_later(seconds, self._look_at_the_time)

    def _expect_rest(self) -> None:
        if self.broken or self._done is not None:
            raise psycopg.OperationalError("the connection to the database is lost")

    async def _exchange(
        self, queue: Callable[[bytes, Sequence[Any]], None], statements: Sequence[tuple[bytes, Sequence[Any]]]
    ) -> None:
        """Send statements and take all that they gave."""
        self._results.clear()
        self._done = self._loop.create_future()
        try:
            for text, values in statements:
                queue(text, values)
            self._pg.pipeline_sync()
            if self._pg.flush():
                await self._flush(self._done)
            await self._done
            for result in self._results:
                if result.status in _FAILED:
                    raise error_from_result(result, encoding="utf-8")
        except BaseException:
            self.broken = True
            raise
        finally:
            self._done = None

    def _queue(self, text: bytes, values: Sequence[Any]) -> None:
        dumped = self._adapt.dump_sequence(values, [PyFormat.AUTO] * len(values))
        name = self._name(text, tuple(self._adapt.types or ()))
        self._pg.send_query_prepared(name, dumped, self._adapt.formats)

    def _queue_written(self, text: bytes, values: Sequence[bytes | None]) -> None:
        if b"\0" in b"".join(filter(None, values)):
            raise psycopg.DataError("a text that PostgreSQL can hold has no NUL")
        self._pg.send_query_prepared(self._name(text, ()), values)

    def _name(self, text: bytes, kinds: tuple[int, ...]) -> bytes:
        """Return the name of a statement, which is prepared first where it is new."""
        name = self._prepared.get((text, kinds))
        if name is None:
            name = b"dumont_%d" % len(self._prepared)
            self._pg.send_prepare(name, text, kinds)
            self._prepared[text, kinds] = name
        return name

    async def _flush(self, done: "asyncio.Future[None]") -> None:
        """Wait until the socket has taken all, or the round trip has ended without."""
        while self._pg.flush() and not done.done():
            writable = self._loop.create_future()
            self._loop.add_writer(self._socket, _fulfil, writable)
            try:
                await asyncio.wait((writable, done), return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._loop.remove_writer(self._socket)

    def _read(self) -> None:
        """Take what the server sent, until the end of the round trip or of the connection."""
        try:
            self._pg.consume_input()
            if self._done is not None and not self._done.done() and self._collect():
                self._done.set_result(None)
            if self._pg.status == ConnStatus.BAD:
                raise psycopg.OperationalError("the server has ended the connection")
        except psycopg.Error as error:
            self._end(error)

    def _collect(self) -> bool:
        """Take the results that are whole; tell whether the round trip is over. Nothing twice is nothing more."""
        ended = False
        while not self._pg.is_busy():
            result = self._pg.get_result()
            if result is None and ended:
                return False
            ended = result is None
            if result is not None and result.status == ExecStatus.PIPELINE_SYNC:
                return True
            if result is not None:
                self._results.append(result)
        return False

    def _end(self, error: Exception) -> None:
        self.broken = True
        self._loop.remove_reader(self._socket)
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)

    def _last_rows(self, statements: Sequence[Statement]) -> Sequence[Any]:
        last = None
        for result in self._results:
            if result.status == ExecStatus.TUPLES_OK:
                last = result
        if len(self._prepared) > _MOST_PREPARED:
            self.broken = True
        if last is None:
            return ()
        self._adapt.set_pgresult(last)
        return self._adapt.load_rows(0, last.ntuples, self._row_of(last, statements))

    def _row_of(self, result: PGresult, statements: Sequence[Statement]) -> Callable[[Sequence[Any]], Any]:
        """Return what makes a named tuple of a row; the names are those of the round trip's texts, once for each."""
        key = b";".join(text for text, _ in statements)
        found = self._rows.get(key)
        if found is None:
            names = [(result.fname(column) or b"").decode() for column in range(result.nfields)]
            made: Any = namedtuple("Row", names, rename=True)  # type: ignore[misc]
            found = self._rows[key] = made._make
        return found


def has_ended(connection: Any) -> bool:
    """Tell without a round trip whether the server has ended an idle connection of psycopg.

    An idle connection has nothing to read but its end (or a notice, and then a new one does no harm).
    """
    if connection.closed:
        return True
    return bool(_looking_at(connection.fileno()).poll(0))


def _looking_at(socket: int) -> select.poll:
    look = select.poll()
    look.register(socket, select.POLLIN)
    return look


def _fulfil(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
