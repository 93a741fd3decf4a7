"""The record of one workflow's steps, kept in the durable engine's own table by statements of ours.

The engine's own steps cost several transactions each on threads of their own; ours cost one round trip, or nothing
beyond the transaction that they are part of. See docs/decisions/0018-steps-recorded-by-us.md.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from typing import Any

import structlog
from psycopg.errors import UniqueViolation
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.db import Database, DatabaseUnavailable, Question, dump_json
from dumont.durable.engine import Refused
from dumont.durable.queries import recorded_of, recorded_write

log = structlog.get_logger()
_OUTPUTS = "operation_outputs"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 3.0
_RECORDED = Question(
    text(
        f"SELECT w.owner_xid, {recorded_of('w.workflow_uuid')} AS steps "
        "FROM dbos.workflow_status w WHERE w.workflow_uuid = :id"
    )
)
_KEEP = text(
    "WITH mine AS MATERIALIZED (SELECT application_name FROM dbos.workflow_status "
    "WHERE workflow_uuid = :id AND owner_xid = :owner FOR NO KEY UPDATE) "
    "INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, function_name, output, started_at_epoch_ms, "
    "completed_at_epoch_ms, serialization, application_name, retention_timestamp) "
    "SELECT :id, :number, :name, :output, :began, :ended, 'portable_json', mine.application_name, :ended FROM mine "
    "ON CONFLICT DO NOTHING RETURNING function_id"
)
"""Writes for the owner only, and holds ownership until the commit: what a later owner reads is all there will be."""
_KEEP_ALONE = Question(_KEEP)
_TEAM = Question(text("SELECT set_config('dumont.team_id', :team, true)"))
_NO_TEAM = Question(text("SELECT set_config('dumont.team_id', '', true)"))


@cache
def _written(parts: str) -> Question:
    return Question(recorded_write(parts))


class _NotKept(Exception):
    """The step is recorded already, or the workflow is somebody else's."""


class StepRecord:
    """The steps of one execution of one workflow; `owner` is the engine's token for it.

    Guarantees: a step is recorded once, by whoever owns the workflow at that moment; a transaction's rows and its
    record are committed together. While the database is away it waits. Errors: the engine's conflict, which ends this
    execution, where the workflow was given to another worker.
    """

    def __init__(self, database: Database, workflow_id: str, owner: str) -> None:
        self._database = database
        self._id = workflow_id
        self._owner = owner
        self._known: dict[int, tuple[str, str]] | None = None
        self._number = 0

    async def step(self, name: str, body: Callable[[], Awaitable[Any]]) -> Any:
        """Run a body that talks to the world, or return what is recorded of it."""
        number = self._next()
        known = await self._recorded(number, name)
        if known is not None:
            return json.loads(known)
        began = _now_ms()
        values = self._values(number, name, await body(), began)
        return await self._until_certain(number, name, lambda: self._keep(values))

    async def transaction(self, name: str, body: Callable[[AsyncSession], Awaitable[Any]]) -> Any:
        """Run a body in a transaction that commits with its record, or return what is recorded of it."""
        number = self._next()
        known = await self._recorded(number, name)
        if known is not None:
            return json.loads(known)
        return await self._until_certain(number, name, lambda: self._commit(number, name, body))

    async def write(
        self,
        name: str,
        parts: str,
        values: Mapping[str, Any],
        outcome: Any,
        refuse: Callable[[AsyncSession], Awaitable[Any]],
    ) -> Any:
        """Run a statement that holds its own record; where it wrote nothing, let `refuse` say why."""
        number = self._next()
        known = await self._recorded(number, name)
        if known is not None:
            return json.loads(known)
        began = _now_ms()

        async def write() -> Any:
            record = self._values(number, name, outcome, began)
            try:
                async with self._database.glance() as glance:
                    if await glance.enter_and_ask(_TEAM, _written(parts), values={**values, **record}):
                        return json.loads(record["output"])
            except UniqueViolation as error:
                if error.diag.table_name != _OUTPUTS:
                    raise
                raise _NotKept() from error
            return await self._commit(number, name, refuse)

        return await self._until_certain(number, name, write)

    async def sleep(self, seconds: float) -> None:
        """Sleep until a recorded moment."""

        async def wake_at() -> float:
            return time.time() + seconds

        await asyncio.sleep(max(0.0, await self.step("sleep", wake_at) - time.time()))

    def remember(self, recorded: Sequence[tuple[int, str, str]]) -> None:
        """Take what is recorded as this execution begins: number, name and output of each step."""
        self._known = {int(number): (name, output) for number, name, output in recorded}

    def own(self, owner: str | None) -> None:
        """Compare the owner that the database names with this execution."""
        if owner != self._owner:
            self._let_go()

    def _let_go(self) -> None:
        from dbos._error import DBOSWorkflowConflictIDError

        log.error("workflow belongs to another worker now; this one lets go of it", workflow_id=self._id)
        raise DBOSWorkflowConflictIDError(self._id)

    def _next(self) -> int:
        self._number += 1
        return self._number

    async def _recorded(self, number: int, name: str) -> str | None:
        """Return the recorded output of a step. What there is when this execution begins is all there can be."""
        pause = _FIRST_PAUSE
        while self._known is None:
            try:
                await self._read()
            except DatabaseUnavailable as error:
                pause = await _wait(pause, self._id, error)
        found = self._known.get(number)
        if found is not None and found[0] != name:
            from dbos._error import DBOSUnexpectedStepError

            raise DBOSUnexpectedStepError(self._id, number, name, found[0])
        return None if found is None else found[1]

    async def _read(self) -> None:
        async with self._database.glance() as glance:
            rows = await glance.enter_and_ask(_NO_TEAM, _RECORDED, values={"id": self._id})
        self.own(rows[0].owner_xid if rows else None)
        self.remember(rows[0].steps or ())

    async def _until_certain(self, number: int, name: str, keep: Callable[[], Awaitable[Any]]) -> Any:
        """Keep a step, again after every fault of the database; after a lost commit, see whether it is recorded."""
        pause = _FIRST_PAUSE
        while True:
            try:
                return await keep()
            except (DatabaseUnavailable, _NotKept) as error:
                self._known = None
                if isinstance(error, DatabaseUnavailable):
                    pause = await _wait(pause, self._id, error)
            known = await self._recorded(number, name)
            if known is not None:
                return json.loads(known)

    async def _keep(self, values: dict[str, Any]) -> Any:
        async with self._database.glance() as glance:
            if not await glance.enter_and_ask(_NO_TEAM, _KEEP_ALONE, values=values):
                raise _NotKept()
        return json.loads(values["output"])

    async def _commit(self, number: int, name: str, body: Callable[[AsyncSession], Awaitable[Any]]) -> Any:
        began = _now_ms()
        try:
            async with self._database.begin() as session:
                outcome = await body(session)
                await session.flush()
                values = self._values(number, name, outcome, began)
                if (await session.execute(_KEEP, values)).first() is None:
                    raise _NotKept()
        except Refused as refused:
            return await self._keep(self._values(number, name, refused.outcome, began))
        return json.loads(values["output"])

    def _values(self, number: int, name: str, outcome: Any, began: int) -> dict[str, Any]:
        return {
            "id": self._id,
            "owner": self._owner,
            "number": number,
            "name": name,
            "output": dump_json(outcome),
            "began": began,
            "ended": _now_ms(),
        }


def _now_ms() -> int:
    return int(time.time() * 1000)


async def _wait(pause: float, workflow_id: str, error: Exception) -> float:
    log.info("a step waits for the database", workflow_id=workflow_id, error=repr(error))
    await asyncio.sleep(pause)
    return min(pause * 2, _LONGEST_PAUSE)
