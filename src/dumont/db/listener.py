"""Wake those who wait for news: one connection that listens, many waiters in this process."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType

import psycopg

from dumont.db.session import KEEPALIVE
from dumont.db.urls import psycopg_url

_LOG = logging.getLogger(__name__)
_CHANNEL = "dumont_events"
_QUEUE_LIMIT = 256
_RECONNECT_SECONDS = 0.5


@dataclass(frozen=True)
class Notice:
    """A hint that there is news. `event_id` None means: something may have been missed, look again."""

    operation_id: str | None
    event_id: int | None


LOOK_AGAIN = Notice(None, None)


class Subscription:
    """One waiter's queue of notices, for one operation or for all; an async context manager and iterator."""

    def __init__(self, listener: "Listener", operation_id: str | None) -> None:
        self._listener = listener
        self._operation_id = operation_id
        self._queue: asyncio.Queue[Notice] = asyncio.Queue(_QUEUE_LIMIT)

    async def wait(self, timeout: float) -> Notice | None:
        """Return the next notice, or None after `timeout` seconds.

        Guarantees: a commit after the subscription began gives a notice or a "look again". Read the rows after each.
        """
        try:
            return await asyncio.wait_for(self._queue.get(), timeout)
        except TimeoutError:
            return None

    def put(self, notice: Notice) -> None:
        """Take a notice that concerns this waiter; a waiter that is too slow gets "look again" in place of many."""
        if notice is not LOOK_AGAIN and self._operation_id not in (None, notice.operation_id):
            return
        if self._queue.full():
            while not self._queue.empty():
                self._queue.get_nowait()
            notice = LOOK_AGAIN
        self._queue.put_nowait(notice)

    async def __aenter__(self) -> "Subscription":
        self._listener.add(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.discard(self)

    async def __aiter__(self) -> AsyncIterator[Notice]:
        while True:
            yield await self._queue.get()


class Listener:
    """One dedicated connection on which the database rings at every committed event.

    `poll_seconds` is how often every waiter is told to look again, connected or not.
    Guarantees: reconnects by itself, and tells every waiter to look again when it did.
    """

    def __init__(self, url: str, *, poll_seconds: float = 5.0) -> None:
        self._url = psycopg_url(url)
        self._poll_seconds = poll_seconds
        self._waiters: set[Subscription] = set()
        self._task: asyncio.Task[None] | None = None
        self._connected = asyncio.Event()

    def subscribe(self, operation_id: str | None = None) -> Subscription:
        """Return a waiter for one operation, or for everything; enter it with `async with` before reading the rows."""
        return Subscription(self, operation_id)

    async def start(self) -> None:
        """Begin to listen and return when the first connection stands, or after one poll without the database."""
        if self._task is None:
            self._task = asyncio.create_task(self._listen_for_ever(), name="outbox-listener")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._connected.wait(), self._poll_seconds)

    async def close(self) -> None:
        """Stop listening and close the connection."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def add(self, waiter: Subscription) -> None:
        """Begin to ring for a waiter."""
        self._waiters.add(waiter)

    def discard(self, waiter: Subscription) -> None:
        """Ring no more for a waiter."""
        self._waiters.discard(waiter)

    async def _listen_for_ever(self) -> None:
        while True:
            try:
                await self._listen()
            except (psycopg.Error, OSError) as error:
                _LOG.warning("The listening connection was lost (%s); connecting again.", error)
            self._connected.clear()
            self._ring(LOOK_AGAIN)
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _listen(self) -> None:
        connection = await psycopg.AsyncConnection.connect(
            self._url,
            autocommit=True,
            application_name="dumont-listener",
            **KEEPALIVE,  # type: ignore[arg-type]
        )
        async with connection:
            await connection.execute(f"LISTEN {_CHANNEL}")
            self._connected.set()
            self._ring(LOOK_AGAIN)
            while True:
                async for found in connection.notifies(timeout=self._poll_seconds):
                    self._ring(_parse(found.payload))
                self._ring(LOOK_AGAIN)

    def _ring(self, notice: Notice) -> None:
        for waiter in tuple(self._waiters):
            waiter.put(notice)


def _parse(payload: str) -> Notice:
    operation_id, _, event_id = payload.rpartition(":")
    return Notice(operation_id or None, int(event_id)) if event_id.isdigit() else LOOK_AGAIN
