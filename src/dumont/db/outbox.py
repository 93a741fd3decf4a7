"""The outbox: news written in the same transaction as the facts, delivered to subscribers at least once."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.db.session import Database, set_sweep, set_team, translate

_LOG = logging.getLogger(__name__)

_INSERT = text(
    "INSERT INTO outbox_event (team_id, topic, resource_type, resource_id, operation_id, data) "
    "VALUES (:team_id, :topic, :resource_type, :resource_id, :operation_id, :data) RETURNING id"
)
_NEXT = text(
    "SELECT id, at, topic, resource_type, resource_id, team_id, operation_id, data, attempts FROM outbox_event "
    "WHERE delivered_at IS NULL AND due_at <= clock_timestamp() AND id > :after AND topic = ANY(:wanted) "
    "ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED"
)
_UNWANTED = text(
    "UPDATE outbox_event SET delivered_at = clock_timestamp(), attempts = attempts + 1 WHERE id IN ("
    "SELECT id FROM outbox_event WHERE delivered_at IS NULL AND due_at <= clock_timestamp() "
    "AND topic <> ALL(:wanted) ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED)"
)
_DELIVERED = text("UPDATE outbox_event SET delivered_at = clock_timestamp(), attempts = attempts + 1 WHERE id = :id")
_FAILED = text(
    "UPDATE outbox_event SET attempts = attempts + 1, "
    "due_at = clock_timestamp() + least(300, power(2, attempts) - 1) * interval '1 second' WHERE id = :id"
)
"""The second try comes at once, then after 1, 3, 7 ... and at most 300 seconds."""
_PRUNE = text("DELETE FROM outbox_event WHERE delivered_at < :before")


@dataclass(frozen=True)
class Event:
    """One piece of news; `id` is what handlers are idempotent by, and `attempts` counts the tries before this one."""

    id: int
    at: datetime
    topic: str
    resource_type: str
    resource_id: str
    team_id: str | None
    operation_id: str | None
    data: dict[str, Any]
    attempts: int


Receiver = Callable[[AsyncSession, Event], Awaitable[None]]


async def publish(
    session: AsyncSession,
    *,
    topic: str,
    resource_type: str,
    resource_id: str,
    data: dict[str, Any],
    team_id: str | None = None,
    operation_id: str | None = None,
) -> int:
    """Write one piece of news into the caller's transaction and return its id.

    Guarantees: seen and delivered if and only if the transaction commits; listeners are woken at the commit. Ids grow
    within a transaction, but two transactions may commit in the other order.
    """
    values = {
        "team_id": team_id,
        "topic": topic,
        "resource_type": resource_type,
        "resource_id": resource_id,
        "operation_id": operation_id,
        "data": Jsonb(data),
    }
    return int((await session.execute(_INSERT, values)).scalar_one())


async def prune(session: AsyncSession, before: datetime) -> int:
    """Delete what was delivered before a moment of the database's clock; returns how many. Needs `set_sweep`."""
    return int((await session.execute(_PRUNE, {"before": before})).rowcount)  # type: ignore[attr-defined]


class Subscriptions:
    """Who wants to hear of which topic; filled once by the entry point."""

    def __init__(self) -> None:
        self._receivers: dict[str, list[Receiver]] = {}

    def subscribe(self, topic: str, handler: Receiver) -> None:
        """Let `handler` receive every event of a topic; the same handler twice counts once."""
        receivers = self._receivers.setdefault(topic, [])
        if handler not in receivers:
            receivers.append(handler)

    async def deliver(self, database: Database, limit: int = 100) -> int:
        """Deliver up to `limit` waiting events and return how many succeeded.

        `database` is the worker's. Call it only where all subscriptions are registered: an event of a topic that nobody
        here wants counts as delivered. A handler runs with the event's team and the sweep set, inside the transaction
        that marks the event, so its rows and the mark commit together; it must not call the world.
        Guarantees: at least once; several workers share the work; a failing handler leaves its event for later, undoes
        what all handlers of that event wrote, and holds up no other event.
        Errors: DatabaseUnavailable.
        """
        after, handed, succeeded, wanted = 0, 0, 0, list(self._receivers)
        while wanted and handed < limit:
            async with database.begin() as session:
                await set_sweep(session)
                row = (await session.execute(_NEXT, {"after": after, "wanted": wanted})).one_or_none()
                if row is None:
                    break
                event = _event(row)
                after, handed = event.id, handed + 1
                succeeded += await self._hand_over(session, event)
        return succeeded + await self._pass_over(database, limit - handed)

    async def _pass_over(self, database: Database, limit: int) -> int:
        """Mark what nobody here wants, all of it at once; return how many there were."""
        async with database.begin() as session:
            await set_sweep(session)
            done = await session.execute(_UNWANTED, {"wanted": list(self._receivers), "limit": limit})
            return int(done.rowcount)  # type: ignore[attr-defined]

    async def _hand_over(self, session: AsyncSession, event: Event) -> bool:
        try:
            async with session.begin_nested():
                if event.team_id is not None:
                    await set_team(session, event.team_id)
                for receiver in self._receivers.get(event.topic, []):
                    await receiver(session, event)
        except Exception as error:
            if translate(error) is not None:
                raise
            _LOG.exception("A handler of %s failed for event %d; it will be tried again.", event.topic, event.id)
            await session.execute(_FAILED, {"id": event.id})
            return False
        await session.execute(_DELIVERED, {"id": event.id})
        return True


def _event(row: "Row[Any]") -> Event:
    return Event(**row._mapping)
