"""Shapes of what is told of the ledger's own things, for every room that shows them."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel

from dumont.http import MoneyDocument


class HoldDocument(BaseModel):
    """An amount kept aside on an account."""

    id: str
    account_id: str
    amount: MoneyDocument
    status: Literal["open", "settled", "voided", "expired"]
    settled_amount: MoneyDocument | None
    reason: str
    subject: str | None
    expires_at: datetime | None
    created_at: datetime
    ended_at: datetime | None
