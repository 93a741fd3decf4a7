"""The command that finds what can be rented: offers."""

import sys
from typing import Any

import click

from dumont.cli import options as o
from dumont.cli.exit import ends_well
from dumont.cli.session import sign_in
from dumont.cli.tables import Column, show_json, show_table
from dumont.cli.words import gpus, memory, now, number, percent, price, seconds_between, short, span, text
from dumont.client import Client, Offer, OfferPage, Source

_WATCH_SECONDS = 5.0
_MOST_A_PAGE = 100
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
@click.option("--exact", is_flag=True, help="--gpu names whole cards: 'RTX 4090' without 'RTX 4090 Ti'.")
@click.option("--interruptible", is_flag=True, help="What a higher bid may take away, at the lowest bid.")
@click.option("--provider", metavar="NAME", help="Of this marketplace; several with commas.")
@click.option("--disk", "disk_size", type=click.FloatRange(8, 10_000), metavar="GB", help="Disk in the prices (20).")
@click.option("--sort", metavar="FIELD", help="price_hour (default), performance_per_usd ...; -FIELD reverses.")
@o.limit(20, _MOST_A_PAGE)
@click.option("--all", "-a", "everything", is_flag=True, help="Show all that fit.")
@click.option("--max-age", type=click.FloatRange(0, 600), metavar="SECONDS", help="Ask anew for what is older (60).")
@click.option("--watch", "-w", is_flag=True, help="Show them again every five seconds until Ctrl-C.")
@o.as_json
@ends_well
def offers(
    exact: bool,
    interruptible: bool,
    limit: int,
    everything: bool,
    max_age: float | None,
    watch: bool,
    as_json: bool,
    **filters: Any,
) -> None:
    """Show what can be rented now, cheapest first, and how old that is."""
    query = {**filters, "gpu_match": "exact" if exact else None}
    query |= {"machine_type": "interruptible" if interruptible else None}
    query |= {"max_age_seconds": _WATCH_SECONDS if watch and max_age is None else max_age}
    client = sign_in().client

    def draw() -> None:
        page = _whole(client, query) if everything else client.offers(**query, limit=limit)
        if as_json:
            show_json(page.raw)
        else:
            _show(page)

    if not watch:
        draw()
        return
    from dumont.cli.live import again_and_again

    again_and_again(draw, _WATCH_SECONDS)


def _whole(client: Client, query: dict[str, Any]) -> OfferPage:
    """Return all pages as one; they go through one listing, whatever changes meanwhile."""
    first = page = client.offers(**query, limit=_MOST_A_PAGE)
    rows = list(first.offers)
    while page.next_cursor:
        page = client.offers(**query, limit=_MOST_A_PAGE, cursor=page.next_cursor)
        rows += page.offers
    raw = {**first.raw, "offers": [row.raw for row in rows], "count": len(rows), "next_cursor": None}
    return OfferPage(rows, first.total, None, first.as_of, first.sources, raw)


def _show(page: OfferPage) -> None:
    show_table(_COLUMNS, (_row(offer) for offer in page.offers), empty="No offer fits these filters.")
    sys.stdout.flush()
    if page.next_cursor or (page.total or 0) > len(page.offers):
        total = f" of {page.total}" if page.total is not None else ""
        print(f"The first {len(page.offers)}{total}; --limit shows more, --all shows all.", file=sys.stderr)
    for source in page.sources:
        _tell(source)


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
            _tell(source)


def _tell(source: Source) -> None:
    """Say on stderr how one marketplace answered, and how old that is; nothing where there is nothing to say."""
    facts = [] if source.status in ("ok", None) else [f"are {text(source.status)}"]
    if source.as_of is not None:
        facts.append(f"{span(seconds_between(source.as_of, now()))} old")
    told = f" ({text(source.detail)})" if source.detail else ""
    if facts or told:
        print(f"Offers of {text(source.provider)}: {', '.join(facts)}{told}.".replace(": are", " are"), file=sys.stderr)
