"""The verbs of operations: start one in the caller's transaction, cancel it, raise alarms for late ones."""

from datetime import datetime, timedelta, timezone
from typing import Any

import structlog
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import new_id
from dumont.db import publish
from dumont.durable import queries
from dumont.durable.model import InstanceBusy, NotCancellable, Operation, OperationFinished, OperationStatus
from dumont.durable.registry import REGISTRY

log = structlog.get_logger()


async def begin_operation(
    session: AsyncSession,
    workflow: str,
    *,
    team_id: str,
    resource: tuple[str, str],
    instance_id: str | None,
    inputs: dict[str, Any],
    deadline: timedelta,
    requested_by: str | None,
    cancellable: bool = True,
) -> Operation:
    """Write an operation and enqueue its workflow, both in this transaction.

    Shapes: `inputs` holds ids and wishes, never secrets.
    Guarantees: either the row, the news and the queued workflow are all committed, or none is.
    Errors: InstanceBusy, after which nothing is written and the session goes on.
    """
    operation = new_operation(
        workflow,
        team_id=team_id,
        resource=resource,
        instance_id=instance_id,
        inputs=inputs,
        deadline=deadline,
        requested_by=requested_by,
        cancellable=cancellable,
    )
    if not await queries.add(session, operation):
        raise InstanceBusy(instance_id)
    await queries.enqueue(session, operation.id)
    return operation


async def begin_moving(
    session: AsyncSession, operation: Operation, *, held: str, moved: str, values: dict[str, Any], news: dict[str, Any]
) -> bool:
    """Write a new operation and the move of its instance in one statement, and enqueue its workflow.

    Shapes: those of `queries.add_moving`. False where nothing was written.
    """
    if not await queries.add_moving(session, operation, held=held, moved=moved, values=values, news=news):
        return False
    await queries.enqueue(session, operation.id)
    return True


def new_operation(
    workflow: str,
    *,
    team_id: str,
    resource: tuple[str, str],
    instance_id: str | None,
    inputs: dict[str, Any],
    deadline: timedelta,
    requested_by: str | None,
    cancellable: bool,
) -> Operation:
    """Make an operation that is queued from now on; nothing is written."""
    definition = REGISTRY.definitions[workflow]
    now = datetime.now(timezone.utc)
    return Operation(
        id=new_id("op"),
        team_id=team_id,
        kind=definition.kind,
        workflow=workflow,
        resource_type=resource[0],
        resource_id=resource[1],
        instance_id=instance_id,
        status=OperationStatus.QUEUED.value,
        percent=0,
        current_step=None,
        steps=[{"name": name, "status": "pending", "attempts": 0} for name in definition.steps],
        input=inputs,
        result=None,
        problem=None,
        cancellable=cancellable,
        cancel_requested=False,
        requested_by=requested_by,
        created_at=now,
        deadline_at=now + deadline,
    )


async def cancel_operation(session: AsyncSession, operation: Operation, *, insist: bool = False) -> None:
    """Ask a running operation to undo itself; it reads the wish between its steps.

    Who takes over all of its work may `insist`: then also one that else goes on to its end.
    Errors: OperationFinished, NotCancellable.
    """
    if OperationStatus(operation.status).final:
        raise OperationFinished("The operation has ended already; look at its result instead.")
    if not operation.cancellable and not insist:
        raise NotCancellable("This operation goes on to its end; wait for it.")
    if not await queries.ask_to_cancel(session, operation.id):
        raise OperationFinished("The operation has ended in this moment; look at its result instead.")
    await session.refresh(operation)


async def announce(session: AsyncSession, operation: Operation, topic: str, data: dict[str, Any]) -> None:
    """Publish news of an operation in this transaction."""
    await publish(
        session,
        topic=topic,
        resource_type=operation.resource_type,
        resource_id=operation.resource_id,
        team_id=operation.team_id,
        operation_id=operation.id,
        data=data,
    )


async def raise_alarms(session: AsyncSession) -> int:
    """Publish an alarm, once each, for operations that are past their deadline and still not ended."""
    late = await queries.overdue(session)
    for operation in late:
        log.error("operation is past its deadline", operation_id=operation.id, kind=operation.kind)
        operation.alarmed_at = func.clock_timestamp()
        await announce(session, operation, "operation.late", {"kind": operation.kind})
    return len(late)
