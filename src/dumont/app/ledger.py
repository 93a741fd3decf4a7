"""`dumont ledger`: everything that must hold in the ledger, proved anew from its rows."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from dumont.app.existing import existing_database, in_sentences, known_secret
from dumont.app.suspense import credit, give_back, suspense
from dumont.cli import CliError, Column, ends_well, show_json, show_table
from dumont.core import load_settings

if TYPE_CHECKING:
    from dumont.ledger import Audit


@click.group("ledger")
def ledger() -> None:
    """The books: prove that they add up, decide about payments that fit no charge."""


ledger.add_command(suspense)
ledger.add_command(credit)
ledger.add_command(give_back)


@ledger.command("audit")
@click.option("--quiet-seconds", default=300.0, help="How long a clearing account may hold something (300).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, nothing else.")
@ends_well
def audit_command(quiet_seconds: float, as_json: bool) -> None:
    """Prove the whole ledger, whether or not Dumont runs; exit code 1 when anything does not add up."""
    with in_sentences("Nothing was changed."):
        settings = load_settings()
        with existing_database(settings, known_secret(settings)) as url:
            found = _audited(url, quiet_seconds)
    if as_json:
        show_json({"sound": found.sound, **asdict(found)})
    else:
        _show(found)
    if not found.sound:
        raise click.exceptions.Exit(1)


def _audited(url: str, quiet_seconds: float) -> "Audit":
    from psycopg.errors import UndefinedTable

    from dumont.ledger import audit

    try:
        return audit(url, clearing_quiet_seconds=quiet_seconds)
    except UndefinedTable as error:
        raise CliError("This database has no ledger yet. Bring it up to date with `dumont migrate`.") from error


def _show(found: "Audit") -> None:
    rows = [
        [check.name, "broken" if check.broken else "ok", str(check.broken), _named(check.broken, check.first)]
        for check in found.checks
    ]
    show_table([Column("RULE"), Column("STATE"), Column("BROKEN", figures=True), Column("WHERE")], rows, empty="-")
    counted = (
        f"{found.accounts} accounts, {found.entries} entries, {found.transfers} transfers, "
        f"{found.refusals} refusals, {found.holds} holds"
    )
    if found.sound:
        click.echo(f"The ledger adds up: {counted}.")
        return
    click.echo(
        f"The ledger does not add up ({counted}). Stop what posts, keep a backup (`dumont backup`), and report it with "
        "this output.",
        err=True,
    )


def _named(broken: int, first: list[str]) -> str:
    more = f" and {broken - len(first)} more" if broken > len(first) else ""
    return ", ".join(first) + more
