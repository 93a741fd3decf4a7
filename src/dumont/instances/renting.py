"""Rent a machine at most once per label, at a price that was agreed to, and write down which one it is."""

import math
import time
from dataclasses import replace
from typing import Any

from dumont.core import money_document
from dumont.durable import Run
from dumont.instances import rental_rows
from dumont.instances.model import Rental, RentInDoubt
from dumont.instances.release import found_by_label
from dumont.instances.world import World
from dumont.market import OfferTaken, PriceMoved, explain, offer_from_json, offer_to_json
from dumont.providers import (
    Offer,
    OfferQuery,
    Provider,
    ProviderError,
    ProviderUnreachable,
    RateLimited,
    RentRequest,
)

_KEY_SECONDS = 600.0
UNASKED_RISE = 1.02
"""How much dearer an offer may have become since it was chosen where no limit was set: rounding, not a rise."""


async def rent(run: Run, world: World, rental_id: str, wish: dict[str, Any]) -> dict[str, Any]:
    """Rent the machine that a rental row intends, at most once per label, and write down which one it is.

    Shapes: `highest_hour_nano` of the answer is what the machine may cost per hour, to be compared with what it says.
    Errors: OfferTaken, PriceMoved, RentInDoubt (release the rental and try under a new label), `explain`'s problems.
    """
    rental = await rental_rows.read_rental(world, run.team_id, rental_id)
    offer = offer_from_json(rental.offer)
    if rental.provider_machine_id is not None:
        return _answer(rental.provider_machine_id, offer, wish)
    provider = world.provider(rental.provider)
    try:
        if rental.state == "asked":
            machine_id = await found_by_label(run, world, provider, rental, patient=True)
        else:
            machine_id, offer = await _ask(world, provider, rental, wish)
    except ProviderError as error:
        raise explain(error) from error
    if machine_id is None:
        raise RentInDoubt("The rent was interrupted, and no machine of its label appeared. A new try is safe.")
    if not await rental_rows.write_rented(world, rental, machine_id, offer.disk_hour_nano, world.clock.now()):
        raise RentInDoubt("The rent was given up while its answer was under way. A new try is safe.")
    return _answer(machine_id, offer, wish)


def _answer(machine_id: str, offer: Offer, wish: dict[str, Any]) -> dict[str, Any]:
    limit = wish["max_price_hour_nano"]
    return {
        "machine": machine_id,
        "highest_hour_nano": round(offer.price_hour_nano * UNASKED_RISE) if limit is None else limit,
    }


async def _ask(world: World, provider: Provider, rental: Rental, wish: dict[str, Any]) -> tuple[str, Offer]:
    """Ask for the machine; the provider itself looks by label first. Returns the machine and its offer as it is now.

    Errors: the provider's where nothing was carried out, and it may be asked again; RentInDoubt.
    """
    await _ensure_key(world, provider)
    offer = await _fresh(provider, offer_from_json(rental.offer), wish)
    if not await rental_rows.write_asked(world, rental, offer_to_json(offer)):
        raise RentInDoubt("The rent was given up before anybody was asked. A new try is safe.")
    request = RentRequest(
        label=rental.label,
        offer=offer,
        image=wish["image"],
        disk_gb=wish["disk_gb"],
        env=wish["env"],
        onstart=wish["onstart_cmd"],
        ports=tuple(wish["ports"]),
        bid_hour_nano=bid_for(offer, wish),
    )
    try:
        return await provider.rent(request), offer
    except RateLimited:
        await rental_rows.write_not_asked(world, rental)
        raise
    except ProviderUnreachable as error:
        if error.not_sent:
            await rental_rows.write_not_asked(world, rental)
            raise
        raise RentInDoubt(f"The provider's answer was lost: {error}") from error


async def _ensure_key(world: World, provider: Provider) -> None:
    """See that the account has our key, not at every launch: a machine that is up gets it once more by itself."""
    now = time.monotonic()
    if now - world.keys_known.get(provider.name, -math.inf) < _KEY_SECONDS:
        return
    await provider.ensure_key(world.ssh.public_key)
    world.keys_known[provider.name] = now


async def _fresh(provider: Provider, offer: Offer, wish: dict[str, Any]) -> Offer:
    query = OfferQuery(
        num_gpus=offer.num_gpus,
        machine_id=offer.machine_id,
        machine_type=offer.machine_type,
        disk_gb=wish["disk_gb"],
    )
    found = [candidate for candidate in await provider.offers(query) if candidate.machine_id == offer.machine_id]
    if not found:
        raise OfferTaken("The offer was rented by somebody else. Search again and choose another one.")
    bid = bid_for(found[0], wish)
    _check_price(found[0], offer, wish["max_price_hour_nano"], bid)
    return with_bid(found[0], bid)


def bid_for(offer: Offer, wish: dict[str, Any]) -> int | None:
    """Return the bid of a wish where the offer takes bids: an instance keeps its bid wherever it goes."""
    bid: int | None = wish["bid_hour_nano"]
    return bid if offer.machine_type == "interruptible" else None


def _check_price(fresh: Offer, chosen: Offer, limit: int | None, bid: int | None) -> None:
    """Refuse a price above the limit, or above the bid; without either, one that has risen since the offer was chosen.

    The disk's part follows the wanted size and is not a rise. Errors: PriceMoved.
    """
    disk = fresh.disk_hour_nano
    stated = [most for most in (limit, None if bid is None else bid + disk) if most is not None]
    highest = min(stated) if stated else round(chosen.gpu_hour_nano * UNASKED_RISE) + disk
    if fresh.price_hour_nano > highest:
        raise too_dear(fresh.price_hour_nano, highest)


def with_bid(offer: Offer, bid_hour_nano: int | None) -> Offer:
    """Return an offer at what it costs whoever bids that much for its GPUs: one pays one's own bid."""
    if bid_hour_nano is None:
        return offer
    return replace(offer, gpu_hour_nano=bid_hour_nano, price_hour_nano=bid_hour_nano + offer.disk_hour_nano)


def too_dear(price_hour_nano: int, highest_hour_nano: int) -> PriceMoved:
    """Make the problem of a price above what was agreed to."""
    return PriceMoved(
        "The offer costs more now than when it was chosen. Choose again, or set the most that you would pay.",
        price_hour=money_document(price_hour_nano),
        price_hour_max=money_document(highest_hour_nano),
    )
