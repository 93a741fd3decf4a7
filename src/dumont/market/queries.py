"""What is read of offers and their listings, and the one function that writes them."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import new_id
from dumont.market.listing import Listing
from dumont.market.model import KnownOffer, offer_from_json, offer_to_json
from dumont.providers import Offer

_KEEP = text(
    "SELECT machine_id, num_gpus, id "
    "FROM dumont_keep_offers(:id, :provider, :machine_type, :wish, :as_of, :complete, CAST(:offers AS jsonb))"
)
_NEWEST = text(
    "SELECT id, as_of FROM offer_listing "
    "WHERE provider = :provider AND machine_type = :machine_type AND wish = :wish AND as_of <= :now "
    "ORDER BY as_of DESC LIMIT 1"
)
_LISTING = text("SELECT id, provider, as_of, complete, offers FROM offer_listing WHERE id = :id")
_PRICES = text(
    "SELECT at, gpu_hour_nano, storage_gb_month_nano FROM offer_price WHERE offer_id = :id AND at <= :now ORDER BY at"
)


async def market_moved(session: AsyncSession, provider: str) -> datetime | None:
    """Return when any team last took a machine from a marketplace or gave one back."""
    statement = text("SELECT dumont_market_moved(:provider)")
    moved: datetime | None = (await session.execute(statement, {"provider": provider})).scalar_one()
    return moved


async def newest_listing(
    session: AsyncSession, *, provider: str, machine_type: str, wish: str, now: datetime
) -> tuple[str, datetime] | None:
    """Return the id and the moment of the newest listing that any process has kept."""
    values = {"provider": provider, "machine_type": machine_type, "wish": wish, "now": now}
    row = (await session.execute(_NEWEST, values)).one_or_none()
    return None if row is None else (row.id, row.as_of)


async def read_listing(session: AsyncSession, listing_id: str) -> Listing | None:
    """Read one listing; None once it is no longer kept."""
    row = (await session.execute(_LISTING, {"id": listing_id})).one_or_none()
    if row is None:
        return None
    offers = tuple((document["id"], offer_from_json(document)) for document in row.offers)
    return Listing(row.id, row.provider, row.as_of, row.complete, offers)


async def keep_listing(
    session: AsyncSession,
    offers: Sequence[Offer],
    *,
    provider: str,
    machine_type: str,
    wish: str,
    as_of: datetime,
    complete: bool,
) -> Listing:
    """Write down what a marketplace answered, in one statement; each offer keeps the id that it ever had."""
    documents = [{**offer_to_json(offer), "id": new_id("off")} for offer in offers]
    values: dict[str, Any] = {"id": new_id("lst"), "provider": provider, "machine_type": machine_type, "wish": wish}
    values |= {"as_of": as_of, "complete": complete, "offers": json.dumps(documents)}
    ids = {(row[0], row[1]): row[2] for row in (await session.execute(_KEEP, values)).all()}
    kept = tuple((ids[offer.machine_id, offer.num_gpus], offer) for offer in offers)
    return Listing(values["id"], provider, as_of, complete, kept)


async def find_offer(session: AsyncSession, offer_id: str) -> tuple[Offer, datetime] | None:
    """Return an offer as it was last seen, and when that was."""
    row = (await session.scalars(select(KnownOffer).where(KnownOffer.id == offer_id))).one_or_none()
    return None if row is None else (offer_from_json(row.document), row.as_of)


async def price_changes(session: AsyncSession, offer_id: str, now: datetime) -> list[tuple[datetime, int, int | None]]:
    """Return the moments of the last 24 hours from which on an offer had a new price; the first is the one before.

    Shapes: (since, nano-dollars per hour for the GPUs, nano-dollars per GB-month of disk).
    """
    rows = (await session.execute(_PRICES, {"id": offer_id, "now": now})).all()
    begin = now - timedelta(hours=24)
    older = [row for row in rows if row.at < begin]
    return [(row[0], row[1], row[2]) for row in [*older[-1:], *(row for row in rows if row.at >= begin)]]
