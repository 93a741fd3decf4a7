"""Shapes of what is told of wallets: amounts as decimal strings, unknown as null."""

from datetime import date, datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, Field

from dumont.billing.model import MICRO_NANO, Mode, Wallet
from dumont.billing.queries import Accruing, HoldRow
from dumont.core import money_document
from dumont.http import MoneyDocument, money
from dumont.ledger import SCALES, HoldDocument, LedgerAccount

Decimals = str


class WalletDocument(BaseModel):
    """A team's wallet: what is in it, what is kept aside, what runs, and how long that lasts."""

    account_id: str
    currency: str
    mode: Mode
    posted: MoneyDocument
    held: MoneyDocument
    credit_limit: MoneyDocument
    available: MoneyDocument = Field(description="posted - held + credit_limit")
    owed: MoneyDocument = Field(description="Prepaid use that no hold covered.")
    shown_back: MoneyDocument = Field(description="Use in showback mode, which the wallet did not pay for.")
    uncharged: MoneyDocument = Field(description="Used and not posted yet.")
    burn_hour: MoneyDocument = Field(description="What all machines and disks of now cost in an hour.")
    runs_out_at: datetime | None = Field(description="null where nothing runs, and in showback mode.")
    low_threshold: MoneyDocument
    low: bool
    auto_hibernate_at_zero: bool
    limit_hour: MoneyDocument | None
    limit_day: MoneyDocument | None
    limit_month: MoneyDocument | None
    hibernate_over_limit: bool
    spent_day: MoneyDocument
    spent_month: MoneyDocument
    version: int


class UsageLine(BaseModel):
    """Use under one key; `quantity` counts hours, of GPUs alone except by kind."""

    key: str
    quantity: str
    unit: Literal["hour"]
    amount: MoneyDocument


class UsageDocument(BaseModel):
    """What was charged for use."""

    usage: list[UsageLine]
    total: MoneyDocument
    unconfirmed: MoneyDocument = Field(description="Of it, what the provider's own bill was not compared with.")


class UsageRefundDocument(BaseModel):
    """What was given back of a machine's charges, and what of them remains."""

    id: str
    instance_id: str
    amount: MoneyDocument
    remaining: MoneyDocument
    reason: str


class HoldsDocument(BaseModel):
    """A page of holds."""

    holds: list[HoldDocument]
    count: int
    total: int | None
    next_cursor: str | None


class StatementEntry(BaseModel):
    """One signed line of the wallet; `balance_after_str` follows from the opening balance and the lines before."""

    id: str
    transfer_id: str
    at: datetime
    date: date
    kind: str
    side: Literal["debit", "credit"]
    amount_str: str
    balance_after_str: str
    counter_account_id: str | None
    description: str | None


class StatementDocument(BaseModel):
    """The wallet's entries between two dates of business: opening + entries = closing."""

    account_id: str
    currency: str
    first: date = Field(serialization_alias="from")
    last: date = Field(serialization_alias="to")
    opening_str: str
    closing_str: str
    total_debits_str: str
    total_credits_str: str
    entries: list[StatementEntry]


def micro_money(amount: int) -> MoneyDocument:
    """Show millionths of a dollar as Money."""
    return money(amount * MICRO_NANO)


def decimals(amount: int, currency: str) -> str:
    """Show whole units of a currency as a decimal string."""
    return money_document(amount * 10 ** (9 - SCALES[currency]))["amount"]


def wallet_document(
    wallet: Wallet,
    accounts: dict[str, LedgerAccount],
    flow: Accruing,
    spent: tuple[int, int],
    now: datetime,
) -> WalletDocument:
    """Show a wallet; `accounts` are its own by kind, `spent` what was used in this day and month, UTC."""
    own = accounts["wallet"]
    limits = {name: getattr(wallet, name) for name in ("limit_hour", "limit_day", "limit_month")}
    return WalletDocument(
        account_id=own.id,
        currency=wallet.currency,
        mode=wallet.mode,
        posted=micro_money(own.balance),
        held=micro_money(own.held),
        credit_limit=micro_money(wallet.credit_limit),
        available=micro_money(own.available or 0),
        owed=micro_money(-accounts["receivable"].balance),
        shown_back=micro_money(-accounts["showback"].balance),
        uncharged=micro_money(flow.uncharged),
        burn_hour=money(flow.burn_hour_nano),
        runs_out_at=runs_out_at(wallet, own, flow, now),
        low_threshold=micro_money(wallet.low_threshold),
        low=wallet.low_since is not None,
        auto_hibernate_at_zero=wallet.auto_hibernate,
        **{name: None if amount is None else micro_money(amount) for name, amount in limits.items()},
        hibernate_over_limit=wallet.hibernate_over_limit,
        spent_day=micro_money(spent[0] + flow.uncharged),
        spent_month=micro_money(spent[1] + flow.uncharged),
        version=wallet.version,
    )


def runs_out_at(wallet: Wallet, own: LedgerAccount, flow: Accruing, now: datetime) -> datetime | None:
    """Say when all of the wallet, what is held included, will be used up at the rate of now; never before now.

    Guarantees: None where nothing runs, in showback mode, and beyond a hundred years.
    """
    if wallet.mode != Mode.PREPAID or flow.burn_hour_nano <= 0:
        return None
    left = max(0, own.balance + wallet.credit_limit - flow.uncharged)
    hours = left * MICRO_NANO / flow.burn_hour_nano
    return now + timedelta(hours=hours) if hours < 24 * 36_500 else None


def hold_document(row: HoldRow) -> HoldDocument:
    """Show a hold."""
    values: dict[str, Any] = dict(row._mapping)
    currency = values.pop("currency")
    for name in ("amount", "settled_amount"):
        known = values[name]
        values[name] = None if known is None else {"amount": decimals(known, currency), "currency": currency}
    values["id"] = str(values["id"]).replace("-", "")
    return HoldDocument(**values)
