"""Find offers on the configured marketplaces and remember them under stable ids."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import new_id
from dumont.market.model import KnownOffer, NoMatchingOffer, OfferNotFound, explain, offer_from_json, offer_to_json
from dumont.providers import Offer, OfferQuery, Provider, ProviderError

Providers = Mapping[str, Provider]
_KEEP = text(
    "SELECT machine_id, num_gpus, id "
    "FROM dumont_keep_offers(:id, :provider, :machine_type, :wish, :as_of, :complete, CAST(:offers AS jsonb))"
)


@dataclass(frozen=True)
class Listed:
    """An offer with the id under which it can be launched."""

    id: str
    offer: Offer


async def search(provider: Provider, query: OfferQuery) -> list[Offer]:
    """Ask a marketplace, outside any transaction, and sort by price.

    Errors: the problems of `explain`.
    """
    try:
        found = await provider.offers(query)
    except ProviderError as error:
        raise explain(error) from error
    return sorted(found, key=lambda offer: (offer.price_hour_nano, offer.machine_id, offer.num_gpus))


async def remember(session: AsyncSession, offers: Sequence[Offer], as_of: datetime) -> list[Listed]:
    """Store offers and return them with their stable ids, in the same order."""
    if not offers:
        return []
    documents = [{**offer_to_json(offer), "id": new_id("off")} for offer in offers]
    values: dict[str, Any] = {"id": new_id("lst"), "provider": offers[0].provider}
    values |= {
        "machine_type": offers[0].machine_type,
        "wish": "unshared",
        "as_of": as_of,
        "complete": False,
        "offers": json.dumps(documents),
    }
    ids = {(row[0], row[1]): row[2] for row in (await session.execute(_KEEP, values)).all()}
    return [Listed(ids[(offer.machine_id, offer.num_gpus)], offer) for offer in offers]


async def known_offer(session: AsyncSession, offer_id: str) -> Offer:
    """Read an offer by our id, as it was last seen.

    Errors: OfferNotFound.
    """
    row = (await session.scalars(select(KnownOffer).where(KnownOffer.id == offer_id))).one_or_none()
    if row is None:
        raise OfferNotFound("No offer has this id. List the offers and choose one of them.")
    return offer_from_json(row.document)


async def best_like(
    provider: Provider, offer: Offer, *, disk_gb: float, max_price_hour_nano: int | None, avoid: Sequence[str]
) -> Offer:
    """Find the cheapest offer with the same GPUs as `offer` on a machine that is not to be avoided.

    Errors: NoMatchingOffer, and the problems of `explain`.
    """
    query = OfferQuery(
        gpu_name=offer.gpu_name,
        num_gpus=offer.num_gpus,
        max_price_hour_nano=max_price_hour_nano,
        min_disk_gb=disk_gb,
        disk_gb=disk_gb,
        machine_type=offer.machine_type,
    )
    for found in await search(provider, query):
        if found.machine_id not in avoid and found.gpu_memory_mib >= offer.gpu_memory_mib:
            return found
    raise NoMatchingOffer(
        f"No other machine offers {offer.num_gpus} x {offer.gpu_name} within your limits now. Raise the price or wait."
    )
