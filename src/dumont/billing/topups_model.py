"""Top-ups by Pix: tables, states, the rate of exchange, and problems.

Amounts are centavos of the real; credits are whole units of the wallet, millionths of a dollar.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from sqlalchemy import BigInteger, DateTime, Text, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from dumont.core import Act, Clock, Problem
from dumont.db import Base
from dumont.http import problems
from dumont.payments import PaymentService

TopupNotFound = problems.not_found("topup")
_MICRO = 1_000_000
_UNITS_IN_CENTAVO = 10_000
"""Millionths in a hundredth."""


class TopupStatus(str, Enum):
    """Where a top-up is. One that expired is paid after all where the money came in time and we heard of it late."""

    PENDING = "pending"
    PAID = "paid"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    REFUNDED = "refunded"


class Topup(Base):
    """A charge that fills the wallet once it is paid."""

    __tablename__ = "topup"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    team_id: Mapped[str] = mapped_column(Text)
    method: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text)
    amount: Mapped[int] = mapped_column(BigInteger)
    credit: Mapped[int] = mapped_column(BigInteger)
    rate_micro: Mapped[int] = mapped_column(BigInteger)
    rate_source: Mapped[str] = mapped_column(Text)
    rate_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    txid: Mapped[str] = mapped_column(Text)
    code: Mapped[str] = mapped_column(Text)
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    created_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    look_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    paid_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    end_to_end_id: Mapped[str | None] = mapped_column(Text)
    transfer_id: Mapped[str | None] = mapped_column(Uuid(as_uuid=False))
    refunded: Mapped[int] = mapped_column(BigInteger, default=0)
    refunded_credit: Mapped[int] = mapped_column(BigInteger, default=0)


class TopupRefund(Base):
    """Money of a top-up that goes back to its payer."""

    __tablename__ = "topup_refund"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    team_id: Mapped[str] = mapped_column(Text)
    topup_id: Mapped[str] = mapped_column(Text)
    end_to_end_id: Mapped[str] = mapped_column(Text)
    amount: Mapped[int] = mapped_column(BigInteger)
    credit: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(Text)
    due_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    tries: Mapped[int] = mapped_column(default=0)
    created_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


@dataclass(frozen=True)
class Rate:
    """What the operator says a dollar costs, and of when that is. Units: `brl_micro` in millionths of a real."""

    brl_micro: int
    source: str
    quoted_at: datetime

    def credit(self, amount: int) -> int:
        """Return what so many centavos are in the wallet, rounded down."""
        return amount * _UNITS_IN_CENTAVO * _MICRO // self.brl_micro


@dataclass(frozen=True)
class TopupDesk:
    """What top-ups need of the world: a payment service and a rate, None where the operator has set none."""

    payments: PaymentService | None
    rate: Rate | None
    clock: Clock

    def service(self) -> PaymentService:
        """Return the payment service.

        Errors: PaymentsNotConfigured.
        """
        if self.payments is None:
            raise PaymentsNotConfigured(
                "This installation takes no payments yet. Its operator sets DUMONT_PIX_URL and what belongs to it.",
                setting="DUMONT_PIX_URL",
            )
        return self.payments

    def todays_rate(self) -> Rate:
        """Return the rate for reais into the wallet's dollars.

        Errors: PaymentsNotConfigured.
        """
        if self.rate is None:
            raise PaymentsNotConfigured(
                "Nobody has said what a dollar costs. The operator sets DUMONT_FX_BRL_PER_USD and DUMONT_FX_DATE.",
                setting="DUMONT_FX_BRL_PER_USD",
            )
        return self.rate


class PaymentsNotConfigured(Problem):
    """The installation has no payment service, or no rate of exchange; `setting` says what its operator sets."""

    code = "payments-not-configured"
    status = 400
    act = Act.FIX
    title = "Payments are not set up here"


class TopupEnded(problems.Conflict):
    """The top-up is no longer, or not yet, in a state for this; `state` says in which."""

    code = "topup-ended"
    title = "This top-up is not in a state for that"
