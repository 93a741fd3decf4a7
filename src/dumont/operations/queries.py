"""What is read of operations and their news, one named function each."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.durable import Operation
from dumont.http import Page

_SORTS = {"id": Operation.id, "created_at": Operation.created_at}


async def listing(
    session: AsyncSession, page: Page, *, statuses: Sequence[str], kind: str | None, instance_id: str | None
) -> Sequence[Operation]:
    """Read a page of operations, and one more to know whether there is a next."""
    statement = select(Operation)
    if statuses:
        statement = statement.where(Operation.status.in_(statuses))
    if kind is not None:
        statement = statement.where(Operation.kind == kind)
    if instance_id is not None:
        statement = statement.where(Operation.instance_id == instance_id)
    return (await session.scalars(page.select(statement, _SORTS))).all()


async def news(session: AsyncSession, operation_id: str, after: int, limit: int = 500) -> list[dict[str, Any]]:
    """Read the news of an operation behind an event id, oldest first."""
    found = await session.execute(
        text(
            "SELECT id, at, topic, data FROM outbox_event "
            "WHERE operation_id = :operation AND id > :after ORDER BY id LIMIT :limit"
        ),
        {"operation": operation_id, "after": after, "limit": limit},
    )
    return [{"id": row.id, "at": row.at, "type": row.topic, "data": row.data} for row in found]
