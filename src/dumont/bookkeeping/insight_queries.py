"""The statements of insights: what they are made of, where they are kept, and whom they were told."""

import json
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import DateTime, Text, func, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from dumont.bookkeeping.insights import Budget, DaySum, Insight
from dumont.core import new_id
from dumont.db import Base
from dumont.http import Page

_SUMS = text(
    """
SELECT t.category_id, c.name, t.type, t.currency, t.date, sum(t.amount)::bigint AS amount
  FROM bookkeeping_transaction t JOIN bookkeeping_category c ON c.id = t.category_id
 WHERE t.team_id = :team AND t.status = 'posted' AND t.date BETWEEN :start AND :today
 GROUP BY t.category_id, c.name, t.type, t.currency, t.date ORDER BY t.date, t.category_id, t.currency
"""
)
_BUDGETS = text(
    """
SELECT b.category_id, c.name, b.currency, b.amount FROM bookkeeping_budget b
  JOIN bookkeeping_category c ON c.id = b.category_id
 WHERE b.team_id = :team AND c.closed_at IS NULL ORDER BY b.category_id, b.currency
"""
)
_KEEP = text(
    """
INSERT INTO insight_cache AS k (team_id, user_id, month, document, computed_at)
VALUES (:team, :user, :month, CAST(:document AS jsonb), :now)
ON CONFLICT (team_id, user_id) DO UPDATE SET month = excluded.month, document = excluded.document,
       computed_at = excluded.computed_at
 WHERE (k.month, k.document) IS DISTINCT FROM (excluded.month, excluded.document)
"""
)
_TELL = text(
    """
INSERT INTO notification (id, team_id, user_id, type, subject, period, title, body, metadata, created_at)
SELECT :id, :team, :user, :type, :subject, :period, :title, :body, CAST(:metadata AS jsonb), :now
 WHERE NOT EXISTS (SELECT FROM notification n WHERE n.team_id = :team AND n.user_id = :user AND n.type = :type
                      AND n.subject = :subject AND n.created_at > :cold)
ON CONFLICT (team_id, user_id, type, subject, period) DO NOTHING
"""
)


class Notification(Base):
    """Something that a user was told once; `read_at` None until he has seen it."""

    __tablename__ = "notification"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    team_id: Mapped[str] = mapped_column(Text)
    user_id: Mapped[str] = mapped_column(Text)
    type: Mapped[str] = mapped_column(Text)
    subject: Mapped[str] = mapped_column(Text)
    period: Mapped[date]
    title: Mapped[str] = mapped_column(Text)
    body: Mapped[str | None] = mapped_column(Text)
    # `metadata` belongs to SQLAlchemy's own classes.
    facts: Mapped[dict[str, Any]] = mapped_column("metadata", JSONB)
    read_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


async def day_sums(session: AsyncSession, team_id: str, start: date, today: date) -> list[DaySum]:
    """Read what a team recorded by day, category and currency."""
    rows = await session.execute(_SUMS, {"team": team_id, "start": start, "today": today})
    return [DaySum(**row._mapping) for row in rows]


async def budgets(session: AsyncSession, team_id: str) -> list[Budget]:
    """Read a team's budgets."""
    return [Budget(**row._mapping) for row in await session.execute(_BUDGETS, {"team": team_id})]


async def set_budget(
    session: AsyncSession, team_id: str, category_id: str, currency: str, amount: int, now: datetime
) -> None:
    """Write what a team means to spend in a month under a category."""
    statement = text(
        "INSERT INTO bookkeeping_budget (team_id, category_id, currency, amount, updated_at) "
        "VALUES (:team, :category, :currency, :amount, :now) ON CONFLICT (category_id, currency) "
        "DO UPDATE SET amount = excluded.amount, updated_at = excluded.updated_at"
    )
    values = {"team": team_id, "category": category_id, "currency": currency, "amount": amount, "now": now}
    await session.execute(statement, values)


async def drop_budget(session: AsyncSession, category_id: str) -> None:
    """Take a category's budgets away."""
    await session.execute(text("DELETE FROM bookkeeping_budget WHERE category_id = :id"), {"id": category_id})


async def cached(session: AsyncSession, team_id: str, user_id: str) -> Any | None:
    """Read what is kept for a user: `month`, `document`, `computed_at`."""
    statement = text("SELECT month, document, computed_at FROM insight_cache WHERE team_id = :team AND user_id = :user")
    return (await session.execute(statement, {"team": team_id, "user": user_id})).one_or_none()


async def keep(
    session: AsyncSession, team_id: str, user_id: str, month: date, found: Sequence[Insight], now: datetime
) -> None:
    """Keep a user's insights in his one row; where they are the same as before, nothing is written."""
    document = json.dumps([one.document for one in found])
    values = {"team": team_id, "user": user_id, "month": month, "document": document, "now": now}
    await session.execute(_KEEP, values)


async def tell(
    session: AsyncSession,
    team_id: str,
    user_id: str,
    insight: Insight,
    period: date,
    now: datetime,
    cooldown: timedelta,
) -> None:
    """Write a notification, unless the user was told of this in the same period or a short while ago."""
    values = {
        "id": new_id("ntf"),
        "team": team_id,
        "user": user_id,
        "type": insight.type,
        "subject": f"{insight.subject} {insight.currency}",
        "period": period,
        "title": insight.explanation.partition(":")[0].rstrip("."),
        "body": insight.explanation,
        "metadata": json.dumps({**insight.facts, "insight_hash": insight.hash}),
        "now": now,
        "cold": now - cooldown,
    }
    await session.execute(_TELL, values)


async def open_teams(session: AsyncSession) -> list[str]:
    """Read the ids of the teams that are open."""
    statement = text("SELECT id FROM team WHERE closed_at IS NULL ORDER BY id")
    return list((await session.scalars(statement)).all())


async def members(session: AsyncSession, team_id: str) -> list[str]:
    """Read the ids of a team's users."""
    statement = text("SELECT user_id FROM membership WHERE team_id = :team ORDER BY user_id")
    return list((await session.scalars(statement, {"team": team_id})).all())


async def choices(session: AsyncSession, team_id: str, user_id: str) -> dict[str, bool]:
    """Read which types of insights a user has turned off or on."""
    statement = text("SELECT enabled FROM insight_choice WHERE team_id = :team AND user_id = :user")
    found = (await session.scalars(statement, {"team": team_id, "user": user_id})).one_or_none()
    return dict(found or {})


async def choose(session: AsyncSession, team_id: str, user_id: str, enabled: dict[str, bool]) -> None:
    """Write which types of insights a user wants."""
    statement = text(
        "INSERT INTO insight_choice (team_id, user_id, enabled) VALUES (:team, :user, CAST(:enabled AS jsonb)) "
        "ON CONFLICT (team_id, user_id) DO UPDATE SET enabled = excluded.enabled"
    )
    await session.execute(statement, {"team": team_id, "user": user_id, "enabled": json.dumps(enabled)})


async def ignored(session: AsyncSession, team_id: str, user_id: str, since: datetime) -> set[str]:
    """Read the hashes of the insights that a user has ignored since a moment."""
    statement = text(
        "SELECT insight_hash FROM insight_feedback "
        "WHERE team_id = :team AND user_id = :user AND status = 'ignored' AND at > :since"
    )
    return set((await session.scalars(statement, {"team": team_id, "user": user_id, "since": since})).all())


async def give_feedback(
    session: AsyncSession, team_id: str, user_id: str, insight_type: str, insight_hash: str, status: str, now: datetime
) -> None:
    """Write what a user says to an insight."""
    statement = text(
        "INSERT INTO insight_feedback (team_id, user_id, insight_hash, insight_type, status, at) "
        "VALUES (:team, :user, :hash, :type, :status, :now) ON CONFLICT (team_id, user_id, insight_hash) "
        "DO UPDATE SET status = excluded.status, at = excluded.at"
    )
    values = {"team": team_id, "user": user_id, "hash": insight_hash, "type": insight_type}
    await session.execute(statement, {**values, "status": status, "now": now})


async def list_notifications(
    session: AsyncSession, user_id: str, page: Page, *, unread: bool, kind: str | None
) -> Sequence[Notification]:
    """Read one page of what a user was told, and one more."""
    statement = select(Notification).where(Notification.user_id == user_id)
    if unread:
        statement = statement.where(Notification.read_at.is_(None))
    if kind is not None:
        statement = statement.where(Notification.type == kind)
    columns = {"created_at": Notification.created_at, "id": Notification.id}
    return (await session.scalars(page.select(statement, columns))).all()


async def count_unread(session: AsyncSession, user_id: str) -> int:
    """Count what a user was told and has not read."""
    unread = (Notification.user_id == user_id) & Notification.read_at.is_(None)
    return int(await session.scalar(select(func.count()).select_from(Notification).where(unread)) or 0)


async def find_notification(session: AsyncSession, user_id: str, notification_id: str) -> Notification | None:
    """Read one notification of a user."""
    statement = select(Notification).where(Notification.user_id == user_id, Notification.id == notification_id)
    return (await session.scalars(statement)).one_or_none()


async def mark_all_read(session: AsyncSession, user_id: str, now: datetime) -> int:
    """Mark all that a user was told as read; return how many were not."""
    unread = (Notification.user_id == user_id) & Notification.read_at.is_(None)
    marked = await session.execute(update(Notification).where(unread).values(read_at=now).returning(Notification.id))
    return len(marked.all())
