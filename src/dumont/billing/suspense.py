"""Payments that fit no charge, which lie on a suspense account until the operator credits them or sends them back.

Every step moves money by transfers whose keys follow from the payment, so a step that is done again changes nothing.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.billing.model import CURRENCY
from dumont.billing.topups_model import Rate
from dumont.billing.wallets import ensure_account, ensure_wallet
from dumont.db import publish
from dumont.http import problems
from dumont.ledger import Leg, Posting, post_together

PaymentNotFound = problems.not_found("payment")
_REAL, _SCOPE = "BRL", "suspense"
_COLUMNS = (
    "p.end_to_end_id, p.team_id, p.topup_id, p.txid, p.amount, p.fate, p.reason, p.paid_at, p.attempts, "
    "t.rate_micro, t.rate_source, t.rate_at"
)
_FROM = "FROM topup_payment p LEFT JOIN topup t ON t.id = p.topup_id"
_LIST = text(f"SELECT {_COLUMNS} {_FROM} WHERE p.fate IN ('suspense', 'returning') ORDER BY p.seen_at, p.end_to_end_id")
_LOCK = text(f"SELECT {_COLUMNS} {_FROM} WHERE p.end_to_end_id = :id FOR UPDATE OF p")
_CREDITED = text("UPDATE topup_payment SET fate = 'credited', resolved_at = :now WHERE end_to_end_id = :id")
_BEGUN = text(
    "UPDATE topup_payment SET fate = 'returning', due_at = clock_timestamp(), attempts = attempts + 1 "
    "WHERE end_to_end_id = :id"
)
_RETURNED = text(
    "UPDATE topup_payment SET fate = 'returned', resolved_at = :now, due_at = NULL WHERE end_to_end_id = :id"
)
_KEPT = text("UPDATE topup_payment SET fate = 'suspense', due_at = NULL WHERE end_to_end_id = :id")


class PaymentResolved(problems.Conflict):
    """The payment was credited or sent back before, or is on its way; `state` says which."""

    code = "payment-resolved"
    title = "This payment lies on no suspense account any more"


@dataclass(frozen=True)
class Suspended:
    """A payment that was set aside. Units: `amount` in centavos; `rate` is that of the charge it names, if any."""

    end_to_end_id: str
    team_id: str
    topup_id: str | None
    txid: str | None
    amount: int
    fate: str
    reason: str
    paid_at: datetime
    attempts: int
    rate: Rate | None


async def suspended(session: AsyncSession) -> list[Suspended]:
    """Read the payments that wait for a decision, and those on their way back; the session sees all teams."""
    return [_payment(row) for row in await session.execute(_LIST)]


async def credit_suspended(
    session: AsyncSession, end_to_end_id: str, *, team_id: str | None, rate: Rate | None, now: datetime
) -> int:
    """Put a payment into a wallet and return its credit in the wallet's currency; the session sees all teams.

    It goes to the team of the charge that it names, at that charge's rate; one that names none needs both from the
    operator.
    Guarantees: once, whoever asks. Errors: PaymentNotFound, PaymentResolved; ValueError for what is missing.
    """
    found = await _lock(session, end_to_end_id)
    target, agreed = (found.team_id, found.rate) if found.topup_id is not None else (team_id, rate)
    if target is None or agreed is None:
        raise ValueError("This payment names no charge of ours: say whose it is, and set today's rate.")
    credit = agreed.credit(found.amount)
    wallet = await ensure_wallet(session, target, now)
    dollars = await ensure_account(session, target, "exchange", CURRENCY, now)
    reais = await ensure_account(session, target, "exchange", _REAL, now)
    suspense = await ensure_account(session, found.team_id, "suspense", _REAL, now)
    postings = [_move(target, end_to_end_id, 2, dollars, wallet.account_id, credit, now)]
    if target == found.team_id:
        postings.append(_move(target, end_to_end_id, 1, suspense, reais, found.amount, now))
    else:
        owed = await ensure_account(session, found.team_id, "pix", _REAL, now)
        ours = await ensure_account(session, target, "pix", _REAL, now)
        postings.append(_move(found.team_id, end_to_end_id, 0, suspense, owed, found.amount, now))
        postings.append(_move(target, end_to_end_id, 1, ours, reais, found.amount, now))
    await post_together(session, postings)
    await session.execute(_CREDITED, {"id": end_to_end_id, "now": now})
    await _tell(session, "topup.suspense-credited", found, target, {"credit": credit})
    return credit


async def begin_return(session: AsyncSession, end_to_end_id: str, now: datetime) -> None:
    """Have a worker send a payment back to its payer; the money lies on clearing until it arrived.

    Errors: PaymentNotFound, PaymentResolved.
    """
    found = await _lock(session, end_to_end_id)
    await post_together(session, [await _returning(session, found, found.attempts + 1, "suspense", "clearing", 0, now)])
    await session.execute(_BEGUN, {"id": end_to_end_id})


async def end_return(session: AsyncSession, end_to_end_id: str, *, arrived: bool, now: datetime) -> None:
    """Write how a return ended: the payer has it, or it lies on suspense again. A second time changes nothing."""
    row = (await session.execute(_LOCK, {"id": end_to_end_id})).one()
    found = _payment(row)
    if found.fate != "returning":
        return
    target = "pix" if arrived else "suspense"
    await post_together(session, [await _returning(session, found, found.attempts, "clearing", target, 1, now)])
    await session.execute(_RETURNED if arrived else _KEPT, {"id": end_to_end_id, "now": now})
    topic = "topup.suspense-returned" if arrived else "topup.suspense-return-failed"
    await _tell(session, topic, found, found.team_id, {})


def return_id(end_to_end_id: str, attempts: int) -> str:
    """Return the id under which the payment service knows a return: another one for each attempt."""
    return f"s{attempts}{end_to_end_id}"


async def _lock(session: AsyncSession, end_to_end_id: str) -> Suspended:
    row = (await session.execute(_LOCK, {"id": end_to_end_id})).one_or_none()
    if row is None:
        raise PaymentNotFound("No payment has this end-to-end id.")
    if row.fate != "suspense":
        raise PaymentResolved(f"This payment is {row.fate}.", state=row.fate)
    return _payment(row)


def _payment(row: Row[tuple[object, ...]]) -> Suspended:
    values = dict(row._mapping)
    micro, source, at = (values.pop(f"rate_{name}") for name in ("micro", "source", "at"))
    return Suspended(**values, rate=None if micro is None else Rate(micro, source, at))


async def _returning(
    session: AsyncSession, found: Suspended, attempt: int, source: str, target: str, leg: int, now: datetime
) -> Posting:
    ids = [await ensure_account(session, found.team_id, kind, _REAL, now) for kind in (source, target)]
    return _move(found.team_id, f"{found.end_to_end_id} {attempt}", leg, ids[0], ids[1], found.amount, now)


def _move(team_id: str, key: str, leg: int, source: str, target: str, amount: int, now: datetime) -> Posting:
    legs = (Leg(source, -amount), Leg(target, amount))
    return Posting(team_id, _SCOPE, key, "suspense", legs, now.date(), f"Pix {key}", leg=leg)


async def _tell(session: AsyncSession, topic: str, found: Suspended, team_id: str, more: dict[str, object]) -> None:
    data = {"team_id": team_id, "amount": found.amount, **more}
    await publish(session, topic=topic, resource_type="payment", resource_id=found.end_to_end_id, data=data)
