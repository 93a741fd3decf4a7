"""What is read and written of operations, one named function each."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, ScalarSelect, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.durable.model import Operation, OperationStatus

_LIVE = [OperationStatus.QUEUED.value, OperationStatus.RUNNING.value, OperationStatus.CANCELLING.value]


async def add(session: AsyncSession, operation: Operation) -> None:
    """Write a new operation."""
    session.add(operation)
    await session.flush()


async def get(session: AsyncSession, operation_id: str) -> Operation | None:
    """Read one operation of the session's team."""
    found = await session.scalars(
        select(Operation).where(Operation.id == operation_id).execution_options(populate_existing=True)
    )
    return found.one_or_none()


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
        .where(Operation.instance_id == instance_id, Operation.status.in_(_LIVE))
        .order_by(Operation.id)
        .limit(1)
        .scalar_subquery()
    )


async def overdue(session: AsyncSession) -> Sequence[Operation]:
    """Read operations past their deadline that have not ended and have not raised an alarm yet."""
    found = await session.scalars(
        select(Operation).where(
            Operation.status.in_(_LIVE), Operation.deadline_at < func.clock_timestamp(), Operation.alarmed_at.is_(None)
        )
    )
    return found.all()


async def mark(session: AsyncSession, operation_id: str, **values: Any) -> tuple[bool, bool]:
    """Update an operation and tell (cancel requested, past its deadline) as of now."""
    changed = await session.execute(
        update(Operation)
        .where(Operation.id == operation_id)
        .values(**values)
        .returning(Operation.cancel_requested, Operation.deadline_at < func.clock_timestamp())
    )
    row = changed.one()
    return bool(row[0]), bool(row[1])


async def enqueue(session: AsyncSession, operation_id: str) -> None:
    """Hand the operation to the workers, in this transaction, through the definer function that checks it."""
    await session.execute(text("SELECT dumont_enqueue(:id)"), {"id": operation_id})
