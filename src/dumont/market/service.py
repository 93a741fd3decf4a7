"""Choose among offers: pages of them for people, one by its id, and the best like another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import is_id
from dumont.market import queries
from dumont.market.cache import Offers, Source
from dumont.market.listing import Listed
from dumont.market.model import NoMatchingOffer, OfferNotFound, ProviderDown, explain
from dumont.market.order import Cursor, Order, bad_cursor, in_order, write_cursor
from dumont.providers import Offer, OfferQuery, Provider, ProviderError, checks

Providers = Mapping[str, Provider]


@dataclass(frozen=True)
class Found:
    """One page of offers. `total` is None where a marketplace has more than it listed."""

    shown: Sequence[Listed]
    sources: Sequence[Source]
    total: int | None
    next_cursor: str | None


async def first_sources(
    offers: Offers, names: Sequence[str], query: OfferQuery, max_age_seconds: float
) -> Sequence[Source]:
    """Ask the cache about marketplaces, in turn.

    Errors: the first marketplace's problem where none has anything to show.
    """
    sources = [await offers.look(name, query, max_age_seconds) for name in names]
    if all(source.listing is None for source in sources):
        raise sources[0].problem or ProviderDown("No marketplace answered.")
    return sources


async def same_sources(offers: Offers, cursor: Cursor) -> Sequence[Source]:
    """Return the listings that a cursor goes through.

    Errors: InvalidRequest where one of them is no longer kept.
    """
    sources = []
    for provider, listing_id, status in cursor.sources:
        listing = None if listing_id is None else await offers.again(listing_id)
        if (listing is None) != (listing_id is None) or (listing is not None and listing.provider != provider):
            raise bad_cursor("Is too old: its listing is no longer kept. Ask for the first page again.")
        sources.append(Source(provider, status, listing))
    if all(source.listing is None for source in sources):
        raise bad_cursor("Must be the next_cursor of the page before.")
    return sources


def choose(sources: Sequence[Source], query: OfferQuery, order: Order, *, start: int, limit: int) -> Found:
    """Return one page of what fits: every filter is applied before the page is cut."""
    tests = checks(query)
    listings = [source.listing for source in sources if source.listing is not None]
    priced = (listed for listing in listings for listed in listing.priced(query.disk_gb))
    fitting = in_order((one for one in priced if all(test(one.offer) for test in tests)), order)
    following = None
    if start + limit < len(fitting):
        names = tuple((one.provider, one.listing.id if one.listing else None, one.status) for one in sources)
        following = write_cursor(Cursor(start + limit, names), query, order)
    complete = all(listing.complete for listing in listings)
    return Found(fitting[start : start + limit], sources, len(fitting) if complete else None, following)


async def find_offer(session: AsyncSession, offer_id: str) -> tuple[Offer, datetime]:
    """Read an offer by our id, as it was last seen, and when that was; priced for a disk of 20 GB.

    Errors: OfferNotFound.
    """
    found = await queries.find_offer(session, offer_id) if is_id(offer_id, "off") else None
    if found is None:
        raise OfferNotFound("No offer has this id. List the offers and choose one of them.")
    return found


async def known_offer(session: AsyncSession, offer_id: str, *, disk_gb: float | None = None) -> Offer:
    """Read an offer by our id, as it was last seen, priced for that much disk, or else for 20 GB.

    Errors: OfferNotFound.
    """
    offer, _ = await find_offer(session, offer_id)
    return offer if disk_gb is None else offer.with_disk(disk_gb)


async def best_like(
    provider: Provider, offer: Offer, *, disk_gb: float, max_price_hour_nano: int | None, avoid: Sequence[str]
) -> Offer:
    """Find the cheapest offer with the same GPUs as `offer` on a machine that is not to be avoided.

    Guarantees: asks the marketplace now, never the cache.
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
    try:
        listed = await provider.offers(query)
    except ProviderError as error:
        raise explain(error) from error
    for found in sorted(listed, key=lambda one: (one.price_hour_nano, one.machine_id, one.num_gpus)):
        if found.machine_id not in avoid and found.gpu_memory_mib >= offer.gpu_memory_mib:
            return found
    raise NoMatchingOffer(
        f"No other machine offers {offer.num_gpus} x {offer.gpu_name} within your limits now. Raise the price or wait."
    )
