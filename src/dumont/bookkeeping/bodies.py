"""What people send to bookkeeping: bodies whose unknown members are refused, and amounts that are never floats."""

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any

from fastapi import Request
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from dumont.bookkeeping.model import MOST_TAGS, AccountType, CategoryType, Key, TransactionType, Who, wrong_field
from dumont.core import read_amount, to_units
from dumont.http import Caller, Line, read_key
from dumont.ledger import SCALES


def _read_day(value: Any) -> date:
    """Read a date, or the day that a moment has in the zone in which it is written."""
    if not isinstance(value, str) or len(value) > 40:
        raise ValueError("Must be a date such as 2026-12-31, or a time.")
    try:
        return date.fromisoformat(value) if len(value) == 10 else datetime.fromisoformat(value).date()
    except ValueError:
        raise ValueError("Must be a date such as 2026-12-31, or a time.") from None


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("Must not be blank.")
    return text.strip()


Day = Annotated[date, BeforeValidator(_read_day)]
Name = Annotated[Line, StringConstraints(min_length=1, max_length=100), AfterValidator(_not_blank)]
Description = Annotated[Line, StringConstraints(min_length=1, max_length=500), AfterValidator(_not_blank)]
Tag = Annotated[Line, StringConstraints(min_length=1, max_length=50), AfterValidator(_not_blank)]
Id = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Cents = Annotated[int, Field(strict=True, gt=0, le=10**15)]
Amount = Annotated[str, Field(pattern=r"^[0-9]{1,16}(\.[0-9]{1,2})?$", max_length=20)]
SignedAmount = Annotated[str, Field(pattern=r"^-?[0-9]{1,13}(\.[0-9]{1,2})?$", max_length=20)]
Code = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
Reason = Annotated[Line, StringConstraints(min_length=1, max_length=200)]
Color = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]
Icon = Annotated[Line, StringConstraints(min_length=1, max_length=50)]


class Body(BaseModel):
    """A body whose unknown members are refused."""

    model_config = ConfigDict(extra="forbid")


class AccountBody(Body):
    """An account to open; its opening balance is posted."""

    name: Name
    type: AccountType
    currency: Code = "BRL"
    opening_balance: SignedAmount = "0"
    overdraft_limit: Amount = "0"


class AccountChangeBody(Body):
    """What may change of an account; a balance is not among it."""

    name: Name | None = None
    type: AccountType | None = None
    overdraft_limit: Amount | None = None


class CategoryBody(Body):
    """A category to make."""

    name: Name
    type: CategoryType
    color: Color = "#888888"
    icon: Icon | None = None


class CategoryChangeBody(Body):
    """What may change of a category."""

    name: Name | None = None
    color: Color | None = None
    icon: Icon | None = None


class _AmountBody(Body):
    amount_cents: Cents | None = None
    amount: Amount | None = None

    def cents(self) -> int:
        """Return the amount in cents. Errors: InvalidRequest unless exactly one of its two forms is given."""
        if (self.amount_cents is None) == (self.amount is None):
            raise wrong_field("amount_cents", "Give either amount_cents or amount.", "exactly-one")
        return self.amount_cents if self.amount_cents is not None else positive_cents(self.amount or "")


class TransactionBody(_AmountBody):
    """A transaction to record."""

    date: Day
    account_id: Id
    type: TransactionType
    description: Description
    category_id: Id | None = None
    to_account_id: Id | None = None
    tags: Annotated[list[Tag], Field(max_length=MOST_TAGS)] = []


class TransactionChangeBody(_AmountBody):
    """What is to change of a transaction; what is absent stays as it is."""

    date: Day | None = None
    account_id: Id | None = None
    type: TransactionType | None = None
    description: Description | None = None
    category_id: Id | None = None
    to_account_id: Id | None = None
    tags: Annotated[list[Tag], Field(max_length=MOST_TAGS)] | None = None

    def changes(self) -> dict[str, Any]:
        """Return what is to change, by the names of the facts."""
        names = ("date", "account_id", "description", "category_id", "to_account_id")
        found = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.type is not None:
            found["type"] = self.type.value
        if self.tags is not None:
            found["tags"] = tuple(dict.fromkeys(self.tags))
        if self.amount_cents is not None or self.amount is not None:
            found["cents"] = self.cents()
        return found


class TransferBody(_AmountBody):
    """A transfer between two of the team's own accounts."""

    from_account_id: Id
    to_account_id: Id
    description: Description = "Transfer"
    date: Day | None = None


class BatchBody(Body):
    """Transactions to delete."""

    ids: Annotated[list[Id], Field(min_length=1, max_length=100)]


def positive_cents(amount: str) -> int:
    """Return a plain decimal string in cents. Errors: InvalidRequest for zero."""
    cents = to_units(read_amount(amount, comma=False), 2)
    if not cents:
        raise wrong_field("amount", "Must be more than 0.", "greater-than")
    return cents


def units_of(amount: str, currency: str) -> int:
    """Return a plain decimal string in whole units of a currency."""
    return int(Decimal(amount).scaleb(SCALES[currency]))


def who(request: Request, caller: Caller) -> Who:
    """Return for whom and when a request records something."""
    return Who(caller.team_id, caller.user_id, request.app.state.clock.now())


def key_of(request: Request, caller: Caller) -> Key:
    """Return what names the request in the ledger for ever: user, method, path and Idempotency-Key."""
    return Key(f"{request.method} {request.url.path} {caller.user_id}", read_key(request) or "")


def versions(if_match: str | None) -> list[str]:
    """Read an If-Match header: the versions that the caller takes; without one, any."""
    return [part.strip().removeprefix("W/").strip('"') for part in (if_match or "*").split(",")]
