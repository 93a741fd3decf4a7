"""What people record about their money: tables, kinds of accounts, limits and problems."""

from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import Enum
from hashlib import blake2b
from typing import Any

from sqlalchemy import BigInteger, Date, DateTime, Integer, LargeBinary, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID
from sqlalchemy.orm import Mapped, mapped_column

from dumont.core import Act, Problem, derived_id
from dumont.db import Base
from dumont.http import problems
from dumont.ledger import SCALES

_Day = date
FIRST_DATE = date(1970, 1, 1)
MOST_TAGS = 20
DUPLICATE_SECONDS = 60
DEFAULT_CURRENCY = "BRL"


class AccountType(str, Enum):
    """The kinds of accounts that people open for themselves."""

    CHECKING = "checking"
    SAVINGS = "savings"
    INVESTMENT = "investment"
    CREDIT = "credit"
    CASH = "cash"

    @property
    def may_owe(self) -> bool:
        """Whether an account of this kind may have an overdraft limit and so go below zero."""
        return self in (AccountType.CHECKING, AccountType.CREDIT)


class CategoryType(str, Enum):
    """What a category sorts: money that comes in or money that goes out."""

    INCOME = "income"
    EXPENSE = "expense"


class TransactionType(str, Enum):
    """What a person records."""

    INCOME = "income"
    EXPENSE = "expense"
    TRANSFER = "transfer"


OWN_TYPES = frozenset(kind.value for kind in AccountType)
OPENING = "opening"
"""The type of the account, one for each team and currency, that opening balances come from."""


class Category(Base):
    """What income or expenses are sorted by; a closed one takes no new transactions."""

    __tablename__ = "bookkeeping_category"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    team_id: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    type: Mapped[str] = mapped_column(Text)
    color: Mapped[str] = mapped_column(Text)
    icon: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    closed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class Transaction(Base):
    """What a person recorded, as it now stands. `amount` is in whole units of the ledger, `transfer_id` its posting.

    `origin` is the first posting, whose id follows from the Idempotency-Key. `content` tells equal ones.
    """

    __tablename__ = "bookkeeping_transaction"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    team_id: Mapped[str] = mapped_column(Text)
    type: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text)
    version: Mapped[int] = mapped_column(Integer)
    date: Mapped[date] = mapped_column(Date)
    account_id: Mapped[str] = mapped_column(Text)
    to_account_id: Mapped[str | None] = mapped_column(Text)
    category_id: Mapped[str | None] = mapped_column(Text)
    amount: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text)
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text))
    source: Mapped[str] = mapped_column(Text)
    content: Mapped[bytes] = mapped_column(LargeBinary)
    origin: Mapped[str] = mapped_column(UUID(as_uuid=False))
    transfer_id: Mapped[str] = mapped_column(UUID(as_uuid=False))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    updated_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    reversed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class Change(Base):
    """One version of a transaction: what it said, and the transfers that this version posted and took back."""

    __tablename__ = "bookkeeping_change"

    transaction_id: Mapped[str] = mapped_column(Text, primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    team_id: Mapped[str] = mapped_column(Text)
    action: Mapped[str] = mapped_column(Text)
    facts: Mapped[dict[str, Any]] = mapped_column(JSONB)
    posting_id: Mapped[str | None] = mapped_column(UUID(as_uuid=False))
    reversal_id: Mapped[str | None] = mapped_column(UUID(as_uuid=False))
    user_id: Mapped[str] = mapped_column(Text)
    reason: Mapped[str | None] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


@dataclass(frozen=True)
class Who:
    """For whom and when something is recorded: `now` is of the product's clock."""

    team_id: str
    user_id: str
    now: datetime


@dataclass(frozen=True)
class Key:
    """The request that asks for a posting: the same scope and key again are the same posting."""

    scope: str
    name: str


@dataclass(frozen=True)
class Facts:
    """What a person states of a transaction. Units: `cents` in hundredths of the account's currency."""

    type: str
    date: date
    account_id: str
    cents: int
    description: str
    to_account_id: str | None = None
    category_id: str | None = None
    tags: tuple[str, ...] = ()

    @property
    def content(self) -> bytes:
        """16 bytes that are equal for transactions that say the same; tags aside."""
        said = (self.type, self.date, self.account_id, self.to_account_id, self.category_id, self.cents)
        return blake2b(repr((said, self.description)).encode(), digest_size=16).digest()

    @property
    def document(self) -> dict[str, Any]:
        """The facts as the history keeps them."""
        return {**vars(self), "date": self.date.isoformat(), "tags": list(self.tags)}

    def changed(self, **values: Any) -> "Facts":
        """Return these facts with others in their place; a new type loses the side that it does not have."""
        after = replace(self, **values)
        if after.type == TransactionType.TRANSFER and "category_id" not in values:
            after = replace(after, category_id=None)
        if after.type != TransactionType.TRANSFER and "to_account_id" not in values:
            after = replace(after, to_account_id=None)
        return after

    def check(self, today: _Day) -> None:
        """Refuse facts that contradict each other, whatever is in the books.

        A day beyond today is allowed, because it has begun in other time zones. Errors: InvalidRequest.
        """
        wrong = []
        if not FIRST_DATE <= self.date <= today + timedelta(days=1):
            wrong.append(_wrong("date", f"Must be between {FIRST_DATE} and today.", "out-of-range"))
        transfer = self.type == TransactionType.TRANSFER
        for name, given, wanted in (
            ("to_account_id", self.to_account_id, transfer),
            ("category_id", self.category_id, not transfer),
        ):
            if wanted and given is None:
                wrong.append(_wrong(name, f"This field is required for type {self.type}.", "missing"))
            elif given is not None and not wanted:
                wrong.append(_wrong(name, f"This field does not go with type {self.type}.", "extra-forbidden"))
        if transfer and self.to_account_id == self.account_id:
            wrong.append(_wrong("to_account_id", "Must be another account.", "same-account"))
        if wrong:
            raise problems.InvalidRequest(wrong)


def facts_of(row: Transaction) -> Facts:
    """Return what a stored transaction says."""
    return Facts(
        type=row.type,
        date=row.date,
        account_id=row.account_id,
        cents=row.amount // 10 ** (SCALES[row.currency] - 2),
        description=row.description,
        to_account_id=row.to_account_id,
        category_id=row.category_id,
        tags=tuple(row.tags),
    )


def category_account(category_id: str, currency: str) -> str:
    """Return the id of the ledger account that a category has in a currency."""
    return derived_id("acc", "category", category_id, currency)


def opening_account(team_id: str, currency: str) -> str:
    """Return the id of the ledger account that a team's opening balances in a currency come from."""
    return derived_id("acc", OPENING, team_id, currency)


def wrong_field(name: str, detail: str, code: str) -> problems.InvalidRequest:
    """Make the problem of one field of a body."""
    return problems.InvalidRequest([_wrong(name, detail, code)])


def _wrong(name: str, detail: str, code: str) -> dict[str, str]:
    return problems.field_error(f"/{name}", detail, code)


CategoryNotFound = problems.not_found("category")
TransactionNotFound = problems.not_found("transaction")


class NameTaken(problems.Conflict):
    """Another one has this name: choose a different one."""

    code = "name-taken"
    title = "This name is taken"


class AccountNotPostable(problems.Conflict):
    """Wallet and system accounts move by top-ups, usage and refunds alone: choose an account of your own."""

    code = "account-not-postable"
    title = "Nobody posts to this account by hand"


class CategoryClosed(problems.Conflict):
    """The category was deleted and takes no new transactions: choose another one."""

    code = "category-closed"
    title = "This category was deleted"


class TransactionReversed(problems.Conflict):
    """The transaction was deleted, so it cannot change any more: record a new one."""

    code = "transaction-reversed"
    title = "This transaction was deleted"


class TransactionBusy(problems.Conflict):
    """Somebody else is changing this transaction at this moment: read it again and decide anew."""

    code = "transaction-busy"
    act = Act.WAIT
    title = "This transaction is being changed by somebody else"


class VersionMismatch(Problem):
    """Somebody changed the resource since the caller read it; extra: version, which it has now."""

    code, status, act = "version-mismatch", 412, Act.FIX
    title = "It was changed in the meantime"
