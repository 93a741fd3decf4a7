"""The verbs of transactions: record, edit, reverse. Each is one commit with its posting, or nothing at all."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.bookkeeping import queries
from dumont.bookkeeping.model import (
    OWN_TYPES,
    AccountNotPostable,
    CategoryClosed,
    CategoryNotFound,
    CategoryType,
    Facts,
    Key,
    Transaction,
    TransactionBusy,
    TransactionNotFound,
    TransactionReversed,
    TransactionType,
    VersionMismatch,
    Who,
    category_account,
    facts_of,
    wrong_field,
)
from dumont.bookkeeping.queries import KnownAccount, Sight
from dumont.core import Problem, is_id, new_id
from dumont.http import problems
from dumont.ledger import (
    MOST_AMOUNT,
    SCALES,
    AccountClosed,
    AccountNotFound,
    BalanceTooLow,
    CurrencyMismatch,
    Leg,
    Posting,
    open_account,
    post,
    post_batch,
    post_together,
)


@dataclass(frozen=True)
class Recorded:
    """What became of a request to record: `problem` is a refusal that stays with its key."""

    transaction: Transaction | None = None
    possible_duplicate_of: str | None = None
    problem: Problem | None = None


@dataclass(frozen=True)
class Reversals:
    """What became of several deletions: ids that are gone, and the problem of each other."""

    deleted: list[str] = field(default_factory=list)
    errors: dict[str, Problem] = field(default_factory=dict)


async def record(
    session: AsyncSession, who: Who, facts: Facts, key: Key, *, source: str = "user", settles: str | None = None
) -> Recorded:
    """Record a transaction and post it, in the caller's transaction.

    Guarantees: one posting for a key; a refusal for want of funds is an outcome that is to be committed, and stays.
    Errors: InvalidRequest, AccountNotFound, CategoryNotFound, AccountNotPostable, AccountClosed, CategoryClosed,
    CurrencyMismatch, IdempotencyKeyReused.
    """
    facts.check(who.now.date())
    _check_ids(facts)
    bare = Posting(who.team_id, key.scope, key.name, facts.type, (), facts.date)
    sight = await queries.look(session, who, facts, bare.id)
    if sight.origin is not None:
        return await _recorded_before(session, sight.origin, facts)
    posting = await prepare(session, who, facts, sight, key, settles=settles)
    outcome = await post(session, posting)
    if isinstance(outcome.problem, BalanceTooLow):
        return Recorded(problem=outcome.problem)
    outcome.stands()
    if outcome.replayed:  # the same request was committed while this one waited for the accounts
        sight = await queries.look(session, who, facts, posting.id)
        if sight.origin is not None:
            return await _recorded_before(session, sight.origin, facts)
    row = make_row(who, facts, posting, sight.accounts[facts.account_id].currency, source=source)
    await queries.insert_transaction(session, who, row, facts)
    return Recorded(row, sight.alike)


async def get(session: AsyncSession, transaction_id: str) -> Transaction:
    """Read a transaction. Errors: TransactionNotFound, also for an id of another form."""
    found = await queries.get_transaction(session, transaction_id) if is_id(transaction_id, "txn") else None
    if found is None:
        raise TransactionNotFound
    return found


async def edit(
    session: AsyncSession, who: Who, transaction_id: str, changes: dict[str, Any], versions: Sequence[str]
) -> Transaction:
    """Change a transaction: what the ledger holds of it is taken back and posted anew, in one commit.

    The id stays and the version goes up; changes that change nothing leave all as it is. A new description or date is
    posted anew too, tags are not the ledger's. `versions` are those that the caller takes, `*` any.
    Errors: those of `record`, BalanceTooLow, TransactionBusy, TransactionReversed, VersionMismatch, WrongState.
    """
    row = await lock(session, transaction_id, versions)
    if row.status != "posted":
        raise TransactionReversed
    _check_source(row)
    before = facts_of(row)
    facts = before.changed(**changes)
    if facts == before:
        return row
    facts.check(who.now.date())
    _check_ids(facts)
    sight = await queries.look(session, who, facts, None)
    key = Key("edit", f"{row.id} {new_id('edit')}")
    posting = await prepare(session, who, facts, sight, key, kept=before)
    old = _posting_of(row, before)
    row.version += 1
    row.updated_at = who.now
    posting_id = reversal_id = None
    if (posting.legs, posting.date, posting.memo) != (old.legs, old.date, old.memo):
        reversal = reverse_posting(row, before, key.name)
        await _post_edit(session, reversal, posting)
        posting_id, reversal_id = posting.id, reversal.id
    _take_over(row, facts, posting_id, sight.accounts[facts.account_id])
    queries.add_change(session, who, row, facts, action="edited", posting_id=posting_id, reversal_id=reversal_id)
    await session.flush()
    return row


async def reverse(
    session: AsyncSession, who: Who, transaction_id: str, reason: str | None, versions: Sequence[str]
) -> Transaction:
    """Delete a transaction: its posting is taken back by another one, nothing is removed; again changes nothing.

    Errors: BalanceTooLow where the money is spent; TransactionBusy, VersionMismatch, WrongState, TransactionNotFound.
    """
    row = await lock(session, transaction_id, versions)
    if row.status == "reversed":
        return row
    _check_source(row)
    facts = facts_of(row)
    reversal = reverse_posting(row, facts, new_id("rev"))
    (await post(session, reversal)).stands()
    _end(session, who, row, facts, reversal.id, reason)
    await session.flush()
    return row


async def reverse_many(session: AsyncSession, who: Who, ids: Sequence[str]) -> Reversals:
    """Delete several transactions, each of them whole or not at all."""
    result = Reversals()
    rows = await queries.lock_transactions(session, [id_ for id_ in ids if is_id(id_, "txn")])
    asked: dict[str, Posting] = {}
    for id_ in dict.fromkeys(ids):
        row = rows.get(id_)
        if row is None:
            there = is_id(id_, "txn") and await queries.has_transaction(session, id_)
            result.errors[id_] = TransactionBusy() if there else TransactionNotFound()
        elif row.status == "reversed":
            result.deleted.append(id_)
        elif row.source != "user":
            result.errors[id_] = _not_by_hand(row)
        else:
            asked[id_] = reverse_posting(row, facts_of(row), new_id("rev"))
    outcomes = await post_batch(session, list(asked.values())) if asked else []
    for (id_, posting), outcome in zip(asked.items(), outcomes, strict=True):
        if outcome.problem is not None:
            result.errors[id_] = outcome.problem
            continue
        _end(session, who, rows[id_], facts_of(rows[id_]), posting.id, None)
        result.deleted.append(id_)
    await session.flush()
    return result


async def lock(session: AsyncSession, transaction_id: str, versions: Sequence[str]) -> Transaction:
    """Read a transaction and hold its lock to the end of the transaction.

    Errors: TransactionNotFound, TransactionBusy where somebody else changes it now, VersionMismatch.
    """
    if not is_id(transaction_id, "txn"):
        raise TransactionNotFound
    row = (await queries.lock_transactions(session, [transaction_id])).get(transaction_id)
    if row is None:
        if await queries.has_transaction(session, transaction_id):
            raise TransactionBusy
        raise TransactionNotFound
    if "*" not in versions and str(row.version) not in versions:
        raise VersionMismatch(
            "The transaction has changed since you read it. Read it again and decide anew.", version=row.version
        )
    return row


async def prepare(
    session: AsyncSession,
    who: Who,
    facts: Facts,
    sight: Sight,
    key: Key,
    *,
    settles: str | None = None,
    kept: Facts | None = None,
) -> Posting:
    """Make the posting of a transaction, after a look at what it names; opens a category's ledger account.

    `kept` is what the transaction said before: its category may have been deleted since.
    Errors: those of `record`.
    """
    account = _own(sight, facts.account_id)
    units = facts.cents * 10 ** (SCALES[account.currency] - 2)
    if not 0 < units <= MOST_AMOUNT:
        raise wrong_field("amount", "Is not an amount that this currency's accounts can take.", "out-of-range")
    if facts.to_account_id is not None:
        target = _own(sight, facts.to_account_id)
        if target.currency != account.currency:
            raise CurrencyMismatch("Both accounts must have the same currency.")
        other = target.id
    else:
        other = await _category_account(session, who, facts, sight, account.currency, kept)
    into = units if facts.type == TransactionType.INCOME else -units
    legs = (Leg(account.id, into), Leg(other, -into))
    kind = facts.type if settles is None else "settlement"
    return Posting(who.team_id, key.scope, key.name, kind, legs, facts.date, facts.description, settles=settles)


def make_row(who: Who, facts: Facts, posting: Posting, currency: str, *, source: str) -> Transaction:
    """Make the row of a transaction that was just posted."""
    return Transaction(
        id=new_id("txn"),
        team_id=who.team_id,
        type=facts.type,
        status="posted",
        version=1,
        date=facts.date,
        account_id=facts.account_id,
        to_account_id=facts.to_account_id,
        category_id=facts.category_id,
        amount=abs(posting.legs[0].amount),
        currency=currency,
        description=facts.description,
        tags=list(facts.tags),
        source=source,
        content=facts.content,
        origin=posting.id,
        transfer_id=posting.id,
        created_at=who.now,
        updated_at=None,
        reversed_at=None,
    )


def reverse_posting(row: Transaction, facts: Facts, name: str) -> Posting:
    """Make the posting that takes a transaction's posting back, on the day of the transaction."""
    posted = _posting_of(row, facts)
    legs = tuple(Leg(leg.account_id, -leg.amount) for leg in posted.legs)
    return Posting(
        row.team_id, "reverse", name, "reversal", legs, facts.date, facts.description, reverses=_hex(row.transfer_id)
    )


async def _recorded_before(session: AsyncSession, transaction_id: str, facts: Facts) -> Recorded:
    """Answer a key that recorded something before, also when the request kit has forgotten its answer."""
    if await queries.first_facts(session, transaction_id) != facts.document:
        raise problems.IdempotencyKeyReused("Use a fresh Idempotency-Key for a request that says something else.")
    return Recorded(await get(session, transaction_id))


async def _post_edit(session: AsyncSession, reversal: Posting, posting: Posting) -> None:
    """Post both or none; the order in which the balance stays above its limit is found by trying."""
    try:
        async with session.begin_nested():
            await post_together(session, [reversal, posting])
    except BalanceTooLow as refused:
        try:
            await post_together(session, [posting, reversal])
        except BalanceTooLow:
            raise refused from None


def _posting_of(row: Transaction, facts: Facts) -> Posting:
    into = row.amount if facts.type == TransactionType.INCOME else -row.amount
    other = facts.to_account_id or category_account(facts.category_id or "", row.currency)
    legs = (Leg(facts.account_id, into), Leg(other, -into))
    return Posting(row.team_id, "", "", facts.type, legs, facts.date, facts.description)


def _end(session: AsyncSession, who: Who, row: Transaction, facts: Facts, reversal_id: str, reason: str | None) -> None:
    row.status = "reversed"
    row.version += 1
    row.reversed_at = row.updated_at = who.now
    queries.add_change(
        session, who, row, facts, action="reversed", posting_id=None, reversal_id=reversal_id, reason=reason
    )


def _take_over(row: Transaction, facts: Facts, posting_id: str | None, account: KnownAccount) -> None:
    for name in ("type", "date", "account_id", "to_account_id", "category_id", "description", "content"):
        setattr(row, name, getattr(facts, name))
    row.tags = list(facts.tags)
    row.currency = account.currency
    row.amount = facts.cents * 10 ** (SCALES[account.currency] - 2)
    row.transfer_id = posting_id or row.transfer_id


def _check_source(row: Transaction) -> None:
    if row.source != "user":
        raise _not_by_hand(row)


def _not_by_hand(row: Transaction) -> problems.WrongState:
    return problems.WrongState(row.source, ["user"], "The system recorded this transaction; nobody changes it by hand.")


def _check_ids(facts: Facts) -> None:
    for id_ in (facts.account_id, facts.to_account_id):
        if id_ is not None and not is_id(id_, "acc"):
            raise AccountNotFound
    if facts.category_id is not None and not is_id(facts.category_id, "cat"):
        raise CategoryNotFound


def _own(sight: Sight, account_id: str) -> KnownAccount:
    found = sight.accounts.get(account_id)
    if found is None or found.type in {kind.value for kind in CategoryType}:
        raise AccountNotFound
    if found.type not in OWN_TYPES:
        raise AccountNotPostable
    if found.closed:
        raise AccountClosed
    return found


async def _category_account(
    session: AsyncSession, who: Who, facts: Facts, sight: Sight, currency: str, kept: Facts | None
) -> str:
    category = sight.category
    if category is None:
        raise CategoryNotFound
    if category.closed and (kept is None or kept.category_id != category.id):
        raise CategoryClosed
    if category.type != facts.type:
        raise wrong_field("category_id", f"Must be a category of type {facts.type}.", "other-type")
    account_id = category_account(category.id, currency)
    if account_id not in sight.accounts:
        await open_account(
            session,
            who.team_id,
            account_type=category.type,
            name=category.id,
            currency=currency,
            floor=None,
            now=who.now,
            account_id=account_id,
        )
    return account_id


def _hex(uuid_text: str) -> str:
    return uuid_text.replace("-", "")
