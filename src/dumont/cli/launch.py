"""The command that rents: launch."""

import sys
from typing import Any

import click

from dumont.cli import options as o
from dumont.cli.exit import CliError, ends_well
from dumont.cli.find import find_offer
from dumont.cli.keys import register_key
from dumont.cli.market import warn_of_sources
from dumont.cli.session import sign_in
from dumont.cli.verbs import settle
from dumont.cli.words import gpus, price, text
from dumont.client import ApiProblem, Client, Instance, Offer
from dumont.core import is_id

_OFFERS_LOOKED_AT = 5000
_TRIES = 3


@click.command()
@click.argument("offer", metavar="[OFFER]", required=False)
@o.offer_filters
@click.option("--image", help="Container image.")
@click.option("--disk", type=click.FloatRange(min=1), metavar="GB", help="Disk to rent.")
@click.option("--label", help="A name of your own.")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="May be given again.")
@click.option("--onstart", metavar="COMMAND", help="To run when the machine starts.")
@click.option("--label-set", multiple=True, metavar="KEY=VALUE", help="A label; may be given again.")
@click.option("--port", "ports", type=click.IntRange(1, 65535), multiple=True, help="To open; may be given again.")
@click.option("--retry", type=click.IntRange(1, 10), metavar="N", help="Try N machines at most (3); 1 means this only.")
@click.option("--interruptible", is_flag=True, help="Rent what a higher bid may take away.")
@click.option("--bid", type=click.FloatRange(0.001, 128), metavar="USD", help="Per hour, for an interruptible machine.")
@o.no_wait
@o.as_json
@ends_well
def launch(
    offer: str | None,
    image: str | None,
    disk: float | None,
    label: str | None,
    env: tuple[str, ...],
    onstart: str | None,
    label_set: tuple[str, ...],
    ports: tuple[int, ...],
    retry: int | None,
    interruptible: bool,
    bid: float | None,
    no_wait: bool,
    as_json: bool,
    **filters: Any,
) -> None:
    """Rent a machine: the OFFER named, or the cheapest that fits the filters."""
    if offer is not None and any(value is not None for name, value in filters.items() if name != "max_price"):
        raise CliError("Name an offer or give filters, not both.")
    rooms = [gb for gb in (filters["min_disk"], disk) if gb is not None]
    filters["min_disk"] = max(rooms, default=None)
    wanted: dict[str, Any] = {"image": image, "disk_size": disk, "label": label, "max_price": filters["max_price"]}
    wanted |= {"env": o.pairs(env, "--env"), "onstart_cmd": onstart, "labels": o.pairs(label_set, "--label-set")}
    wanted |= {"ports": ports, "attempts": retry, "bid": bid}
    if interruptible or bid is not None:
        filters["machine_type"] = "interruptible"
    signed = sign_in()
    register_key(signed)
    if offer is None:
        instance = _launch_cheapest(signed.client, filters, wanted)
    else:
        instance = signed.client.create_instance(_offer_id(signed.client, offer), **wanted)
    settle(signed.client, instance, "is running", no_wait=no_wait, as_json=as_json)


def _launch_cheapest(client: Client, query: dict[str, Any], wanted: dict[str, Any]) -> Instance:
    page = client.offers(**query, sort="price_hour", limit=_TRIES)
    if not page.offers:
        warn_of_sources(page)
        raise CliError("No offer fits. Loosen the filters, or see `dumont offers`.", code="no-matching-offer")
    for offer in page.offers[:-1]:
        instance = _rented(client, offer, wanted)
        if instance is not None:
            return instance
    _say_which(page.offers[-1])
    return client.create_instance(page.offers[-1].id, **wanted)


def _rented(client: Client, offer: Offer, wanted: dict[str, Any]) -> Instance | None:
    _say_which(offer)
    try:
        return client.create_instance(offer.id, **wanted)
    except ApiProblem as problem:
        if problem.code not in ("offer-gone", "offer-not-found"):
            raise
    print("That offer is gone; taking the next.", file=sys.stderr)
    return None


def _say_which(offer: Offer) -> None:
    place = text(offer.geolocation or offer.country)
    card = gpus(offer.gpu_name, offer.num_gpus)
    print(f"Cheapest that fits: {card} at {price(offer.price_hour)} in {place}, offer {offer.id}.", file=sys.stderr)


def _offer_id(client: Client, name: str) -> str:
    if is_id(name, "off"):
        return name
    looked_at = (offer for _, offer in zip(range(_OFFERS_LOOKED_AT), client.iter_offers(limit=100), strict=False))
    return find_offer(looked_at, name).id
