"""The routes by which people keep amounts aside on their own accounts, and let them go or spend them."""

import re
from datetime import timedelta
from typing import Annotated, Any

from fastapi import Request, Response
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.bookkeeping import accounts, holds, service
from dumont.bookkeeping.bodies import Amount, Body, Id, Reason, key_of, positive_cents, who
from dumont.bookkeeping.documents import money_of, told
from dumont.bookkeeping.model import (
    AccountNotPostable,
    CategoryClosed,
    CategoryNotFound,
    Facts,
    TransactionType,
    wrong_field,
)
from dumont.core import Problem
from dumont.http import CallerDep, Router, permit, problem_response, raises
from dumont.ledger import (
    SCALES,
    AccountClosed,
    AccountNotFound,
    BalanceTooLow,
    CurrencyMismatch,
    HoldDocument,
    HoldEnded,
    HoldNotFound,
    HoldRequest,
    hold,
    void,
)

router = Router(prefix="/api/v1/holds", tags=["accounts"])
_NAMED = (AccountNotFound, AccountNotPostable, AccountClosed)
_ID = re.compile(r"[0-9a-f]{32}")


class HoldBody(Body):
    """An amount to keep aside."""

    account_id: Id
    amount: Amount
    reason: Reason
    expires_in_seconds: Annotated[int, Field(ge=60, le=2_592_000)] = 3600
    subject: Annotated[str | None, Field(min_length=1, max_length=100, pattern=r"^[!-~]+$")] = None


class SettleBody(Body):
    """Where the money of a hold goes: an own account or a category; all of it unless an amount is given."""

    amount: Amount | None = None
    to_account_id: Id | None = None
    category_id: Id | None = None


class VoidBody(Body):
    """Why a hold is let go."""

    reason: Reason | None = None


@router.post("", status_code=201, **permit("ledger.post", keyed=True), responses=raises(*_NAMED, BalanceTooLow))
async def open_hold(request: Request, body: HoldBody, caller: CallerDep) -> HoldDocument | Response:
    """Keep an amount aside at once, until it is settled, voided or its time is over; no entry is made."""
    account = await accounts.postable_account(caller.session, body.account_id)
    key, now = key_of(request, caller), who(request, caller).now
    await holds.expire(caller.session, now)
    asked = HoldRequest(
        caller.team_id,
        key.scope,
        key.name,
        account.id,
        positive_cents(body.amount) * 10 ** (SCALES[account.currency] - 2),
        body.reason,
        body.subject,
        now + timedelta(seconds=body.expires_in_seconds),
    )
    outcome = await hold(caller.session, asked)
    if isinstance(outcome.problem, BalanceTooLow):
        return _refused(outcome.problem, request)
    return await _show(caller.session, outcome.stands())


@router.post(
    "/{hold_id}/settle",
    **permit("ledger.post", keyed=True),
    responses=raises(*_NAMED, HoldNotFound, HoldEnded, CategoryNotFound, CategoryClosed, CurrencyMismatch),
)
async def settle_hold(hold_id: str, request: Request, body: SettleBody, caller: CallerDep) -> HoldDocument:
    """Spend a hold, or a part of it, on an own account or under a category of expenses; the rest is free again."""
    found = await _own_hold(caller.session, hold_id)
    await holds.expire(caller.session, who(request, caller).now)
    if (body.to_account_id is None) == (body.category_id is None):
        raise wrong_field("to_account_id", "Give either to_account_id or category_id.", "exactly-one")
    held = found.amount // 10 ** (SCALES[found.currency] - 2)
    cents = held if body.amount is None else positive_cents(body.amount)
    if cents > held:
        raise wrong_field("amount", "Must not be more than what is held.", "too-large")
    kind = TransactionType.TRANSFER if body.to_account_id else TransactionType.EXPENSE
    facts = Facts(
        type=kind.value,
        date=who(request, caller).now.date(),
        account_id=found.account_id,
        cents=cents,
        description=found.reason,
        to_account_id=body.to_account_id,
        category_id=body.category_id,
    )
    key = key_of(request, caller)
    done = await service.record(caller.session, who(request, caller), facts, key, settles=found.id)
    if done.problem is not None:
        raise told(done.problem)
    return await _show(caller.session, found.id)


@router.post("/{hold_id}/void", **permit("ledger.post", keyed=True), responses=raises(HoldNotFound, HoldEnded))
async def void_hold(hold_id: str, caller: CallerDep, body: VoidBody | None = None) -> HoldDocument:
    """Let a hold go: all of it is free again."""
    found = await _own_hold(caller.session, hold_id)
    await void(caller.session, caller.team_id, found.id, body.reason if body else None)
    return await _show(caller.session, found.id)


async def _own_hold(session: AsyncSession, hold_id: str) -> Any:
    """Read a hold on an account that people post to. Errors: HoldNotFound, AccountNotPostable."""
    found = await holds.find(session, hold_id) if _ID.fullmatch(hold_id) else None
    if found is None:
        raise HoldNotFound
    await accounts.postable_account(session, found.account_id)
    return found


async def _show(session: AsyncSession, hold_id: str) -> HoldDocument:
    row: Any = await holds.find(session, hold_id)
    settled = row.settled_amount
    return HoldDocument(
        id=row.id,
        account_id=row.account_id,
        amount=money_of(row.amount, row.currency),
        status=row.status,
        settled_amount=None if settled is None else money_of(settled, row.currency),
        reason=row.reason,
        subject=row.subject,
        expires_at=row.expires_at,
        created_at=row.created_at,
        ended_at=row.ended_at,
    )


def _refused(problem: Problem, request: Request) -> Response:
    return problem_response(told(problem), request.state.request_id)
