"""What bookkeeping reads of holds, and the end of those whose time is over."""

from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.ledger import expire_holds

AT_ONCE = 500
_HOLD = text(
    """
SELECT replace(h.id::text, '-', '') AS id, h.account_id, h.amount, h.status, h.settled_amount, h.reason, h.subject,
       h.expires_at, h.created_at, h.ended_at, a.currency
  FROM ledger_hold h JOIN ledger_account a ON a.id = h.account_id
 WHERE h.id = CAST(:id AS uuid) AND h.status <> 'refused'
"""
)


async def find(session: AsyncSession, hold_id: str) -> Any | None:
    """Read a hold of the session's team; None where there is none, or where it was refused."""
    return (await session.execute(_HOLD, {"id": hold_id})).one_or_none()


async def expire(session: AsyncSession, now: datetime) -> int:
    """End the session's team's holds whose time is over, before somebody counts on what they keep."""
    return await expire_holds(session, now, limit=AT_ONCE)
