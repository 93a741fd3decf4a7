"""Search Vast's market beyond the one page that it answers, and believe only what fulfils the query."""

from dataclasses import dataclass, replace

from dumont.providers.contract import HOURS_IN_MONTH, Offer, OfferQuery, ProviderUnreachable
from dumont.providers.fitting import checks
from dumont.providers.vast.client import VastClient
from dumont.providers.vast.query import PAGE_ROWS, search_body
from dumont.providers.vast.translate import offer_from

_DRY_PAGES = 2
"""A marketplace that ignores our bounds sends the same page for ever."""


@dataclass(frozen=True)
class _Page:
    """One reply: its usable offers, and whether it was as long as replies can be."""

    offers: list[Offer]
    rows: int

    @property
    def full(self) -> bool:
        return self.rows >= PAGE_ROWS


async def search(client: VastClient, query: OfferQuery, *, provider: str) -> list[Offer]:
    """Return up to `query.limit` offers, cheapest first, one per machine and number of GPUs.

    Guarantees: an empty answer is believed only when given twice.
    Source: Vast answers 64 rows at most, so the next page asks for prices from the last one on; offer numbers churn,
    so a machine and its number of GPUs are the identity. A page that brings nothing new, because so many offers cost
    the same, is passed over.
    """
    wishes = checks(query)
    seen: set[tuple[str, int]] = set()
    good: list[Offer] = []
    page = await _page(client, query, provider, None)
    if not page.rows:
        page = await _page(client, query, provider, None)
    dry = 0
    for _ in range(4 + 2 * query.limit // PAGE_ROWS):
        fresh = {(offer.machine_id, offer.num_gpus): offer for offer in reversed(page.offers)}
        fresh = {key: offer for key, offer in fresh.items() if key not in seen}
        seen |= fresh.keys()
        good += [offer for offer in fresh.values() if all(check(offer) for check in wishes)]
        dry = 0 if fresh else dry + 1
        if not page.full or not page.offers or dry > _DRY_PAGES or len(good) >= query.limit:
            break
        dearest = max(offer.price_hour_nano for offer in page.offers)
        page = await _page(client, query, provider, dearest if fresh else dearest + 2)
    return sorted(good, key=lambda offer: (offer.price_hour_nano, offer.provider_offer_id))[: query.limit]


async def _page(client: VastClient, query: OfferQuery, provider: str, from_price_nano: int | None) -> _Page:
    body = search_body(query, from_price_nano=from_price_nano)
    reply = await client.ask("search", "POST", "/api/v0/bundles/", body=body)
    rows = reply.get("offers") if isinstance(reply, dict) else None
    if not isinstance(rows, list):
        raise ProviderUnreachable("Vast.ai's answer holds no list of offers; the market is unknown.")
    offers = [offer_from(row, provider=provider) if isinstance(row, dict) else None for row in rows]
    return _Page([_with_rate(offer, query.disk_gb) for offer in offers if offer is not None], len(rows))


def _with_rate(offer: Offer, gigabytes: float) -> Offer:
    """Take the rate of disk from the total that was asked for, where the offer states only that."""
    if offer.storage_gb_month_nano is not None or gigabytes <= 0:
        return offer
    return replace(offer, storage_gb_month_nano=round(offer.disk_hour_nano * HOURS_IN_MONTH / gigabytes))
