"""A worker's presence: a slot that it holds by an advisory lock for as long as its process and connection live.

The slot names the executor. Work that a dead executor left is taken over by `takeover`. A worker that loses the
connection takes the same slot again as soon as the database answers, or stops when another holds it.
"""

import asyncio
from collections.abc import Callable

import psycopg
import structlog

from dumont.db import psycopg_url

log = structlog.get_logger()
_CLASS = 0x44554D4F  # "DUMO": the lock space of worker slots
_SLOTS = 64
_LOOK_SECONDS = 0.5
_HELD = (
    "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = %s AND objid = %s "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
)
_WITH_WORK = "SELECT DISTINCT executor_id FROM dbos.workflow_status WHERE status = 'PENDING'"
_Connection = psycopg.AsyncConnection[tuple[object, ...]]


class Presence:
    """The held slot. `on_lost` is called once when the slot could not be taken again."""

    def __init__(self, url: str, on_lost: Callable[[], None]) -> None:
        self._url = psycopg_url(url)
        self._on_lost = on_lost
        self._slot = -1
        self._connection: _Connection | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def executor(self) -> str:
        """The executor's name: the held slot."""
        return f"worker-{self._slot}"

    async def is_free(self, executor: str) -> bool:
        """Tell whether nobody holds another executor's slot right now; an unknown name is never free.

        Errors: psycopg.Error while our own connection is broken: unknown.
        """
        prefix, _, number = executor.partition("-")
        if prefix != "worker" or not number.isdigit() or self._connection is None:
            return False
        row = await (await self._connection.execute(_HELD, (_CLASS, int(number)))).fetchone()
        return row is not None and not row[0]

    async def take(self) -> str:
        """Take the lowest free slot that left no work behind, and return the executor's name.

        A slot with unfinished work is left to the take-over, which looks twice before it believes a death.
        Errors: RuntimeError when all slots are held.
        """
        connection = await self._connect()
        busy = {str(row[0]) for row in await (await connection.execute(_WITH_WORK)).fetchall()}
        for slot in range(_SLOTS):
            if f"worker-{slot}" not in busy and await _lock(connection, slot):
                self._connection, self._slot = connection, slot
                self._watch = asyncio.create_task(self._keep())
                return self.executor
        await connection.close()
        raise RuntimeError(f"All {_SLOTS} worker slots are taken; stop a worker before starting another.")

    async def release(self) -> None:
        """Give the slot back."""
        if self._watch is not None:
            self._watch.cancel()
        if self._connection is not None:
            await self._connection.close()

    async def _connect(self) -> _Connection:
        return await psycopg.AsyncConnection.connect(
            self._url,
            autocommit=True,
            application_name="dumont-presence",
            connect_timeout=5,
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
        )

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                assert self._connection is not None
                await asyncio.wait_for(self._connection.execute("SELECT 1"), timeout=20)
            except (psycopg.Error, TimeoutError) as error:
                log.warning("worker lost its presence and takes its slot again", slot=self._slot, error=repr(error))
                if not await self._retake():
                    log.error("worker could not take its slot again and stops", slot=self._slot)
                    self._on_lost()
                    return

    async def _retake(self) -> bool:
        """Take the same slot again as soon as the database can be reached; False when somebody else holds it."""
        while True:
            try:
                connection = await self._connect()
                if await _lock(connection, self._slot):
                    self._connection = connection
                    return True
                await connection.close()
                return False
            except psycopg.Error as error:
                log.info("the database is not back yet", error=str(error))
            await asyncio.sleep(0.3)


async def _lock(connection: _Connection, slot: int) -> bool:
    row = await (await connection.execute("SELECT pg_try_advisory_lock(%s, %s)", (_CLASS, slot))).fetchone()
    return row is not None and bool(row[0])
