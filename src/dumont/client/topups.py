"""The calls about top-ups: charges that fill the wallet."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from dumont.client.model import Money, read


@dataclass(frozen=True)
class Topup:
    """A charge and what became of it."""

    id: str
    status: str | None
    amount: Money | None
    credit: Money | None
    refunded: Money | None
    pix_copy_paste: str | None
    qr_code_png_base64: str | None
    expires_at: datetime | None
    paid_at: datetime | None
    created_at: datetime | None
    raw: dict[str, Any]


@dataclass(frozen=True)
class Topups:
    """The calls, over those of a client: how it gets, how it posts, and how it walks a list.

    Errors: as the client's own methods.
    """

    get: Callable[[str], Any]
    post: Callable[..., Any]
    walk: Callable[..., Iterator[Topup]]

    def make(self, amount: str, *, minutes: int | None = None) -> Topup:
        """Make a charge of so many reais, a decimal such as `100.00`."""
        return read(Topup, self.post("/wallet/topups", {"amount": amount, "expires_in_minutes": minutes}))

    def find(self, *, status: str | None = None) -> Iterator[Topup]:
        """Yield the team's top-ups, newest first."""
        return self.walk("/wallet/topups", "topups", Topup, {"status": status, "limit": 100})

    def show(self, topup_id: str) -> Topup:
        """Return one top-up as it stands now."""
        return read(Topup, self.get(f"/wallet/topups/{quote(topup_id, safe='')}"))

    def cancel(self, topup_id: str) -> Topup:
        """Take a charge back before it is paid."""
        return self._do(topup_id, "cancel")

    def simulate_payment(self, topup_id: str) -> Topup:
        """Let somebody pay, where payments are simulated."""
        return self._do(topup_id, "simulate-payment")

    def refund(self, topup_id: str, amount: str | None = None) -> Topup:
        """Send money back to its payer: so many reais, or all that remains."""
        return self._do(topup_id, "refund", {"amount": amount})

    def _do(self, topup_id: str, verb: str, body: dict[str, Any] | None = None) -> Topup:
        return read(Topup, self.post(f"/wallet/topups/{quote(topup_id, safe='')}/{verb}", body))
