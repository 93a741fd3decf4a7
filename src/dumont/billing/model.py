"""Wallets and meters: tables, modes and problems.

Amounts are whole units of the ledger: millionths of a dollar. Rates of meters are nano-dollars per hour.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from sqlalchemy import BigInteger, Text
from sqlalchemy.orm import Mapped, mapped_column

from dumont.core import Act, Problem
from dumont.db import Base

CURRENCY = "USD"
MICRO_NANO = 1000
"""Nano-dollars in one unit of a wallet."""


class Mode(str, Enum):
    """What spending does: it is only written down, or it is paid from the wallet ahead of use."""

    SHOWBACK = "showback"
    PREPAID = "prepaid"


class Wallet(Base):
    """A team's money for machines, and how it may be spent.

    In showback mode usage is posted to `showback_id` and nothing is refused. In prepaid mode it is paid from
    `account_id` out of holds, and what no hold covers is owed on `receivable_id`. Units: millionths of a dollar.
    """

    __tablename__ = "wallet"

    team_id: Mapped[str] = mapped_column(Text, primary_key=True)
    currency: Mapped[str] = mapped_column(Text)
    account_id: Mapped[str] = mapped_column(Text)
    showback_id: Mapped[str] = mapped_column(Text)
    receivable_id: Mapped[str] = mapped_column(Text)
    revenue_id: Mapped[str] = mapped_column(Text)
    mode: Mapped[str] = mapped_column(Text)
    credit_limit: Mapped[int] = mapped_column(BigInteger)
    low_threshold: Mapped[int] = mapped_column(BigInteger)
    auto_hibernate: Mapped[bool]
    limit_hour: Mapped[int | None] = mapped_column(BigInteger)
    limit_day: Mapped[int | None] = mapped_column(BigInteger)
    limit_month: Mapped[int | None] = mapped_column(BigInteger)
    hibernate_over_limit: Mapped[bool]
    low_since: Mapped[datetime | None]
    version: Mapped[int]
    created_at: Mapped[datetime]


@dataclass(frozen=True)
class Stretch:
    """A stretch of cost as its owner tells it; the same id again with another rate or end replaces what was told."""

    id: str
    team_id: str
    instance_id: str
    rental_id: str
    kind: str
    rate_hour_nano: int
    from_at: datetime
    to_at: datetime | None


@dataclass(frozen=True)
class Runway:
    """How long a wallet lasts at the rate of now. Units: whole units of the currency, also per hour."""

    currency: str
    available: int
    burn_hour: int
    runs_out_at: datetime


class WalletInUse(Problem):
    """The wallet cannot be changed so now; the detail says what would have to be otherwise."""

    code, status, act = "wallet-in-use", 409, Act.FIX
    title = "The wallet cannot be changed like this now"


class SpendLimit(Problem):
    """A limit that the team set for itself would be passed; extra: period, limit, spent."""

    code, status, act = "spend-limit", 402, Act.FIX
    title = "This would pass a spending limit of the team"
