"""Search Vast's market beyond the one page that it answers, and believe only what fulfils the query."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, replace

from dumont.providers.contract import HOURS_IN_MONTH, Offer, OfferQuery, ProviderUnreachable
from dumont.providers.fitting import checks
from dumont.providers.vast.client import VastClient
from dumont.providers.vast.query import PAGE_ROWS, search_body
from dumont.providers.vast.translate import OfferRow, offer_from, offer_row

_DRY_PAGES = 2
"""A marketplace that ignores our bounds sends the same page for ever."""


@dataclass(frozen=True)
class _Page:
    """One reply: its usable rows, and how many it had in all."""

    found: list[OfferRow]
    rows: int

    @property
    def full(self) -> bool:
        """Whether it was as long as replies can be."""
        return self.rows >= PAGE_ROWS


async def search(client: VastClient, query: OfferQuery, *, provider: str) -> list[Offer]:
    """Return up to `query.limit` offers, cheapest first, one per machine and number of GPUs.

    Guarantees: an empty answer is believed only when given twice; one page is translated while the next one is fetched,
    and none is fetched that may not be needed.
    Source: Vast answers 64 rows at most, so the next page asks for prices from the last one on; offer numbers churn,
    so a machine and its number of GPUs are the identity. A page that brings nothing new, because so many offers cost
    the same, is passed over.
    """
    seen: set[tuple[str, int]] = set()
    good: list[Offer] = []
    page = await _page(client, query, None)
    if not page.rows:
        page = await _page(client, query, None)
    dry = 0
    for _ in range(4 + 2 * query.limit // PAGE_ROWS):
        fresh = {row.machine: row for row in reversed(page.found) if row.machine not in seen}
        seen |= fresh.keys()
        dry = 0 if fresh else dry + 1
        last = not page.full or not page.found or dry > _DRY_PAGES
        if last or len(good) + len(fresh) >= query.limit:
            good += _translated(fresh.values(), query, provider)
            if last or len(good) >= query.limit:
                break
            fresh = {}
        dearest = max(row.price_hour_nano for row in page.found)
        following = _page(client, query, dearest if dry == 0 else dearest + 2)
        more, page = await asyncio.gather(asyncio.to_thread(_translated, fresh.values(), query, provider), following)
        good += more
    return sorted(good, key=lambda offer: (offer.price_hour_nano, offer.provider_offer_id))[: query.limit]


async def _page(client: VastClient, query: OfferQuery, from_price_nano: int | None) -> _Page:
    body = search_body(query, from_price_nano=from_price_nano)
    reply = await client.ask("search", "POST", "/api/v0/bundles/", body=body)
    rows = reply.get("offers") if isinstance(reply, dict) else None
    if not isinstance(rows, list):
        raise ProviderUnreachable("Vast.ai's answer holds no list of offers; the market is unknown.")
    found = [offer_row(row) for row in rows if isinstance(row, dict)]
    return _Page([row for row in found if row is not None], len(rows))


def _translated(rows: Collection[OfferRow], query: OfferQuery, provider: str) -> list[Offer]:
    """Return those offers that fulfil the query."""
    wishes = checks(query)
    offers = (_with_rate(offer_from(row, provider=provider), query.disk_gb) for row in rows)
    return [offer for offer in offers if all(check(offer) for check in wishes)]


def _with_rate(offer: Offer, gigabytes: float) -> Offer:
    """Take the rate of disk from the total that was asked for, where the offer states only that."""
    if offer.storage_gb_month_nano is not None or gigabytes <= 0:
        return offer
    return replace(offer, storage_gb_month_nano=round(offer.disk_hour_nano * HOURS_IN_MONTH / gigabytes))
