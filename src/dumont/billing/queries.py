"""What is read and written of wallets and what they spend, one named function each."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, Row, Text, Uuid, cast, column, select, table, text
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.billing.model import Wallet
from dumont.http import Page
from dumont.ledger import account_number

_ACCRUING = text(
    "SELECT coalesce(sum(rate_hour_nano) FILTER (WHERE to_at IS NULL), 0)::bigint AS burn_hour_nano, "
    "coalesce(sum(meter_total(rate_hour_nano, from_at, coalesce(to_at, :now)) - charged), 0)::bigint AS uncharged "
    "FROM meter WHERE team_id = :team "
    "AND (to_at IS NULL OR charged_to <> to_at OR pending IS NOT NULL OR hold_id IS NOT NULL)"
)
_SPENT = text("SELECT coalesce(sum(amount), 0)::bigint FROM usage_charge WHERE team_id = :team AND to_at > :since")
_HOLD = table(
    "ledger_hold",
    column("id", Uuid(as_uuid=False)),
    *(column(name, Text) for name in ("account_id", "status", "reason", "subject")),
    *(column(name, BigInteger) for name in ("amount", "settled_amount")),
    *(column(name, DateTime(timezone=True)) for name in ("created_at", "ended_at", "expires_at")),
)
_ACCOUNT = table("ledger_account", column("id", Text), column("currency", Text))
_KEYS = {
    "instance": "instance_id",
    "kind": "kind",
    "day": "to_char((to_at - interval '1 microsecond') AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
}
_ENTRIES = text(
    "SELECT e.seq, e.amount, e.created_at, t.id AS transfer_id, t.kind, t.memo, t.date, "
    "(SELECT min(a.id) FROM ledger_account a WHERE a.number = ANY (t.accounts) AND a.id <> e.account_id) "
    "AS counter_account_id FROM ledger_account_entry e JOIN ledger_transfer t ON t.id = e.transfer_id "
    "WHERE e.account = :number AND t.date BETWEEN :first AND :last ORDER BY t.date, e.seq LIMIT :most"
)
_BEFORE = text(
    "SELECT coalesce(sum(e.amount), 0)::bigint FROM ledger_account_entry e "
    "JOIN ledger_transfer t ON t.id = e.transfer_id WHERE e.account = :number AND t.date < :first"
)
_UNCONFIRMED = text(
    "SELECT coalesce(sum(c.amount), 0)::bigint FROM usage_charge c WHERE c.team_id = :team AND c.to_at > :first "
    "AND c.to_at <= :last AND NOT EXISTS "
    "(SELECT FROM true_up t WHERE t.rental_id = c.rental_id AND t.stated_nano IS NOT NULL)"
)
HoldRow = Row[Any]


@dataclass(frozen=True)
class Accruing:
    """What a team's open meters cost in an hour, and what was used and is not charged yet. Units: nano, millionths."""

    burn_hour_nano: int
    uncharged: int


async def find_wallet(session: AsyncSession, team_id: str, *, lock: bool = False) -> Wallet | None:
    """Read a team's wallet; `lock` holds its row to the end of the transaction."""
    statement = select(Wallet).where(Wallet.team_id == team_id).execution_options(populate_existing=True)
    return (await session.scalars(statement.with_for_update() if lock else statement)).one_or_none()


async def lock_team_wallet(session: AsyncSession, team_id: str) -> None:
    """Let nobody else make the wallet or a system account of the team before this transaction has ended."""
    await session.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended('wallet ' || :team, 0))"), {"team": team_id}
    )


async def system_account(session: AsyncSession, team_id: str, kind: str, currency: str) -> str | None:
    """Read the id of the team's system account of a kind and currency."""
    statement = text(
        "SELECT id FROM ledger_account WHERE team_id = :team AND type = :kind AND name = :kind "
        "AND currency = :currency AND closed_at IS NULL"
    )
    found = await session.execute(statement, {"team": team_id, "kind": kind, "currency": currency})
    row = found.one_or_none()
    return None if row is None else str(row[0])


async def accruing(session: AsyncSession, team_id: str, now: datetime) -> Accruing:
    """Read what the team's meters cost now."""
    row = (await session.execute(_ACCRUING, {"team": team_id, "now": now})).one()
    return Accruing(int(row.burn_hour_nano), int(row.uncharged))


async def spent_since(session: AsyncSession, team_id: str, since: datetime) -> int:
    """Read what was charged for use after a moment. Units: millionths of a dollar."""
    return int((await session.execute(_SPENT, {"team": team_id, "since": since})).scalar_one())


async def usage(session: AsyncSession, team_id: str, first: datetime, last: datetime, by: str) -> Sequence[Row[Any]]:
    """Sum what was charged for use that ended in a stretch of time, by instance, kind or day."""
    statement = text(
        f"SELECT {_KEYS[by]} AS key, sum(amount)::bigint AS amount, "
        "coalesce(sum(extract(epoch FROM to_at - from_at)) FILTER (WHERE kind = 'gpu' OR :all_kinds), 0)::float "
        "AS seconds FROM usage_charge WHERE team_id = :team AND to_at > :first AND to_at <= :last GROUP BY 1 ORDER BY 1"
    )
    values = {"team": team_id, "first": first, "last": last, "all_kinds": by == "kind"}
    return (await session.execute(statement, values)).all()


async def unconfirmed(session: AsyncSession, team_id: str, first: datetime, last: datetime) -> int:
    """Sum what was charged for machines whose provider's own bill was not read, or is not known."""
    values = {"team": team_id, "first": first, "last": last}
    return int((await session.execute(_UNCONFIRMED, values)).scalar_one())


async def holds(session: AsyncSession, page: Page, status: str | None, subject: str | None) -> Sequence[HoldRow]:
    """Read a page of the team's holds, and one more to know whether there is a next."""
    statement = select(_HOLD, _ACCOUNT.c.currency).join(_ACCOUNT, _ACCOUNT.c.id == _HOLD.c.account_id)
    statement = (
        statement.where(_HOLD.c.status != "refused") if status is None else statement.where(_HOLD.c.status == status)
    )
    if subject is not None:
        statement = statement.where(_HOLD.c.subject == subject)
    columns = {"id": cast(_HOLD.c.id, Text), "created_at": _HOLD.c.created_at}
    rows: Sequence[HoldRow] = (await session.execute(page.select(statement, columns))).all()
    return rows


async def find_hold(session: AsyncSession, hold_id: str) -> HoldRow | None:
    """Read one hold of the team."""
    statement = select(_HOLD, _ACCOUNT.c.currency).join(_ACCOUNT, _ACCOUNT.c.id == _HOLD.c.account_id)
    return (await session.execute(statement.where(_HOLD.c.id == hold_id, _HOLD.c.status != "refused"))).one_or_none()


async def entries(session: AsyncSession, account_id: str, first: date, last: date, most: int) -> Sequence[Row[Any]]:
    """Read the entries of an account by date of business, and one more than `most` where there are more."""
    number = await account_number(session, account_id)
    values = {"number": number, "first": first, "last": last, "most": most + 1}
    return (await session.execute(_ENTRIES, values)).all()


async def balance_before(session: AsyncSession, account_id: str, first: date) -> int:
    """Sum the entries of an account whose date of business is earlier."""
    values = {"number": await account_number(session, account_id), "first": first}
    return int((await session.execute(_BEFORE, values)).scalar_one())
