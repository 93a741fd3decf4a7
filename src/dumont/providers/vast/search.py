"""Search Vast's market beyond the one page that it answers, and believe only what fulfils the query."""

from dumont.providers.contract import Offer, OfferQuery, ProviderUnreachable
from dumont.providers.vast.client import VastClient
from dumont.providers.vast.query import PAGE_ROWS, fulfils, search_body
from dumont.providers.vast.translate import offer_from

_MOST_PAGES = 20


async def search(client: VastClient, query: OfferQuery, *, provider: str) -> list[Offer]:
    """Return up to `query.limit` offers, cheapest first, one per machine and number of GPUs.

    Guarantees: an empty answer is believed only when given twice.
    Source: Vast answers 64 rows at most, so the next page asks for prices from the last one on; offer numbers churn,
    so a machine and its number of GPUs are the identity.
    """
    found: dict[tuple[str, int], Offer] = {}
    rows, junk = await _page(client, query, provider, None)
    if not rows and not junk:
        rows, junk = await _page(client, query, provider, None)
    for _ in range(_MOST_PAGES):
        before = len(found)
        for offer in rows:
            found.setdefault((offer.machine_id, offer.num_gpus), offer)
        good = [offer for offer in found.values() if fulfils(offer, query)]
        if len(rows) + junk < PAGE_ROWS or len(found) == before or len(good) >= query.limit:
            break
        rows, junk = await _page(client, query, provider, max(offer.price_hour_nano for offer in rows))
    offers = [offer for offer in found.values() if fulfils(offer, query)]
    return sorted(offers, key=lambda offer: (offer.price_hour_nano, offer.provider_offer_id))[: query.limit]


async def _page(
    client: VastClient, query: OfferQuery, provider: str, from_price_nano: int | None
) -> tuple[list[Offer], int]:
    """Return one page's offers and how many junk rows were dropped from it."""
    reply = await client.ask(
        "search", "POST", "/api/v0/bundles/", body=search_body(query, from_price_nano=from_price_nano)
    )
    rows = reply.get("offers") if isinstance(reply, dict) else None
    if not isinstance(rows, list):
        raise ProviderUnreachable("Vast.ai's answer holds no list of offers; the market is unknown.")
    offers = [offer_from(row, provider=provider) if isinstance(row, dict) else None for row in rows]
    kept = [offer for offer in offers if offer is not None]
    return kept, len(rows) - len(kept)
