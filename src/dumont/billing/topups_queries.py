"""What is read and written of top-ups, one named function each. Times of the next look are the database's."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.billing.topups_model import Topup, TopupRefund
from dumont.http import Page
from dumont.payments import Notice, Payment

LEASE_SECONDS = 30
"""How long whoever took something up may be busy with it before another one does."""
_LONGEST_PAUSE_SECONDS = 300

_DUE = text(
    "SELECT EXISTS (SELECT FROM pix_notice WHERE ended_at IS NULL AND due_at <= clock_timestamp()) "
    "OR EXISTS (SELECT FROM topup WHERE status = 'pending' AND look_at <= clock_timestamp()) "
    "OR EXISTS (SELECT FROM topup_refund WHERE status = 'under-way' AND due_at <= clock_timestamp()) "
    "OR EXISTS (SELECT FROM topup_payment WHERE fate = 'returning' AND due_at <= clock_timestamp())"
)
_TAKE_NOTICES = text(
    "UPDATE pix_notice SET due_at = clock_timestamp() + :lease * interval '1 second', tries = tries + 1 "
    "WHERE end_to_end_id IN (SELECT end_to_end_id FROM pix_notice WHERE ended_at IS NULL "
    "AND due_at <= clock_timestamp() ORDER BY due_at LIMIT :most FOR UPDATE SKIP LOCKED) "
    "RETURNING end_to_end_id, txid, tries"
)
_TAKE_PENDING = text(
    "UPDATE topup SET look_at = clock_timestamp() + :lease * interval '1 second' "
    "WHERE id IN (SELECT id FROM topup WHERE status = 'pending' AND look_at <= clock_timestamp() "
    "ORDER BY look_at LIMIT :most FOR UPDATE SKIP LOCKED) RETURNING id, txid"
)
_TAKE_REFUNDS = text(
    "UPDATE topup_refund SET due_at = clock_timestamp() + :lease * interval '1 second', tries = tries + 1 "
    "WHERE id IN (SELECT id FROM topup_refund WHERE status = 'under-way' AND due_at <= clock_timestamp() "
    "ORDER BY due_at LIMIT :most FOR UPDATE SKIP LOCKED) RETURNING id, end_to_end_id, amount, tries"
)
_TAKE_RETURNS = text(
    "UPDATE topup_payment SET due_at = clock_timestamp() + :lease * interval '1 second', tries = tries + 1 "
    "WHERE end_to_end_id IN (SELECT end_to_end_id FROM topup_payment WHERE fate = 'returning' "
    "AND due_at <= clock_timestamp() ORDER BY due_at LIMIT :most FOR UPDATE SKIP LOCKED) "
    "RETURNING end_to_end_id, amount, attempts, tries"
)
_ADD_PAYMENT = text(
    "INSERT INTO topup_payment (end_to_end_id, team_id, topup_id, txid, amount, fate, reason, paid_at, seen_at) "
    "VALUES (:id, :team, :topup, :txid, :amount, :fate, :reason, :paid_at, :now) ON CONFLICT DO NOTHING"
)


@dataclass(frozen=True)
class DueNotice:
    """A notice to be looked into; `tries` counts this one."""

    end_to_end_id: str
    txid: str | None
    tries: int


@dataclass(frozen=True)
class DueRefund:
    """Money to be sent back; `tries` counts this one."""

    id: str
    end_to_end_id: str
    amount: int
    tries: int


@dataclass(frozen=True)
class DueReturn:
    """A payment that fits no charge, to be sent back; `attempts` counts the operator's wishes, `tries` ours."""

    end_to_end_id: str
    amount: int
    attempts: int
    tries: int


async def anything_due(session: AsyncSession) -> bool:
    """Tell whether there is anything for the worker to do now."""
    return bool((await session.execute(_DUE)).scalar_one())


async def note(session: AsyncSession, notices: Sequence[Notice]) -> None:
    """Write that something may have been paid; what is known already changes nothing."""
    values = {"ids": [one.end_to_end_id for one in notices], "txids": [one.txid for one in notices]}
    await session.execute(text("SELECT dumont_note_pix(:ids, :txids)"), values)


async def take_notices(session: AsyncSession, most: int) -> list[DueNotice]:
    """Take up notices that are due; nobody else gets them for a while."""
    rows = await session.execute(_TAKE_NOTICES, {"lease": LEASE_SECONDS, "most": most})
    return [DueNotice(*row) for row in rows]


async def end_notice(session: AsyncSession, end_to_end_id: str) -> None:
    """Write that a notice was looked into."""
    statement = text("UPDATE pix_notice SET ended_at = clock_timestamp() WHERE end_to_end_id = :id")
    await session.execute(statement, {"id": end_to_end_id})


async def put_off_notice(session: AsyncSession, due: DueNotice) -> None:
    """Look into a notice again a little later, the later the oftener it was tried."""
    statement = text(
        "UPDATE pix_notice SET due_at = clock_timestamp() + :pause * interval '1 second' WHERE end_to_end_id = :id"
    )
    await session.execute(statement, {"id": due.end_to_end_id, "pause": _pause(due.tries)})


async def take_pending(session: AsyncSession, most: int) -> list[tuple[str, str]]:
    """Take up charges to be read back, as (id, txid)."""
    rows = await session.execute(_TAKE_PENDING, {"lease": LEASE_SECONDS, "most": most})
    return [(row[0], row[1]) for row in rows]


async def look_again(session: AsyncSession, topup_id: str, seconds: float) -> None:
    """Read a charge back again after so many real seconds."""
    statement = text("UPDATE topup SET look_at = clock_timestamp() + :pause * interval '1 second' WHERE id = :id")
    await session.execute(statement, {"id": topup_id, "pause": seconds})


async def take_refunds(session: AsyncSession, most: int) -> list[DueRefund]:
    """Take up refunds to be sent back or asked about."""
    rows = await session.execute(_TAKE_REFUNDS, {"lease": LEASE_SECONDS, "most": most})
    return [DueRefund(*row) for row in rows]


async def put_off_refund(session: AsyncSession, due: DueRefund) -> None:
    """Ask about a refund again a little later, the later the oftener it was tried."""
    statement = text("UPDATE topup_refund SET due_at = clock_timestamp() + :pause * interval '1 second' WHERE id = :id")
    await session.execute(statement, {"id": due.id, "pause": _pause(due.tries)})


async def take_returns(session: AsyncSession, most: int) -> list[DueReturn]:
    """Take up payments to be sent back or asked about."""
    rows = await session.execute(_TAKE_RETURNS, {"lease": LEASE_SECONDS, "most": most})
    return [DueReturn(*row) for row in rows]


async def put_off_return(session: AsyncSession, due: DueReturn) -> None:
    """Ask about a return again a little later, the later the oftener it was tried."""
    statement = text(
        "UPDATE topup_payment SET due_at = clock_timestamp() + :pause * interval '1 second' WHERE end_to_end_id = :id"
    )
    await session.execute(statement, {"id": due.end_to_end_id, "pause": _pause(due.tries)})


async def house_team(session: AsyncSession, now: datetime) -> str:
    """Return the team that holds what belongs to no team, made now where it is missing."""
    return str((await session.execute(text("SELECT dumont_house_team(:now)"), {"now": now})).scalar_one())


async def add_payment(
    session: AsyncSession, payment: Payment, *, team_id: str, topup_id: str | None, reason: str | None, now: datetime
) -> bool:
    """Write a payment and its fate; False where it is known already, and then nothing is written."""
    values = {
        "id": payment.end_to_end_id,
        "team": team_id,
        "topup": topup_id,
        "txid": payment.txid,
        "amount": payment.amount,
        "fate": "credited" if reason is None else "suspense",
        "reason": reason,
        "paid_at": payment.paid_at,
        "now": now,
    }
    return bool((await session.execute(_ADD_PAYMENT, values)).rowcount)  # type: ignore[attr-defined]


async def is_known(session: AsyncSession, end_to_end_id: str) -> bool:
    """Tell whether a payment was taken in already."""
    statement = text("SELECT EXISTS (SELECT FROM topup_payment WHERE end_to_end_id = :id)")
    return bool((await session.execute(statement, {"id": end_to_end_id})).scalar_one())


async def find_topup(session: AsyncSession, topup_id: str, *, lock: bool = False) -> Topup | None:
    """Read a top-up; `lock` holds its row to the end of the transaction."""
    statement = select(Topup).where(Topup.id == topup_id).execution_options(populate_existing=True)
    return (await session.scalars(statement.with_for_update() if lock else statement)).one_or_none()


async def lock_by_txid(session: AsyncSession, txid: str) -> Topup | None:
    """Read the top-up of a charge, of whatever team, and hold its row."""
    statement = select(Topup).where(Topup.txid == txid).execution_options(populate_existing=True)
    return (await session.scalars(statement.with_for_update())).one_or_none()


async def lock_refund(session: AsyncSession, refund_id: str) -> TopupRefund | None:
    """Read a refund and hold its row."""
    statement = select(TopupRefund).where(TopupRefund.id == refund_id).execution_options(populate_existing=True)
    return (await session.scalars(statement.with_for_update())).one_or_none()


async def list_topups(
    session: AsyncSession, page: Page, *, status: str | None, first: datetime | None, last: datetime | None
) -> Sequence[Topup]:
    """Read a page of the team's top-ups."""
    statement = select(Topup)
    if status is not None:
        statement = statement.where(Topup.status == status)
    if first is not None:
        statement = statement.where(Topup.created_at >= first)
    if last is not None:
        statement = statement.where(Topup.created_at < last)
    columns = {"created_at": Topup.created_at, "amount": Topup.amount, "id": Topup.id}
    return (await session.scalars(page.select(statement, columns))).all()


def _pause(tries: int) -> int:
    return int(min(_LONGEST_PAUSE_SECONDS, 2 ** min(tries - 1, 10)))
