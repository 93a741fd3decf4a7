"""The verbs of accounts and categories: open, change, close."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.bookkeeping import queries
from dumont.bookkeeping.model import (
    OPENING,
    OWN_TYPES,
    AccountNotPostable,
    AccountType,
    Category,
    CategoryNotFound,
    Key,
    NameTaken,
    Who,
    opening_account,
    wrong_field,
)
from dumont.core import is_id, new_id
from dumont.ledger import (
    SCALES,
    AccountNotFound,
    LedgerAccount,
    Leg,
    Posting,
    change_account,
    close_account,
    get_account,
    open_account,
    post,
)


@dataclass(frozen=True)
class Wish:
    """An account that somebody wants. Units: `opening` and `overdraft` in whole units of the currency."""

    name: str
    type: AccountType
    currency: str
    opening: int = 0
    overdraft: int = 0


DEFAULT_CATEGORIES = (
    ("income", "Salary", "#2e7d32"),
    ("income", "Sales", "#388e3c"),
    ("income", "Other income", "#66bb6a"),
    ("expense", "Housing", "#6d4c41"),
    ("expense", "Food", "#ef6c00"),
    ("expense", "Transport", "#1565c0"),
    ("expense", "Health", "#c62828"),
    ("expense", "Education", "#6a1b9a"),
    ("expense", "Leisure", "#00838f"),
    ("expense", "Services and software", "#4527a0"),
    ("expense", "Taxes and fees", "#37474f"),
    ("expense", "Other expenses", "#888888"),
)
"""What a new team's income and expenses are sorted by at first: type, name and colour."""


async def give_categories(session: AsyncSession, team_id: str, now: datetime) -> None:
    """Make the categories of a new team, in the transaction that makes the team; again changes nothing."""
    rows = [
        {"id": new_id("cat"), "team_id": team_id, "type": kind, "name": name, "color": color, "created_at": now}
        for kind, name, color in DEFAULT_CATEGORIES
    ]
    await queries.insert_categories(session, rows)


async def open_own(session: AsyncSession, who: Who, wish: Wish, key: Key) -> str:
    """Open an account, with its opening balance posted from the team's opening account; return its id.

    Errors: NameTaken; InvalidRequest for a limit that this kind of account cannot have, or one below the opening.
    """
    _check_overdraft(wish.type, wish.overdraft)
    if wish.opening < -wish.overdraft:
        raise wrong_field("opening_balance", "Must not be below what the overdraft limit allows.", "too-low")
    account_id = await open_account(
        session,
        who.team_id,
        account_type=wish.type.value,
        name=wish.name,
        currency=wish.currency,
        floor=-wish.overdraft,
        now=who.now,
        account_id=new_id("acc"),
    )
    if not wish.opening:
        return account_id
    source = await open_account(
        session,
        who.team_id,
        account_type=OPENING,
        name="Opening balances",
        currency=wish.currency,
        floor=None,
        now=who.now,
        account_id=opening_account(who.team_id, wish.currency),
    )
    legs = (Leg(account_id, wish.opening), Leg(source, -wish.opening))
    posting = Posting(who.team_id, key.scope, key.name, OPENING, legs, who.now.date(), "Opening balance")
    (await post(session, posting)).stands()
    return account_id


async def own_account(session: AsyncSession, account_id: str) -> LedgerAccount:
    """Read an account of the team, whatever its kind.

    Errors: AccountNotFound, also for an id of another form.
    """
    if not is_id(account_id, "acc"):
        raise AccountNotFound
    return await get_account(session, account_id)


async def postable_account(session: AsyncSession, account_id: str) -> LedgerAccount:
    """Read an account that people open and post to.

    Errors: AccountNotFound; AccountNotPostable for the wallet and the system's accounts.
    """
    account = await own_account(session, account_id)
    if account.type not in OWN_TYPES:
        raise AccountNotPostable
    return account


async def change_own(
    session: AsyncSession,
    who: Who,
    account: LedgerAccount,
    *,
    name: str | None,
    account_type: AccountType | None,
    overdraft: int | None,
) -> LedgerAccount:
    """Change what is given of an account; balances only ever move by postings.

    Errors: NameTaken; AccountInUse for a new type once there are entries; BalanceTooLow for a limit that is passed
    already; InvalidRequest for a limit that this kind of account cannot have.
    """
    kind = account_type or AccountType(account.type)
    limit = -(account.floor or 0) if overdraft is None else overdraft
    _check_overdraft(kind, limit)
    await change_account(
        session,
        who.team_id,
        account.id,
        account_type=kind.value if account_type else None,
        name=name,
        floor=-limit,
    )
    return await get_account(session, account.id)


async def close_own(session: AsyncSession, who: Who, account: LedgerAccount) -> None:
    """Close an empty account; a second time changes nothing. Errors: AccountNotEmpty."""
    await close_account(session, who.team_id, account.id, now=who.now)


async def add_category(session: AsyncSession, who: Who, **values: Any) -> Category:
    """Make a category; its ledger accounts are opened when they are first posted to. Errors: NameTaken."""
    try:
        async with session.begin_nested():
            row = await queries.insert_category(session, who, **values)
    except IntegrityError as error:
        raise NameTaken("A category of this type has this name.") from error
    if row is None:
        raise NameTaken("A category of this type has this name.")
    return row


async def own_category(session: AsyncSession, category_id: str) -> Category:
    """Read a category. Errors: CategoryNotFound, also for an id of another form."""
    found = await queries.find_category(session, category_id) if is_id(category_id, "cat") else None
    if found is None:
        raise CategoryNotFound
    return found


async def change_category(session: AsyncSession, category: Category, values: dict[str, Any]) -> Category:
    """Change name, color or icon of a category. Errors: NameTaken."""
    try:
        async with session.begin_nested():
            for name, value in values.items():
                setattr(category, name, value)
            await session.flush()
    except IntegrityError as error:
        raise NameTaken("A category of this type has this name.") from error
    return category


async def close_category(session: AsyncSession, who: Who, category: Category) -> None:
    """Take a category out of use; what was recorded under it stays. A second time changes nothing."""
    if category.closed_at is None:
        await queries.close_category(session, category.id, who.now)


def _check_overdraft(kind: AccountType, overdraft: int) -> None:
    if overdraft and not kind.may_owe:
        allowed = ", ".join(one.value for one in AccountType if one.may_owe)
        raise wrong_field("overdraft_limit", f"Only these kinds may go below zero: {allowed}.", "not-allowed")


def known_currency(currency: str) -> str:
    """Return a currency that the ledger keeps. Errors: InvalidRequest."""
    if currency not in SCALES:
        raise wrong_field("currency", f"Must be one of: {', '.join(SCALES)}.", "unknown-value")
    return currency


def cent_of(currency: str) -> int:
    """Return how many whole units of the ledger a hundredth of a currency is."""
    return int(10 ** (SCALES[currency] - 2))
