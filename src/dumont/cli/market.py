"""The command that finds what can be rented: offers."""

import sys
from typing import Any

import click

from dumont.cli import options as o
from dumont.cli.exit import ends_well
from dumont.cli.session import sign_in
from dumont.cli.tables import Column, show_json, show_table
from dumont.cli.words import gpus, memory, number, percent, price, short, text
from dumont.client import Offer, OfferPage

_COLUMNS = (
    Column("OFFER"),
    Column("GPU"),
    Column("VRAM", figures=True),
    Column("CPU", figures=True),
    Column("RAM", figures=True),
    Column("DISK", figures=True),
    Column("DOWN", figures=True),
    Column("RELIABLE", figures=True),
    Column("PRICE", figures=True),
    Column("PLACE"),
)


@click.command()
@o.offer_filters
@click.option("--sort", metavar="FIELD", help="price_hour (default), reliability, gpu_ram ...; -FIELD reverses.")
@o.limit(20, 100)
@o.as_json
@ends_well
def offers(sort: str | None, limit: int, as_json: bool, **filters: Any) -> None:
    """Show what can be rented now, cheapest first."""
    page = sign_in().client.offers(**filters, sort=sort, limit=limit)
    if as_json:
        show_json(page.raw)
        return
    warn_of_sources(page)
    show_table(_COLUMNS, (_row(offer) for offer in page.offers), empty="No offer fits these filters.")
    if page.next_cursor or (page.total or 0) > len(page.offers):
        total = f" of {page.total}" if page.total is not None else ""
        print(f"The first {len(page.offers)}{total}; --limit shows more.", file=sys.stderr)


def _row(offer: Offer) -> list[str]:
    return [
        short(offer.id),
        gpus(offer.gpu_name, offer.num_gpus),
        memory(offer.gpu_memory_mib) if offer.gpu_ram is None else number(offer.gpu_ram, " GB"),
        number(offer.cpu_cores),
        number(offer.cpu_ram, " GB"),
        number(offer.disk_space, " GB"),
        number(offer.inet_down, " Mbps"),
        percent(offer.reliability),
        price(offer.price_hour),
        text(offer.geolocation or offer.country),
    ]


def warn_of_sources(page: OfferPage) -> None:
    """Say on stderr which marketplaces did not answer just now."""
    for source in page.sources:
        if source.status not in ("ok", None):
            told = f" ({text(source.detail)})" if source.detail else ""
            print(f"Offers of {text(source.provider)} are {text(source.status)}{told}.", file=sys.stderr)
