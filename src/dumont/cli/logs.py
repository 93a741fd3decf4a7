"""The command that shows what a machine's container wrote: logs."""

import time

import click

from dumont.cli import options as o
from dumont.cli.exit import ends_well
from dumont.cli.find import find_instance
from dumont.cli.session import sign_in
from dumont.cli.tables import show_json

_PAUSE_SECONDS = 2.0
_FOLLOWED = 1000
_OVERLAP = 50


@click.command()
@o.name
@click.option("--tail", type=click.IntRange(1, 5000), default=200, help="How many lines at most.")
@click.option("--follow", "-f", is_flag=True, help="Go on showing new lines until Ctrl-C.")
@o.as_json
@ends_well
def logs(name: str, tail: int, follow: bool, as_json: bool) -> None:
    """Show the last lines that the machine's container wrote, as its provider has them."""
    client = sign_in().client
    instance_id = find_instance(client, name).id
    lines = client.logs(instance_id, tail=tail)
    if as_json:
        show_json({"lines": lines, "count": len(lines)})
        return
    for line in lines:
        print(_plain(line))
    try:
        while follow:
            time.sleep(_PAUSE_SECONDS)
            newer = client.logs(instance_id, tail=_FOLLOWED)
            for line in unseen(lines, newer):
                print(_plain(line), flush=True)
            lines = newer
    except KeyboardInterrupt:
        return


def unseen(before: list[str], now: list[str]) -> list[str]:
    """Return the lines of `now` behind the last place where `before` ends; all of them where the two do not meet."""
    if now[: len(before)] == before:
        return now[len(before) :]
    end = before[-_OVERLAP:]
    for at in range(len(now), 0, -1):
        size = min(at, len(end))
        if now[at - size : at] == end[len(end) - size :]:
            return now[at:]
    return now


def _plain(line: str) -> str:
    """Take out what could drive a terminal; tabs stay."""
    return "".join(sign for sign in line if sign.isprintable() or sign == "\t")
