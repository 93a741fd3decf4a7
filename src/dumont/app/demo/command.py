"""The command `dumont demo`."""

import json
import os
import time

import click

from dumont.app.demo.claims import ClaimBroken, show_closing
from dumont.app.demo.story import Story
from dumont.app.home import StartError
from dumont.app.marketplace import control
from dumont.cli import ends_well, register_key, sign_in
from dumont.core import load_settings


@click.command()
@click.option("--nap", type=click.FloatRange(0, 86_400), default=3.0, help="Seconds to stay asleep, 3 by default.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON document.")
@ends_well
def demo(nap: float, as_json: bool) -> None:
    """Prove the main job: rent, work, hibernate, lose a host, wake elsewhere, compare every byte, count the money."""
    settings = load_settings()
    try:
        market = control(settings, f"http://127.0.0.1:{settings.sandbox_port}")
        market.state()
    except (OSError, StartError) as error:
        click.echo(f"The sandbox of {settings.home} does not answer ({error}). Start it with ./run.", err=True)
        raise click.exceptions.Exit(5) from error
    signed = sign_in()
    register_key(signed)
    story = Story(signed, market, f"demo-{os.getpid()}-{int(time.time())}", quiet=as_json, nap_seconds=nap)
    try:
        report = story.tell()
    except ClaimBroken as broken:
        click.echo(f"\n{broken}", err=True)
        raise click.exceptions.Exit(1) from broken
    if as_json:
        click.echo(json.dumps(report, indent=2, default=str))
        return
    show_closing(report)
