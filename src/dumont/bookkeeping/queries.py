"""The statements of bookkeeping that record and change: what must be known first, and what is written."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import exists, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.bookkeeping.model import (
    DUPLICATE_SECONDS,
    Category,
    Change,
    Facts,
    Transaction,
    Who,
    category_account,
)
from dumont.core import new_id
from dumont.ledger import SCALES

_LOOK = text(
    """
SELECT 'account' AS what, a.id, a.type, a.currency, a.closed_at FROM ledger_account a WHERE a.id = ANY (:accounts)
UNION ALL
SELECT 'category', c.id, c.type, NULL, c.closed_at FROM bookkeeping_category c WHERE c.id = :category
UNION ALL
SELECT 'origin', t.id, NULL, NULL, NULL FROM bookkeeping_transaction t WHERE t.origin = CAST(:origin AS uuid)
UNION ALL
(SELECT 'alike', t.id, NULL, NULL, NULL FROM bookkeeping_transaction t
  WHERE t.team_id = :team AND t.content = :content AND t.status = 'posted' AND t.created_at >= :since
    AND t.origin IS DISTINCT FROM CAST(:origin AS uuid) ORDER BY t.created_at DESC, t.id DESC LIMIT 1)
"""
)
_COLUMNS = ", ".join(column.name for column in Transaction.__table__.c)
_VALUES = ", ".join(f":{column.name}" for column in Transaction.__table__.c)
_INSERT = text(
    f"""
WITH t AS (
    INSERT INTO bookkeeping_transaction ({_COLUMNS}) VALUES ({_VALUES}) RETURNING 1)
INSERT INTO bookkeeping_change (transaction_id, version, team_id, action, facts, posting_id, user_id, at)
SELECT :id, 1, :team_id, 'created', CAST(:facts AS jsonb), CAST(:transfer_id AS uuid), :user_id, :created_at FROM t
"""
)


@dataclass(frozen=True)
class KnownAccount:
    """What must be known of an account to post to it."""

    id: str
    type: str
    currency: str
    closed: bool


@dataclass(frozen=True)
class KnownCategory:
    """What must be known of a category to post under it."""

    id: str
    type: str
    closed: bool


@dataclass(frozen=True)
class Sight:
    """What is there before something is recorded: `origin` is what this request recorded before."""

    accounts: dict[str, KnownAccount]
    category: KnownCategory | None
    origin: str | None
    alike: str | None


async def look(session: AsyncSession, who: Who, facts: Facts, origin: str | None) -> Sight:
    """Read all that recording needs to know, in one round trip."""
    accounts = [id_ for id_ in (facts.account_id, facts.to_account_id) if id_ is not None]
    if facts.category_id is not None:
        accounts += [category_account(facts.category_id, currency) for currency in SCALES]
    values = {
        "accounts": accounts,
        "category": facts.category_id,
        "origin": origin,
        "team": who.team_id,
        "content": facts.content,
        "since": who.now - timedelta(seconds=DUPLICATE_SECONDS),
    }
    rows = (await session.execute(_LOOK, values)).all()
    known = {row.id: KnownAccount(row.id, row.type, row.currency, bool(row.closed_at)) for row in rows if row.currency}
    named = {row.what: row for row in rows}
    category = named.get("category")
    return Sight(
        accounts=known,
        category=KnownCategory(category.id, category.type, bool(category.closed_at)) if category else None,
        origin=named["origin"].id if "origin" in named else None,
        alike=named["alike"].id if "alike" in named else None,
    )


async def insert_transaction(session: AsyncSession, who: Who, row: Transaction, facts: Facts) -> None:
    """Write a new transaction and the first of its changes."""
    values = {column.name: getattr(row, column.name) for column in Transaction.__table__.c}
    more = {"facts": json.dumps(facts.document, ensure_ascii=True), "user_id": who.user_id}
    await session.execute(_INSERT, {**values, **more})


async def insert_transactions(session: AsyncSession, who: Who, rows: Sequence[tuple[Transaction, Facts]]) -> None:
    """Write many new transactions and the first change of each."""
    for row, facts in rows:
        session.add(row)
        add_change(session, who, row, facts, action="created", posting_id=row.transfer_id, reversal_id=None)
    await session.flush()


async def get_transaction(session: AsyncSession, transaction_id: str) -> Transaction | None:
    """Read a transaction of the session's team."""
    statement = select(Transaction).where(Transaction.id == transaction_id).execution_options(populate_existing=True)
    return (await session.scalars(statement)).one_or_none()


async def lock_transactions(session: AsyncSession, ids: Sequence[str]) -> dict[str, Transaction]:
    """Lock transactions that nobody else is changing now, in the order of their ids, and return them by id."""
    statement = (
        select(Transaction)
        .where(Transaction.id.in_(ids))
        .order_by(Transaction.id)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    )
    return {row.id: row for row in await session.scalars(statement)}


async def has_transaction(session: AsyncSession, transaction_id: str) -> bool:
    """Tell whether the session's team has such a transaction."""
    return bool(await session.scalar(select(exists().where(Transaction.id == transaction_id))))


async def first_facts(session: AsyncSession, transaction_id: str) -> dict[str, Any] | None:
    """Read what a transaction said when it was recorded."""
    statement = select(Change.facts).where(Change.transaction_id == transaction_id, Change.version == 1)
    found: dict[str, Any] | None = (await session.scalars(statement)).one_or_none()
    return found


def add_change(
    session: AsyncSession,
    who: Who,
    row: Transaction,
    facts: Facts,
    *,
    action: str,
    posting_id: str | None,
    reversal_id: str | None,
    reason: str | None = None,
) -> None:
    """Write down the version that a transaction now has."""
    session.add(
        Change(
            transaction_id=row.id,
            version=row.version,
            team_id=row.team_id,
            action=action,
            facts=facts.document,
            posting_id=posting_id,
            reversal_id=reversal_id,
            user_id=who.user_id,
            reason=reason,
            at=who.now,
        )
    )


async def find_category(session: AsyncSession, category_id: str) -> Category | None:
    """Read a category of the session's team."""
    return await session.get(Category, category_id)


async def list_categories(session: AsyncSession, category_type: str | None, inactive: bool) -> Sequence[Category]:
    """Read the categories of the session's team by type and name."""
    statement = select(Category).order_by(Category.type, Category.name, Category.id)
    if category_type is not None:
        statement = statement.where(Category.type == category_type)
    if not inactive:
        statement = statement.where(Category.closed_at.is_(None))
    return (await session.scalars(statement)).all()


async def insert_category(session: AsyncSession, who: Who, **values: Any) -> Category | None:
    """Write a new category; None where an open one of its type has its name."""
    taken = select(
        exists().where(Category.type == values["type"], Category.name == values["name"], Category.closed_at.is_(None))
    )
    if await session.scalar(taken):
        return None
    row = Category(id=new_id("cat"), team_id=who.team_id, created_at=who.now, closed_at=None, **values)
    session.add(row)
    await session.flush()
    return row


async def insert_categories(session: AsyncSession, rows: Sequence[dict[str, Any]]) -> None:
    """Write new categories, without those of a name that an open one of the type has."""
    await session.execute(insert(Category).values(list(rows)).on_conflict_do_nothing())


async def close_category(session: AsyncSession, category_id: str, now: datetime) -> None:
    """Take a category out of use."""
    await session.execute(update(Category).where(Category.id == category_id).values(closed_at=now))
