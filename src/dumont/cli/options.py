"""Options and arguments that several commands share."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from dumont.cli.exit import CliError
from dumont.cli.words import text

F = TypeVar("F", bound=Callable[..., Any])

AT_LEAST_0 = click.FloatRange(min=0)

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document, nothing else.")
no_wait = click.option("--no-wait", is_flag=True, help="Return at once; the work goes on.")
name = click.argument("name", metavar="ID")
max_price = click.option("--max-price", type=AT_LEAST_0, metavar="USD", help="Per hour, at most.")

_FILTERS = (
    click.option("--gpu", "gpu_name", metavar="CARD", help="A100, 'RTX 4090' ...; several with commas."),
    click.option("--num-gpus", type=click.IntRange(0, 16), metavar="N", help="How many cards; 0 means none."),
    click.option("--min-gpu-ram", type=AT_LEAST_0, metavar="GB", help="Per card, at least."),
    click.option("--max-gpu-ram", type=AT_LEAST_0, metavar="GB", help="Per card, at most."),
    click.option("--min-price", type=AT_LEAST_0, metavar="USD", help="Per hour, at least."),
    max_price,
    click.option("--region", metavar="PLACE", help="Continents and countries, with commas: Europe, SA, Japan ..."),
    click.option("--country", metavar="PLACE", help="Countries, with commas: US, Brazil ..."),
    click.option("--min-reliability", type=click.FloatRange(0, 1), metavar="SHARE", help="0 to 1."),
    click.option("--verified", "verified_only", is_flag=True, default=None, help="Only verified hosts."),
    click.option("--min-disk", type=AT_LEAST_0, metavar="GB", help="Disk, at least."),
    click.option("--min-cpu", "min_cpu_cores", type=AT_LEAST_0, metavar="N", help="Processor cores, at least."),
    click.option("--min-ram", "min_cpu_ram", type=AT_LEAST_0, metavar="GB", help="Memory beside the cards', at least."),
    click.option("--min-down", "min_inet_down", type=AT_LEAST_0, metavar="MBPS", help="Download, at least."),
    click.option("--min-up", "min_inet_up", type=AT_LEAST_0, metavar="MBPS", help="Upload, at least."),
    click.option("--cuda", "cuda_version", metavar="VERSION", help="At least, such as 12.4."),
    click.option("--static-ip", is_flag=True, default=None, help="Only with an address that stays."),
)


def offer_filters(command: F) -> F:
    """Give a command the filters of the offer search, named as the API names them."""
    for option in reversed(_FILTERS):
        command = option(command)
    return command


def pairs(given: tuple[str, ...], option: str) -> dict[str, str]:
    """Read NAME=VALUE pairs of an option.

    Errors: CliError for one that is none.
    """
    found = {}
    for pair in given:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise CliError(f"{option} {text(pair)} is not NAME=VALUE.")
        found[key] = value
    return found


def limit(default: int, most: int) -> Callable[[F], F]:
    """Give a command `--limit`."""
    return click.option("--limit", type=click.IntRange(1, most), default=default, help="How many at most.")
