"""The rows that a search looks through, each built once for its offer, its size of disk and its day."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, NamedTuple

from dumont.sandbox.catalogue import Offer
from dumont.sandbox.documents import offer_document

_DAY = 86_400
_KINDS = 4
"""For so many pairs of a size of disk and a kind of rental rows are kept."""


class _Row(NamedTuple):
    offer: Offer
    day: float
    document: dict[str, Any]


class OfferRows:
    """Keeps rows for as long as their offers are on the market; an offer that changed is another object."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[float, bool], dict[int, _Row]] = OrderedDict()

    def of(
        self, offers: Iterable[Offer], now_s: float, *, gigabytes: float, bid: bool, all_of_them: bool = True
    ) -> list[dict[str, Any]]:
        """Return one row for each offer, two where its host is listed twice; rows of offers that are gone go as well.

        Guarantees: as `offer_document` makes them now. The rows stay ours: whoever changes one copies it first.
        """
        known, fresh = self._kept.pop((gigabytes, bid), {}), {}
        day, rows = now_s // _DAY, []
        for offer in offers:
            row = known.get(offer.id)
            if row is None or row.offer is not offer or row.day != day:
                row = _Row(offer, day, offer_document(offer, now_s, gigabytes=gigabytes, bid=bid))
            fresh[offer.id] = row
            row.document["duration"] = row.document["end_date"] - now_s
            rows += [row.document] * (2 if "twice" in offer.box.oddities else 1)
        self._kept[gigabytes, bid] = fresh if all_of_them else {**known, **fresh}
        while len(self._kept) > _KINDS:
            self._kept.popitem(last=False)
        return rows
