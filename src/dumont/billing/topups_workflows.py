"""What the worker does for top-ups: looks into notices, reads pending charges back, sends refunds.

A notice only says where to look: what is credited was read back from the payment service. Charges are read back
without a notice too, so that a lost one costs a minute and no money. Whose turn it is stands in the rows, so any number
of workers may do this, and what one leaves behind when it dies another takes up half a minute later.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from dumont.billing import suspense
from dumont.billing import topups_queries as queries
from dumont.billing import topups_service as service
from dumont.billing.topups_model import Topup, TopupDesk
from dumont.db import Database, set_sweep
from dumont.payments import Charge, ChargeStatus, Payment, PaymentRefused, PaymentUnreachable, ReturnStatus

log = structlog.get_logger()
_IDLE_SECONDS = 1.0
_LOOK_SECONDS = 60.0
_AFTER_EXPIRY_SECONDS = 1.0
_AT_ONCE = 20
_MOST_TRIES = 20
T = TypeVar("T")


async def keep_topups(database: Database, desk: TopupDesk) -> None:
    """Do what is due again and again, until cancelled; `database` is the worker's."""
    if desk.payments is None:
        return
    while True:
        try:
            async with database.begin() as session:
                await set_sweep(session)
                due = await queries.anything_due(session)
            if due:
                await topups_turn(database, desk)
                continue
        except Exception as error:  # noqa: BLE001 - this outlives every error; each is logged
            log.warning("top-ups will be looked at again", error=repr(error))
        await asyncio.sleep(_IDLE_SECONDS)


async def topups_turn(database: Database, desk: TopupDesk) -> None:
    """Do all that is due now, once; what the payment service does not answer is put off.

    Errors: DatabaseUnavailable.
    """
    for notice in await _taken(database, queries.take_notices):
        await _look_into(database, desk, notice)
    for topup_id, txid in await _taken(database, queries.take_pending):
        await _read_back(database, desk, topup_id, txid)
    for refund in await _taken(database, queries.take_refunds):
        await _send_back(database, desk, refund)
    for payment in await _taken(database, queries.take_returns):
        await _return(database, desk, payment)


async def _taken(database: Database, take: Callable[..., Awaitable[list[T]]]) -> list[T]:
    async with database.begin() as session:
        await set_sweep(session)
        return await take(session, _AT_ONCE)


async def _look_into(database: Database, desk: TopupDesk, notice: queries.DueNotice) -> None:
    try:
        payment = await _confirmed(desk, notice)
    except (PaymentUnreachable, PaymentRefused) as problem:
        log.warning("a notice of a payment waits", end_to_end_id=notice.end_to_end_id, problem=problem.detail)
        payment = None
    async with database.begin() as session:
        await set_sweep(session)
        if payment is not None:
            fate = await service.take_payment(session, payment, desk.clock.now())
            await queries.end_notice(session, notice.end_to_end_id)
            _warn_of(payment, fate)
        elif notice.tries < _MOST_TRIES:
            await queries.put_off_notice(session, notice)
        else:
            log.error("the payment service tells of a payment that it does not have", notice=notice.end_to_end_id)
            await queries.end_notice(session, notice.end_to_end_id)


async def _confirmed(desk: TopupDesk, notice: queries.DueNotice) -> Payment | None:
    """Read a payment back: with the charge that it names, else by itself."""
    payments = desk.service()
    charge = None if notice.txid is None else await payments.charge(notice.txid)
    for payment in charge.payments if charge is not None else ():
        if payment.end_to_end_id == notice.end_to_end_id:
            return payment
    return await payments.payment(notice.end_to_end_id)


async def _read_back(database: Database, desk: TopupDesk, topup_id: str, txid: str) -> None:
    try:
        charge = await desk.service().charge(txid)
    except (PaymentUnreachable, PaymentRefused) as problem:
        log.warning("a charge could not be read back", topup_id=topup_id, problem=problem.detail)
        return
    for payment in charge.payments if charge is not None else ():
        async with database.begin() as session:
            await set_sweep(session)
            if not await queries.is_known(session, payment.end_to_end_id):
                _warn_of(payment, await service.take_payment(session, payment, desk.clock.now()))
    async with database.begin() as session:
        await set_sweep(session)
        topup = await queries.find_topup(session, topup_id, lock=True)
        if topup is None or topup.status != "pending":
            return
        if charge is not None and charge.status is ChargeStatus.REMOVED:
            await service.cancel(session, topup)
        elif desk.clock.now() > topup.expires_at and not _may_still_come(charge):
            await service.expire(session, topup)
        else:
            await queries.look_again(session, topup_id, next_look(desk, topup))


def next_look(desk: TopupDesk, topup: Topup) -> float:
    """Return in how many real seconds a pending charge is read back: each minute, and when it expires."""
    left = (topup.expires_at - desk.clock.now()).total_seconds()
    return min(_LOOK_SECONDS, max(_AFTER_EXPIRY_SECONDS, desk.clock.real_delay(left) + _AFTER_EXPIRY_SECONDS))


def _may_still_come(charge: Charge | None) -> bool:
    """Tell whether a charge is paid at the service, so that its payment must be somewhere."""
    return charge is not None and charge.status is ChargeStatus.PAID and not charge.payments


async def _send_back(database: Database, desk: TopupDesk, due: queries.DueRefund) -> None:
    status = await _given_back(desk, due.end_to_end_id, _return_id(due.id), due.amount)
    async with database.begin() as session:
        await set_sweep(session)
        if status in (None, ReturnStatus.UNDER_WAY):
            await queries.put_off_refund(session, due)
        else:
            await service.end_refund(session, due.id, arrived=status is ReturnStatus.DONE, now=desk.clock.now())


async def _return(database: Database, desk: TopupDesk, due: queries.DueReturn) -> None:
    """Send a payment that fits no charge back to its payer."""
    name = suspense.return_id(due.end_to_end_id, due.attempts)
    status = await _given_back(desk, due.end_to_end_id, name, due.amount)
    async with database.begin() as session:
        await set_sweep(session)
        if status in (None, ReturnStatus.UNDER_WAY):
            await queries.put_off_return(session, due)
        else:
            arrived = status is ReturnStatus.DONE
            await suspense.end_return(session, due.end_to_end_id, arrived=arrived, now=desk.clock.now())


async def _given_back(desk: TopupDesk, end_to_end_id: str, return_id: str, amount: int) -> ReturnStatus | None:
    """Ask the payment service to send money back; None where nobody can tell what it did."""
    try:
        return (await desk.service().give_back(end_to_end_id, return_id, amount)).status
    except PaymentUnreachable as problem:
        log.warning("money that goes back waits", return_id=return_id, problem=problem.detail)
        return None
    except PaymentRefused as problem:
        log.error("money was not taken back; it lies where it was", return_id=return_id, problem=problem.detail)
        return ReturnStatus.FAILED


def _return_id(refund_id: str) -> str:
    """Return the id under which a refund is known at the service: letters and digits alone."""
    return refund_id.replace("_", "")


def _warn_of(payment: Payment, fate: str | None) -> None:
    if fate not in (None, "credited"):
        log.error(
            "a payment fits no charge and lies on the suspense account",
            end_to_end_id=payment.end_to_end_id,
            txid=payment.txid,
            centavos=payment.amount,
            reason=fate,
        )
