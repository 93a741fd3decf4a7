"""The verbs of the ledger inside a caller's transaction: post together, hold and void, open, change and close."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import new_id
from dumont.ledger import queries
from dumont.ledger.model import (
    SCALES,
    AccountNotFound,
    BadPosting,
    HoldRequest,
    LedgerAccount,
    Outcome,
    Posting,
    find_fault,
    is_amount,
    problem_of,
)

MOST_TOGETHER = 1000
_LONGEST_REASON = 200


async def post(session: AsyncSession, posting: Posting) -> Outcome:
    """Post one transfer in the caller's transaction, last of all that the transaction does.

    Guarantees: done once for its key; the accounts stay locked until the commit. A refusal is an outcome: commit it
    and the key stays refused, roll back and the key is free.
    Errors: BadPosting for what can never stand; DatabaseUnavailable where an account is locked for too long.
    """
    return (await post_batch(session, [posting]))[0]


async def post_batch(session: AsyncSession, postings: Sequence[Posting]) -> list[Outcome]:
    """Post several transfers in the caller's transaction; each has an outcome of its own, in their order.

    All accounts are locked first, in the order of their ids, so two batches never wait for each other in a circle: a
    transaction that posts twice must do it in one call.
    Errors: BadPosting where a posting can never stand or two share a key; DatabaseUnavailable as for `post`.
    """
    if not 1 <= len(postings) <= MOST_TOGETHER or len({posting.id for posting in postings}) < len(postings):
        raise BadPosting(
            f"Post 1 to {MOST_TOGETHER} transfers at a time, each under a key of its own.", rule="bad-batch"
        )
    for posting in postings:
        if (fault := find_fault(posting)) is not None:
            raise problem_of(fault)
    return await queries.post_batch(session, postings)


async def post_together(session: AsyncSession, postings: Sequence[Posting]) -> list[Outcome]:
    """Post several transfers of which all stand or none: an edit is a reversal and a new transfer.

    Errors: the problem of the first that does not stand, upon which the caller's transaction must roll back.
    """
    outcomes = await post_batch(session, postings)
    for outcome in outcomes:
        outcome.stands()
    return outcomes


async def hold(session: AsyncSession, request: HoldRequest) -> Outcome:
    """Keep an amount aside at once, without an entry; the account's available amount falls by it.

    Guarantees: done once for its key; a refusal is an outcome, as for `post`.
    Errors: BadPosting; DatabaseUnavailable.
    """
    if not is_amount(request.amount) or request.amount < 0:
        raise problem_of("bad-amount")
    if not 1 <= len(request.reason) <= _LONGEST_REASON or "\0" in request.reason + (request.subject or ""):
        raise BadPosting(f"A reason has 1 to {_LONGEST_REASON} characters.", rule="bad-text")
    return await queries.hold(session, request)


async def void(session: AsyncSession, team_id: str, hold_id: str, reason: str | None = None) -> None:
    """End a hold and give back what it kept; nothing happens where it was voided before.

    Errors: HoldNotFound; HoldEnded where it was settled or has expired. A posting that `settles` it ends it
    by a transfer.
    """
    said = await queries.void(session, team_id, hold_id, reason)
    if said not in ("voided", "replay"):
        raise problem_of(said)


async def expire_holds(session: AsyncSession, now: datetime, *, limit: int = 500) -> int:
    """End the holds whose time is over at a moment of the product's clock, and return how many.

    Of the session's team; of all teams in a session without one. Holds without an end stay.
    """
    return await queries.expire(session, now, limit)


async def open_account(
    session: AsyncSession,
    team_id: str,
    *,
    account_type: str,
    name: str,
    currency: str,
    floor: int | None = 0,
    now: datetime,
    account_id: str | None = None,
) -> str:
    """Open an account and return its id; with `account_id` given, a second time changes nothing.

    `floor` is the least that balance less holds may be: 0, a credit limit as a negative number, or None for no limit
    (income, expense, clearing, revenue).
    Errors: NameTaken; BadPosting for a currency that the ledger does not know, or a limit above zero.
    """
    if currency not in SCALES:
        raise BadPosting(f"The ledger knows {', '.join(SCALES)}.", rule="unknown-currency")
    if floor is not None and floor > 0:
        raise problem_of("too-low")
    id_ = account_id or new_id("acc")
    values = {
        "team": team_id,
        "id": id_,
        "type": account_type,
        "name": name,
        "currency": currency,
        "floor": floor,
        "now": now,
    }
    said = await queries.open_account(session, values)
    if said not in ("opened", "replay"):
        raise problem_of(said)
    return id_


async def change_account(
    session: AsyncSession,
    team_id: str,
    account_id: str,
    *,
    account_type: str | None = None,
    name: str | None = None,
    floor: int | None = None,
    unfloored: bool = False,
) -> None:
    """Change what is given of an account; `unfloored` takes its limit away.

    Errors: AccountNotFound, AccountClosed, NameTaken; AccountInUse for a new type once there are entries; BalanceTooLow
    for a floor above what is there.
    """
    values = {
        "team": team_id,
        "id": account_id,
        "type": account_type,
        "name": name,
        "floor": floor,
        "unfloored": unfloored,
    }
    said = await queries.change_account(session, values)
    if said != "changed":
        raise problem_of(said)


async def close_account(session: AsyncSession, team_id: str, account_id: str, *, now: datetime) -> None:
    """Close an empty account; nothing happens where it is closed.

    Errors: AccountNotFound; AccountNotEmpty.
    """
    said = await queries.close_account(session, team_id, account_id, now)
    if said not in ("closed", "replay"):
        raise problem_of(said)


async def get_account(session: AsyncSession, account_id: str) -> LedgerAccount:
    """Read an account of the session's team.

    Errors: AccountNotFound.
    """
    found = await queries.find_account(session, account_id)
    if found is None:
        raise AccountNotFound
    return found
