"""What is read and written of operations, one named function each."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from psycopg.types.json import Jsonb
from sqlalchemy import ColumnElement, ScalarSelect, TextClause, any_, func, literal_column, select, text, update
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.db import Database, Question
from dumont.durable.model import Operation, OperationStatus

_TEAM = Question(text("SELECT set_config('dumont.team_id', :team, true)"))
_TOLD = (
    "WITH told AS (INSERT INTO outbox_event (team_id, topic, resource_type, resource_id, operation_id, data) "
    "SELECT :team, entry->>'topic', 'instance', :instance, :id, entry->'data' "
    "FROM jsonb_array_elements(:news) AS entry) "
)
"""The first part of a statement that also publishes news: topic and data of each."""


def recorded_of(workflow_id: str) -> str:
    """Return the part of a statement that reads what a workflow has recorded: number, name and output of each step."""
    return (
        "(SELECT jsonb_agg(jsonb_build_array(s.function_id, s.function_name, s.output)) "
        f"FROM dbos.operation_outputs s WHERE s.workflow_uuid = {workflow_id} AND s.output IS NOT NULL)"
    )


_NOTE = Question(
    text(
        _TOLD + "UPDATE operation SET steps = :steps, current_step = :current, percent = :percent WHERE id = :id "
        "RETURNING cancel_requested, deadline_at < clock_timestamp() AS late, "
        "(SELECT owner_xid FROM dbos.workflow_status WHERE workflow_uuid = operation.id) AS owner"
    )
)
_SWEEP = Question(text("SELECT set_config('dumont.sweep', 'on', true)"))
_BEGIN = Question(
    text(
        "UPDATE operation SET started_at = coalesce(started_at, clock_timestamp()), "
        "status = CASE status WHEN 'queued' THEN 'running' ELSE status END WHERE id = :id "
        "RETURNING id, team_id, instance_id, input, steps, percent, "
        "(SELECT owner_xid FROM dbos.workflow_status WHERE workflow_uuid = operation.id) AS owner, "
        f"{recorded_of('operation.id')} AS recorded"
    )
)
_OWN = (
    *("id", "team_id", "kind", "workflow", "resource_type", "resource_id", "instance_id", "status", "percent"),
    *("steps", "input", "cancellable", "cancel_requested", "requested_by", "created_at", "deadline_at"),
)
_ADD = text(
    f"WITH made AS (INSERT INTO operation ({', '.join(_OWN)}) VALUES ({', '.join(f':{name}' for name in _OWN)}) "
    "ON CONFLICT DO NOTHING RETURNING id) "
    "INSERT INTO outbox_event (team_id, topic, resource_type, resource_id, operation_id, data) "
    "SELECT :team_id, 'operation.queued', :resource_type, :resource_id, id, :news FROM made RETURNING id"
)
_ADD_MOVING = (
    "WITH {held}, "
    f"made AS (INSERT INTO operation ({', '.join(_OWN)}) "
    f"SELECT {', '.join(':input || held.input' if name == 'input' else f':{name}' for name in _OWN)} FROM held "
    "ON CONFLICT DO NOTHING RETURNING id), "
    "moved AS ({moved} RETURNING held.was) "
    "INSERT INTO outbox_event (team_id, topic, resource_type, resource_id, operation_id, data) "
    "SELECT :team_id, :topic, :resource_type, :resource_id, NULL, :told || jsonb_build_object('from', was) FROM moved "
    "UNION ALL SELECT :team_id, 'operation.queued', :resource_type, :resource_id, id, :news FROM made RETURNING id"
)
_END = text(
    _TOLD + "UPDATE operation SET status = :status, percent = coalesce(:percent, percent), current_step = NULL, "
    "steps = :steps, finished_at = clock_timestamp(), result = :result, problem = :problem WHERE id = :id"
)
_CLOSED = (
    "{moved}, "
    "told AS (INSERT INTO outbox_event (team_id, topic, resource_type, resource_id, operation_id, data) "
    "SELECT :team, entry->>'topic', 'instance', :instance, CASE WHEN entry ? 'moved' THEN NULL ELSE :id END, "
    "CASE WHEN entry ? 'moved' THEN entry->'data' || jsonb_build_object('from', moved.was) ELSE entry->'data' END "
    "FROM moved, jsonb_array_elements(:news) WITH ORDINALITY AS each (entry, place) ORDER BY place), "
    "done AS (UPDATE operation SET status = :status, percent = :percent, current_step = NULL, steps = :steps, "
    "finished_at = clock_timestamp(), result = :result, problem = :problem FROM moved WHERE operation.id = :id "
    "RETURNING operation.id)"
)
_MINE = (
    "mine AS MATERIALIZED (SELECT application_name FROM dbos.workflow_status "
    "WHERE workflow_uuid = :id AND owner_xid = :owner FOR NO KEY UPDATE)"
)
_KEPT = (
    "INSERT INTO dbos.operation_outputs (workflow_uuid, function_id, function_name, output, started_at_epoch_ms, "
    "completed_at_epoch_ms, serialization, application_name, retention_timestamp) "
    "SELECT :id, :number, :name, :output, :began, :ended, 'portable_json', mine.application_name, :ended "
    "FROM mine, done RETURNING function_id"
)
_LIVE = [OperationStatus.QUEUED.value, OperationStatus.RUNNING.value, OperationStatus.CANCELLING.value]


@dataclass(frozen=True)
class Begun:
    """An operation as its run needs it, with its owner and what its workflow has recorded: number, name, output."""

    id: str
    team_id: str
    instance_id: str | None
    input: dict[str, Any]
    steps: list[dict[str, Any]]
    percent: int | None
    owner: str | None
    recorded: list[tuple[int, str, str]] | None


async def add(session: AsyncSession, operation: Operation) -> bool:
    """Write a new operation and its first news; False where another operation works on the same instance.

    Guarantees: it waits for a transaction that writes another one, and the session stays usable whatever comes.
    """
    return (await session.execute(_ADD, _values(operation))).first() is not None


async def add_moving(
    session: AsyncSession, operation: Operation, *, held: str, moved: str, values: dict[str, Any], news: dict[str, Any]
) -> bool:
    """Write a new operation and the move of what it works on in one statement; False where nothing was written.

    Shapes: `held` is a part of a WITH that locks the row and gives the state that `was` and more `input`, or nothing;
    `moved` is an UPDATE from `held` and `made`; `news` is what is told of the move, topic and data. Both know `live`,
    the states of operations that have not ended; the table itself admits a second one beside a cancelled one.
    """
    statement = _adding(held, moved)
    told = {"topic": news["topic"], "told": Jsonb(news["data"]), "live": _LIVE}
    return (await session.execute(statement, {**_values(operation), **told, **values})).first() is not None


@cache
def _adding(held: str, moved: str) -> TextClause:
    return text(_ADD_MOVING.format(held=held, moved=moved))


def _values(operation: Operation) -> dict[str, Any]:
    values = {column: getattr(operation, column) for column in _OWN}
    json = {"steps": Jsonb(operation.steps), "input": Jsonb(operation.input), "news": Jsonb({"kind": operation.kind})}
    return {**values, **json}


async def get(session: AsyncSession, operation_id: str) -> Operation | None:
    """Read one operation of the session's team."""
    found = await session.scalars(
        select(Operation).where(Operation.id == operation_id).execution_options(populate_existing=True)
    )
    return found.one_or_none()


async def begin(database: Database, operation_id: str) -> Begun:
    """Write that an operation runs, in one round trip, and return what its run needs.

    Errors: LookupError where there is no such operation.
    """
    async with database.glance() as glance:
        rows = await glance.enter_and_ask(_SWEEP, _BEGIN, values={"id": operation_id})
    if not rows:
        raise LookupError(f"operation {operation_id} is queued but has no row")
    return Begun(**rows[0]._asdict())


async def live_of_instance(session: AsyncSession, instance_id: str) -> Operation | None:
    """Read the operation that has not ended yet on an instance, if there is one."""
    found = await session.scalars(
        select(Operation)
        .where(Operation.instance_id == instance_id, Operation.status.in_(_LIVE))
        .order_by(Operation.id)
        .limit(1)
    )
    return found.one_or_none()


def live_operation_id(instance_id: ColumnElement[str]) -> ScalarSelect[str]:
    """Return the part of a statement that reads the id of the live operation on each row's instance, or null."""
    return (
        select(Operation.id)
        .where(Operation.instance_id == instance_id, Operation.status == any_(array(_LIVE)))
        .order_by(Operation.id)
        .limit(literal_column("1"))
        .scalar_subquery()
    )


async def overdue(session: AsyncSession) -> Sequence[Operation]:
    """Read operations past their deadline that have not ended and have not raised an alarm yet."""
    found = await session.scalars(
        select(Operation)
        .where(
            Operation.status.in_(_LIVE), Operation.deadline_at < func.clock_timestamp(), Operation.alarmed_at.is_(None)
        )
        .with_for_update(skip_locked=True)
    )
    return found.all()


async def ask_to_cancel(session: AsyncSession, operation_id: str) -> bool:
    """Write the wish to cancel, unless the operation has ended by now; tells whether it was written."""
    changed = await session.execute(
        update(Operation)
        .where(Operation.id == operation_id, Operation.status.in_(_LIVE))
        .values(cancel_requested=True, status=OperationStatus.CANCELLING.value)
        .returning(Operation.id)
    )
    return changed.first() is not None


async def end(
    session: AsyncSession,
    operation_id: str,
    status: OperationStatus,
    *,
    steps: list[dict[str, Any]],
    result: dict[str, Any] | None,
    problem: dict[str, Any] | None,
    news: list[dict[str, Any]],
    about: tuple[str, str],
) -> None:
    """Write how an operation ended, and the news that are left to be told.

    Shapes: `news` holds topic and data; `about` is (team, instance).
    """
    values = ending(operation_id, status, steps=steps, result=result, problem=problem, news=news, about=about)
    await session.execute(_END, values)


def closing(moved: str) -> str:
    """Return the parts of a `recorded_write` that move an instance and end its operation well.

    Shapes: `moved` holds such parts, too; one is called `moved`, follows from `mine`, and gives the state that `was`
    where the instance was moved, else nothing.
    """
    return _CLOSED.format(moved=moved)


@cache
def recorded_write(parts: str, *, owned: bool = True) -> TextClause:
    """Return the one statement that writes rows and keeps the record of it, for the owner of the workflow.

    Shapes: `parts` are those of a WITH; they follow from `mine`, and one is called `done`, which has a row where all is
    written, else none. Where not `owned`, somebody else keeps the record.
    Guarantees: all of it is written, which gives one row, or nothing is.
    """
    mine = _MINE if owned else "mine AS MATERIALIZED (SELECT 1)"
    return text(f"WITH {mine}, {parts} {_KEPT if owned else 'SELECT 1 FROM done'}")


def ending(
    operation_id: str,
    status: OperationStatus,
    *,
    steps: list[dict[str, Any]],
    result: dict[str, Any] | None,
    problem: dict[str, Any] | None,
    news: list[dict[str, Any]],
    about: tuple[str, str],
) -> dict[str, Any]:
    """Return the values of `closing`, and of `end`, that say how an operation ended."""
    return {
        "id": operation_id,
        "status": status.value,
        "percent": 100 if status is OperationStatus.SUCCEEDED else None,
        "steps": Jsonb(steps),
        "result": None if result is None else Jsonb(result),
        "problem": None if problem is None else Jsonb(problem),
        "news": Jsonb(news),
        "team": about[0],
        "instance": about[1],
    }


@dataclass(frozen=True)
class Wishes:
    """What the database says to a running workflow: is it cancelled, is it late, and whose is it."""

    cancelled: bool
    late: bool
    owner: str | None


async def note(
    database: Database,
    operation_id: str,
    *,
    steps: list[dict[str, Any]],
    current_step: str | None,
    percent: int,
    news: list[dict[str, Any]],
    about: tuple[str, str],
) -> Wishes:
    """Write how far an operation is and its news in one round trip, and read what is wished of it.

    Shapes: `news` holds topic and data; `about` is (team, instance).
    Guarantees: committed when it returns.
    """
    values = {
        "id": operation_id,
        "steps": Jsonb(steps),
        "current": current_step,
        "percent": percent,
        "news": Jsonb(news),
        "team": about[0],
        "instance": about[1],
    }
    async with database.glance() as glance:
        row = (await glance.enter_and_ask(_TEAM, _NOTE, values=values))[0]
    return Wishes(bool(row.cancel_requested), bool(row.late), row.owner)


async def enqueue(session: AsyncSession, operation_id: str) -> None:
    """Hand the operation to the workers, in this transaction, through the definer function that checks it."""
    await session.execute(text("SELECT dumont_enqueue(:id)"), {"id": operation_id})
