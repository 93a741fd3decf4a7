"""The verbs of top-ups inside a caller's transaction: record, take a payment in, expire, cancel, refund.

Money that arrives goes from `pix` (what the payment service owes us) through `clearing` to `exchange`, and from the
dollar's `exchange` into the wallet: each currency sums to zero, and `clearing` is empty again in the same commit. A
refund leaves by the same way, and lies on `clearing` until the payment service says that it arrived.
"""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.billing import topups_queries as queries
from dumont.billing.model import CURRENCY
from dumont.billing.topups_model import Rate, Topup, TopupEnded, TopupRefund, TopupStatus
from dumont.billing.wallets import ensure_account, ensure_wallet
from dumont.core import derived_id, new_id
from dumont.db import publish
from dumont.ledger import BalanceTooLow, Leg, Posting, post_together
from dumont.payments import Charge, Payment

REAL = "BRL"
_SCOPE, _REFUND_SCOPE = "pix", "pix-refund"
_OPEN = (TopupStatus.PENDING.value, TopupStatus.EXPIRED.value)


def txid_of(team_id: str, user_id: str, key: str) -> str:
    """Return the charge's name, which follows from the request: asked again there is one charge."""
    return derived_id("tx", team_id, user_id, key).removeprefix("tx_")


async def record(
    session: AsyncSession,
    charge: Charge,
    rate: Rate,
    *,
    team_id: str,
    user_id: str,
    now: datetime,
    look_at: datetime,
) -> Topup:
    """Write a top-up for a charge that the payment service has made; the rate is good until the charge expires."""
    topup = Topup(
        id=new_id("top"),
        team_id=team_id,
        method="pix",
        status=TopupStatus.PENDING.value,
        amount=charge.amount,
        credit=rate.credit(charge.amount),
        rate_micro=rate.brl_micro,
        rate_source=rate.source,
        rate_at=rate.quoted_at,
        txid=charge.txid,
        code=charge.code,
        expires_at=charge.expires_at,
        created_by=user_id,
        created_at=now,
        look_at=look_at,
    )
    session.add(topup)
    await session.flush()
    return topup


async def take_payment(session: AsyncSession, payment: Payment, now: datetime) -> str | None:
    """Credit a payment that the payment service has confirmed, or set it aside; None where it was taken in before.

    The session sees all teams. Returns `credited`, or why it fits no charge.
    Guarantees: once for each end-to-end id, whatever comes in whatever order, how often, and at once.
    """
    topup = None if payment.txid is None else await queries.lock_by_txid(session, payment.txid)
    team_id = topup.team_id if topup is not None else await queries.house_team(session, now)
    reason = _misfit(topup, payment)
    topup_id = topup.id if topup is not None else None
    known = {"team_id": team_id, "topup_id": topup_id, "reason": reason, "now": now}
    if not await queries.add_payment(session, payment, **known):  # type: ignore[arg-type]
        return None
    if topup is None or reason is not None:
        await _set_aside(session, team_id, payment, reason or "unknown-charge", now)
        return reason
    await _credit(session, topup, payment, now)
    return "credited"


def _misfit(topup: Topup | None, payment: Payment) -> str | None:
    """Say why a payment fits no charge, None where it fits."""
    if topup is None:
        return "unknown-charge"
    if topup.end_to_end_id is not None:
        return "paid-already"
    if topup.status not in _OPEN:
        return "cancelled"
    if payment.amount != topup.amount:
        return "other-amount"
    return "expired" if payment.paid_at > topup.expires_at else None


async def _credit(session: AsyncSession, topup: Topup, payment: Payment, now: datetime) -> None:
    team, key = topup.team_id, payment.end_to_end_id
    wallet = await ensure_wallet(session, team, now)
    exchange = await ensure_account(session, team, "exchange", CURRENCY, now)
    reais = await ensure_account(session, team, "exchange", REAL, now)
    outcomes = await post_together(
        session,
        [
            *await _arrival(session, team, payment, reais, "topup", now),
            _move(team, key, 2, "topup", exchange, wallet.account_id, topup.credit, now),
        ],
    )
    topup.status = TopupStatus.PAID.value
    topup.paid_at = payment.paid_at
    topup.end_to_end_id = key
    topup.transfer_id = outcomes[-1].id
    await session.flush()
    await _tell(session, "topup.paid", topup, {"end_to_end_id": key, "amount": payment.amount, "credit": topup.credit})


async def _set_aside(session: AsyncSession, team_id: str, payment: Payment, reason: str, now: datetime) -> None:
    """Put what fits no charge on the suspense account, and tell the operator."""
    suspense = await ensure_account(session, team_id, "suspense", REAL, now)
    await post_together(session, await _arrival(session, team_id, payment, suspense, "suspense", now))
    data = {"team_id": team_id, "txid": payment.txid, "amount": payment.amount, "reason": reason}
    await publish(
        session, topic="topup.suspense", resource_type="payment", resource_id=payment.end_to_end_id, data=data
    )


async def _arrival(
    session: AsyncSession, team_id: str, payment: Payment, target: str, kind: str, now: datetime
) -> list[Posting]:
    """Return the transfers by which money comes in and goes on, through the clearing account."""
    pix = await ensure_account(session, team_id, "pix", REAL, now)
    clearing = await ensure_account(session, team_id, "clearing", REAL, now)
    key, amount = payment.end_to_end_id, payment.amount
    return [
        _move(team_id, key, 0, "pix-received", pix, clearing, amount, now),
        _move(team_id, key, 1, kind, clearing, target, amount, now),
    ]


async def expire(session: AsyncSession, topup: Topup) -> None:
    """Write that nobody paid in time; nothing happens to one that is not pending. The row is locked."""
    if topup.status == TopupStatus.PENDING.value:
        topup.status = TopupStatus.EXPIRED.value
        await session.flush()
        await _tell(session, "topup.expired", topup, {})


async def cancel(session: AsyncSession, topup: Topup) -> None:
    """Write that a charge can no longer be paid; nothing happens to one that was cancelled. The row is locked.

    Errors: TopupEnded.
    """
    if topup.status == TopupStatus.CANCELLED.value:
        return
    if topup.status != TopupStatus.PENDING.value:
        raise TopupEnded(f"This top-up is {topup.status}; only a pending one is cancelled.", state=topup.status)
    topup.status = TopupStatus.CANCELLED.value
    await session.flush()
    await _tell(session, "topup.cancelled", topup, {})


async def refund(
    session: AsyncSession, topup: Topup, amount: int | None, *, user_id: str, now: datetime
) -> TopupRefund:
    """Take money back out of the wallet and begin to send it to its payer; the row is locked.

    `amount` None is all that remains. The credit goes back in the same proportion, by the difference of two totals.
    Errors: TopupEnded; BalanceTooLow for more than remains; InsufficientFunds where the wallet has spent it.
    """
    if topup.status != TopupStatus.PAID.value or topup.end_to_end_id is None:
        raise TopupEnded(f"This top-up is {topup.status}; only a paid one is refunded.", state=topup.status)
    left = topup.amount - topup.refunded
    back = left if amount is None else amount
    if back > left:
        detail = "More than what remains of this top-up cannot go back."
        raise BalanceTooLow(detail, needed=back, available=left, currency=REAL)
    credit = topup.credit * (topup.refunded + back) // topup.amount - topup.refunded_credit
    row = TopupRefund(
        id=new_id("ref"),
        team_id=topup.team_id,
        topup_id=topup.id,
        end_to_end_id=topup.end_to_end_id,
        amount=back,
        credit=credit,
        status="under-way",
        due_at=now,
        created_by=user_id,
        created_at=now,
    )
    session.add(row)
    topup.refunded += back
    topup.refunded_credit += credit
    if topup.refunded == topup.amount:
        topup.status = TopupStatus.REFUNDED.value
    await session.flush()
    await post_together(session, await _departure(session, row, now))
    return row


async def _departure(session: AsyncSession, row: TopupRefund, now: datetime) -> list[Posting]:
    """Return the transfers that take a refund out of the wallet and lay it on the clearing account."""
    team = row.team_id
    wallet = await ensure_wallet(session, team, now)
    reais = await ensure_account(session, team, "exchange", REAL, now)
    clearing = await ensure_account(session, team, "clearing", REAL, now)
    postings = [_move(team, row.id, 0, "refund", reais, clearing, row.amount, now, scope=_REFUND_SCOPE)]
    if row.credit:
        exchange = await ensure_account(session, team, "exchange", CURRENCY, now)
        account = wallet.account_id
        postings.append(_move(team, row.id, 1, "refund", account, exchange, row.credit, now, scope=_REFUND_SCOPE))
    return postings


async def end_refund(session: AsyncSession, refund_id: str, *, arrived: bool, now: datetime) -> None:
    """Write how a refund ended: the payer has it, or the wallet has it again. A second time changes nothing.

    The session sees all teams.
    """
    found = await queries.lock_refund(session, refund_id)
    if found is None or found.status != "under-way":
        return
    topup = await queries.find_topup(session, found.topup_id, lock=True)
    assert topup is not None
    if arrived:
        pix = await ensure_account(session, found.team_id, "pix", REAL, now)
        clearing = await ensure_account(session, found.team_id, "clearing", REAL, now)
        given = _move(found.team_id, found.id, 2, "pix-returned", clearing, pix, found.amount, now, scope=_REFUND_SCOPE)
        await post_together(session, [given])
    else:
        departed = await _departure(session, found, found.created_at)
        await post_together(session, [_taken_back(posting, now) for posting in departed])
        topup.refunded -= found.amount
        topup.refunded_credit -= found.credit
        topup.status = TopupStatus.PAID.value
    found.status, found.ended_at = "done" if arrived else "failed", now
    await session.flush()
    data = {"refund_id": found.id, "amount": found.amount}
    await _tell(session, "topup.refunded" if arrived else "topup.refund-failed", topup, data)


def _taken_back(posting: Posting, now: datetime) -> Posting:
    legs = tuple(Leg(leg.account_id, -leg.amount) for leg in posting.legs)
    return Posting(
        posting.team_id,
        posting.scope,
        posting.key,
        "refund-failed",
        legs,
        now.date(),
        posting.memo,
        reverses=posting.id,
        leg=posting.leg + 10,
    )


def _move(
    team_id: str,
    key: str,
    leg: int,
    kind: str,
    source: str,
    target: str,
    amount: int,
    now: datetime,
    *,
    scope: str = _SCOPE,
) -> Posting:
    legs = (Leg(source, -amount), Leg(target, amount))
    return Posting(team_id, scope, key, kind, legs, now.date(), f"Pix {key}", leg=leg)


async def _tell(session: AsyncSession, topic: str, topup: Topup, data: dict[str, object]) -> None:
    told = {"status": topup.status, **data}
    await publish(session, topic=topic, resource_type="topup", resource_id=topup.id, team_id=topup.team_id, data=told)
