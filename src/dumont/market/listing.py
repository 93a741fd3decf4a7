"""Listings: all that a marketplace answered at one moment, priced for the disk that a caller wants."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from dumont.providers import Offer

Status = Literal["ok", "stale", "unreachable"]
"""Of a marketplace: as fresh as was asked, older, or nothing to show."""

_SIZES = 4
"""For so many sizes of disk a listing keeps its priced offers."""


class Listed:
    """An offer with the id under which it can be launched, at one price, as it was seen in one listing.

    `text` is free for whoever shows it: its JSON, made once.
    """

    __slots__ = ("as_of", "id", "offer", "text")

    def __init__(self, offer_id: str, offer: Offer, as_of: datetime) -> None:
        self.id = offer_id
        self.offer = offer
        self.as_of = as_of
        self.text: str | None = None


@dataclass(frozen=True)
class Listing:
    """What one provider offered at one moment.

    Guarantees: never changes, so that pages of it follow each other. `complete` is false where more fitted than was
    asked for; then these are the cheapest.
    """

    id: str
    provider: str
    as_of: datetime
    complete: bool
    offers: tuple[tuple[str, Offer], ...]
    _priced: dict[float, list[Listed]] = field(default_factory=dict, repr=False, compare=False)

    def priced(self, disk_gb: float) -> list[Listed]:
        """Return the offers with the price of that much disk."""
        found = self._priced.get(disk_gb)
        if found is None:
            found = [Listed(offer_id, offer.with_disk(disk_gb), self.as_of) for offer_id, offer in self.offers]
            while len(self._priced) >= _SIZES:
                self._priced.pop(next(iter(self._priced)))
            self._priced[disk_gb] = found
        return found
