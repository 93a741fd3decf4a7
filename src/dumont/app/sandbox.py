"""`dumont sandbox`: the marketplace alone, what it bills, and two of its logs compared."""

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from dumont.app.home import settle_clock
from dumont.app.marketplace import HOST, control
from dumont.core import SettingsError, load_settings

if TYPE_CHECKING:
    from dumont.sandbox import LedgerLine

_NANO = 1_000_000_000
_HEAD = f"{'INSTANCE':<11}{'MACHINE':<9}{'STATE':<11}{'$/HOUR':>9}{'GPU $':>12}{'DISK $':>12}{'TOTAL $':>12}  LABEL"


@click.group(invoke_without_command=True)
@click.option("--scenario", type=click.Path(path_type=Path), help="JSON file with seed, clock, market and faults.")
@click.option("--market", default="slack", help="Weather of the market: still, slack or busy.")
@click.option("--offers", default=300, help="About how many offers; 0 for a small fixed catalogue.")
@click.option("--seed", default=1, help="What the market is made from and faults are drawn from.")
@click.option("--credit", default="500", help="Dollars that the account starts with.")
@click.option("--start-seconds", default=0.2, help="Real seconds that a machine loads.")
@click.option("--rate-limits", is_flag=True, help="Enforce the documented intervals between calls.")
@click.pass_context
def sandbox(context: click.Context, /, **options: Any) -> None:
    """Run the sandbox marketplace alone, until Ctrl-C; its machines are processes on this computer."""
    if context.invoked_subcommand is not None:
        return
    from dumont.sandbox import SandboxRefused, SandboxSettings, run, with_scenario

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        settings = load_settings()
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        settings = settle_clock(settings)
        scenario, limits = options.pop("scenario"), options.pop("rate_limits")
        wanted = SandboxSettings(
            home=settings.home / "sandbox",
            port=settings.sandbox_port,
            clock=settings.clock,
            credit_usd=options.pop("credit"),
            rate_limits=limits,
            root_ok=os.getuid() == 0,
            **options,
        )
        run(wanted if scenario is None else with_scenario(wanted, scenario), lambda url: _tell(wanted.home, url))
    except (SandboxRefused, SettingsError, OSError) as error:
        _refuse(str(error))
    click.echo("Stopped. Its machines' folders are kept; the next start brings them back.")


@sandbox.command()
@click.option("--json", "as_json", is_flag=True, help="The whole bill as JSON, spans included.")
@click.option("--spans", is_flag=True, help="Each stretch of time at one rate as well.")
def bill(as_json: bool, spans: bool) -> None:
    """Show what the sandbox bills: machines, states, rates, totals."""
    statement = _statement()
    if as_json:
        click.echo(json.dumps(statement))
        return
    click.echo(
        f"{'INSTANCE':<11}{'MACHINE':<9}{'STATE':<11}{'$/HOUR':>9}{'GPU $':>12}{'DISK $':>12}{'TOTAL $':>12}  LABEL"
    )
    for line in statement["instances"]:
        money = "".join(f"{_dollars(line[name]):>12.6f}" for name in ("gpu_nanousd", "disk_nanousd", "total_nanousd"))
        rate = _dollars(line["rate_nanousd_hour"])
        head = f"{line['instance_id']:<11}{line['machine_id']:<9}{line['state']:<11}{rate:>9.4f}"
        click.echo(f"{head}{money}  {line['label'] or ''}".rstrip())
        for span in line["spans"] if spans else []:
            until = "now" if span["to"] is None else f"{span['to']:.3f}"
            click.echo(f"  {span['state']:<11}{span['from']:.3f} to {until}: ${_dollars(span['nanousd']):.9f}")
    rate, total = _dollars(statement["rate_nanousd_hour"]), _dollars(statement["total_nanousd"])
    click.echo(
        f"Now ${rate:.4f} an hour; ${total:.6f} so far; ${_dollars(statement['credit_nanousd']):.2f} credit left."
    )


@sandbox.command()
@click.argument("log", type=click.Path(path_type=Path))
@click.argument("other", type=click.Path(path_type=Path))
def compare(log: Path, other: Path) -> None:
    """Compare two logs of one scenario (journal.jsonl); exit 1 with the first lines that differ."""
    from dumont.sandbox import first_difference, read_journal

    try:
        difference = first_difference(read_journal(log), read_journal(other))
    except (OSError, ValueError) as error:
        _refuse(str(error))
    if difference is None:
        click.echo("The same requests and the same decisions, for every entity.")
        return
    for path, line in zip((log, other), difference, strict=True):
        click.echo(f"{path}: {'nothing more' if line is None else json.dumps(line)}")
    raise click.exceptions.Exit(1)


def _statement() -> dict[str, Any]:
    from dumont.sandbox import SandboxControlError

    try:
        settings = load_settings()
        market = control(settings, settings.sandbox_url or f"http://{HOST}:{settings.sandbox_port}")
        state, ledger = market.state(), market.ledger()
    except (OSError, SandboxControlError, SettingsError) as error:
        _refuse(f"No sandbox answers here ({error}). Start one with `dumont sandbox` or `dumont up`.")
    phases = {machine["instance_id"]: machine["phase"] for machine in state["machines"]}
    lines = [_line(line, phases.get(line.instance_id, "gone")) for line in ledger]
    return {
        "now": state["now"],
        "credit_nanousd": state["credit_nanousd"],
        "rate_nanousd_hour": sum(line["rate_nanousd_hour"] for line in lines),
        "total_nanousd": sum(line["total_nanousd"] for line in lines),
        "instances": lines,
    }


def _line(line: "LedgerLine", state: str) -> dict[str, Any]:
    running = [span for span in line.spans if span["to"] is None]
    rate = sum(span["gpu_rate_nanousd_hour"] + span["disk_rate_nanousd_hour"] for span in running)
    return {**vars(line), "state": state, "rate_nanousd_hour": rate}


def _tell(home: Path, url: str) -> None:
    lines = [
        f"The sandbox marketplace answers at {url}. Its machines are processes on this computer; nothing is paid.",
        f"Key:     {home / 'api.key'}",
        f"Client:  VAST_URL={url} VAST_API_KEY=$(cat {home / 'api.key'}) vastai search offers",
        "Bill:    dumont sandbox bill",
        "Ctrl-C stops it and all its machines.",
    ]
    click.echo("\n".join(lines))


def _dollars(nano: int) -> float:
    return nano / _NANO


def _refuse(text: str) -> NoReturn:
    click.echo(text, err=True)
    raise click.exceptions.Exit(2)
