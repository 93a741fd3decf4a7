"""What every payment service can be asked, in our own words, and the few ways in which an answer can fail.

Amounts are whole centavos of the real.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import ClassVar, Protocol

from dumont.core import Act, Problem


class PaymentUnreachable(Problem):
    """The payment service did not answer, or nobody can tell what it did: the same request again is safe."""

    code: ClassVar[str] = "payments-unreachable"
    status: ClassVar[int] = 503
    act: ClassVar[Act] = Act.WAIT
    title: ClassVar[str] = "The payment service does not answer now"


class PaymentRefused(Problem):
    """The payment service gave a definite no: a mistake of ours, or of its settings."""

    code: ClassVar[str] = "payments-refused"
    status: ClassVar[int] = 500
    act: ClassVar[Act] = Act.REPORT
    title: ClassVar[str] = "The payment service refused this"


class InvalidSignature(Problem):
    """A notice that the payment service did not sign, or signed too long ago."""

    code: ClassVar[str] = "invalid-signature"
    status: ClassVar[int] = 401
    act: ClassVar[Act] = Act.FIX
    title: ClassVar[str] = "The signature of this notice is missing, wrong or too old"


class ChargeStatus(str, Enum):
    """Where a charge is: it can be paid, was paid, or was removed. An expired one is open at the service for ever."""

    OPEN = "open"
    PAID = "paid"
    REMOVED = "removed"


class ReturnStatus(str, Enum):
    """Where money that goes back is."""

    UNDER_WAY = "under-way"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Payment:
    """Money that arrived; `txid` is the charge that its payer named, None where he named none."""

    end_to_end_id: str
    txid: str | None
    amount: int
    paid_at: datetime


@dataclass(frozen=True, slots=True)
class Charge:
    """A charge as the service knows it; `code` is what a person copies into his bank's app."""

    txid: str
    status: ChargeStatus
    amount: int
    created_at: datetime
    expires_at: datetime
    code: str
    payments: tuple[Payment, ...] = ()


@dataclass(frozen=True, slots=True)
class Return:
    """Money that goes back to its payer."""

    id: str
    amount: int
    status: ReturnStatus


@dataclass(frozen=True, slots=True)
class Notice:
    """That something was paid: believed only once it was read back."""

    end_to_end_id: str
    txid: str | None


class PaymentService(Protocol):
    """One service at which charges are made. `simulated` where no real money moves.

    Errors: PaymentUnreachable where the outcome is unknown; PaymentRefused for a definite no.
    """

    name: str
    simulated: bool

    async def create_charge(self, txid: str, amount: int, expires_seconds: int, note: str) -> Charge:
        """Make a charge; a second time under the same `txid` gives the one that there is.

        Errors: PaymentRefused also where that one has another amount.
        """
        ...

    async def charge(self, txid: str) -> Charge | None:
        """Read a charge with all its payments; None where the service has none."""
        ...

    async def remove_charge(self, txid: str) -> Charge:
        """See that a charge can no longer be paid and return what it is then: removed, or paid already."""
        ...

    async def payment(self, end_to_end_id: str) -> Payment | None:
        """Read a payment; None where the service has none."""
        ...

    async def give_back(self, end_to_end_id: str, return_id: str, amount: int) -> Return:
        """Send money back to its payer; a second time under the same id tells how the first one stands."""
        ...

    async def simulate_payment(self, txid: str) -> None:
        """Let somebody pay a charge.

        Errors: PaymentRefused where money is real.
        """
        ...

    def read_notice(self, headers: Mapping[str, str], body: bytes, *, real_now: float) -> list[Notice]:
        """Read what a callback tells, once its signature is proven.

        Errors: InvalidSignature.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
