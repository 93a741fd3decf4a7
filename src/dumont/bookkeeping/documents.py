"""What bookkeeping shows: accounts, categories, transactions and entries."""

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from dumont.bookkeeping.model import OWN_TYPES, Category, Transaction, TransactionType
from dumont.core import Problem, plain_amount
from dumont.http import MoneyDocument
from dumont.ledger import SCALES, BalanceTooLow, LedgerAccount

AmountText = Annotated[str, Field(pattern=r"^-?[0-9]+\.[0-9]{2,6}$", description="A decimal string, exact.")]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$", description="ISO 4217.")]
_KINDS = {"reversal": "reversal", "settlement": "hold_settlement", "opening": "opening"}


class AccountDocument(BaseModel):
    """An account; `available` is what may still be spent, `version` the number of its entries."""

    id: str
    name: str
    type: Literal["checking", "savings", "investment", "credit", "cash", "wallet", "system"]
    currency: Currency
    balance: Annotated[float, Field(description="`balance_str` as a number, for display.")]
    balance_str: AmountText
    held_str: AmountText
    available_str: AmountText | None
    overdraft_limit: MoneyDocument | None
    is_active: bool
    created_at: datetime
    updated_at: datetime
    version: int


class AccountsDocument(BaseModel):
    """The team's accounts."""

    accounts: list[AccountDocument]
    count: int


class DoneDocument(BaseModel):
    """It is done."""

    success: bool = True
    message: str


class CategoryDocument(BaseModel):
    """A category of income or expenses."""

    id: str
    name: str
    type: Literal["income", "expense"]
    color: str
    icon: str | None
    is_active: bool
    created_at: datetime


class CategoriesDocument(BaseModel):
    """The team's categories."""

    categories: list[CategoryDocument]
    count: int


class EntryDocument(BaseModel):
    """One line on one account: a credit adds to it, a debit takes from it."""

    id: str
    account_id: str
    transaction_id: str | None
    transfer_id: str
    at: datetime
    date: date
    side: Literal["debit", "credit"]
    amount_str: AmountText
    currency: Currency
    balance_after_str: AmountText
    kind: Literal["posting", "reversal", "hold_settlement", "opening"]
    counter_account_id: str | None
    description: str | None


class EntriesDocument(BaseModel):
    """A page of entries."""

    entries: list[EntryDocument]
    count: int
    total: int | None
    next_cursor: str | None


class TransactionDocument(BaseModel):
    """What a person recorded; `version` counts its changes."""

    id: str
    date: date
    account_id: str
    to_account_id: str | None
    category_id: str | None
    type: TransactionType
    amount_cents: int | None
    amount: Annotated[float, Field(description="`amount_str` as a number, for display.")]
    amount_str: AmountText
    currency: Currency
    description: str
    tags: list[str]
    status: Literal["posted", "reversed"]
    version: int
    source: Literal["user", "usage", "topup", "system"]
    created_at: datetime
    updated_at: datetime | None
    reversed_at: datetime | None


class FullTransactionDocument(TransactionDocument):
    """A transaction with all entries that it ever made."""

    entries: list[EntryDocument]


class RecordedDocument(TransactionDocument):
    """A transaction that was just recorded; another one of the last minute may say the same."""

    possible_duplicate_of: str | None = None


class TransactionsDocument(BaseModel):
    """A page of transactions."""

    transactions: list[TransactionDocument]
    count: int
    total: int | None
    next_cursor: str | None


class DeletedDocument(DoneDocument):
    """A deleted transaction."""

    transaction: TransactionDocument


class NotDeletedDocument(BaseModel):
    """Why one transaction was not deleted."""

    id: str
    code: str
    reason: str


class BatchDocument(BaseModel):
    """Which transactions were deleted, and why the others were not."""

    deleted: int
    deleted_ids: list[str]
    errors: list[NotDeletedDocument]
    message: str


def amount_text(units: int, currency: str) -> str:
    """Show whole units as a decimal string."""
    return plain_amount(units, SCALES[currency])


def money_of(units: int, currency: str) -> MoneyDocument:
    """Show whole units as Money."""
    return MoneyDocument(amount=amount_text(units, currency), currency=currency)


def account_document(account: LedgerAccount) -> AccountDocument:
    """Show an account."""
    shown = account.type if account.type in {*OWN_TYPES, "wallet"} else "system"
    balance, available = amount_text(account.balance, account.currency), account.available
    return AccountDocument.model_validate(
        {
            "id": account.id,
            "name": account.name,
            "type": shown,
            "currency": account.currency,
            "balance": float(Decimal(balance)),
            "balance_str": balance,
            "held_str": amount_text(account.held, account.currency),
            "available_str": None if available is None else amount_text(available, account.currency),
            "overdraft_limit": None if account.floor is None else money_of(-account.floor, account.currency),
            "is_active": account.closed_at is None,
            "created_at": account.created_at,
            "updated_at": account.moved_at,
            "version": account.version,
        }
    )


def category_document(category: Category) -> CategoryDocument:
    """Show a category."""
    shown = {name: getattr(category, name) for name in ("id", "name", "type", "color", "icon", "created_at")}
    return CategoryDocument(**shown, is_active=category.closed_at is None)


def transaction_members(row: Transaction) -> dict[str, Any]:
    """Return the members of a transaction's document."""
    names = ("id", "date", "account_id", "to_account_id", "category_id", "type", "currency", "description", "tags")
    more = ("status", "version", "source", "created_at", "updated_at", "reversed_at")
    shown = amount_text(row.amount, row.currency)
    cents, rest = divmod(row.amount, 10 ** (SCALES[row.currency] - 2))
    amounts = {"amount_cents": None if rest else cents, "amount": float(Decimal(shown)), "amount_str": shown}
    return {name: getattr(row, name) for name in (*names, *more)} | amounts


def transaction_document(row: Transaction) -> TransactionDocument:
    """Show a transaction."""
    return TransactionDocument(**transaction_members(row))


def entry_document(row: Any) -> EntryDocument:
    """Show an entry."""
    return EntryDocument(
        id=f"{row.account_id}.{row.seq}",
        account_id=row.account_id,
        transaction_id=row.transaction_id,
        transfer_id=row.transfer_id,
        at=row.at,
        date=row.date,
        side="credit" if row.amount > 0 else "debit",
        amount_str=amount_text(abs(row.amount), row.currency),
        currency=row.currency,
        balance_after_str=amount_text(row.balance_after, row.currency),
        kind=_KINDS.get(row.kind, "posting"),
        counter_account_id=row.counter_account_id,
        description=row.description,
    )


def told(problem: Problem) -> Problem:
    """Return a problem with its amounts as people read them; others as they are."""
    currency = problem.extra.get("currency")
    if not isinstance(problem, BalanceTooLow) or currency not in SCALES:
        return problem
    needed, available = (money_of(problem.extra[name], currency) for name in ("needed", "available"))
    return BalanceTooLow(
        f"This needs {needed.amount} {currency}; {available.amount} {currency} may be spent. "
        "Put money into the account, raise its overdraft limit, or choose another account.",
        account_id=problem.extra.get("account_id"),
        needed=needed.model_dump(),
        available=available.model_dump(),
    )
