"""`dumont ledger suspense`, `credit` and `return`: what the operator decides about payments that fit no charge."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

import click

from dumont.app.existing import existing_database, in_sentences, known_secret
from dumont.cli import CliError, Column, ends_well, show_json, show_table, shown
from dumont.core import Settings, load_settings, plain_amount

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

T = TypeVar("T")
_COLUMNS = [Column("PAYMENT"), Column("AMOUNT", figures=True), Column("WHY"), Column("STATE"), Column("CHARGE")]


@click.command("suspense")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, nothing else.")
@ends_well
def suspense(as_json: bool) -> None:
    """Show the payments that fit no charge: they wait to be credited or sent back."""
    from dumont.billing import suspended

    found = _do(lambda session, settings: suspended(session))
    if as_json:
        rows = [{**asdict(one), "rate": None, "paid_at": one.paid_at.isoformat()} for one in found]
        show_json({"payments": rows, "count": len(rows)})
        return
    lines = [
        [one.end_to_end_id, shown(plain_amount(one.amount, 2), "BRL"), one.reason, one.fate, one.topup_id or "-"]
        for one in found
    ]
    show_table(_COLUMNS, lines, empty="No payment waits for a decision.")


@click.command("credit")
@click.argument("payment")
@click.option("--team", "team_id", help="Whose wallet, where the payment names no charge of ours.")
@ends_well
def credit(payment: str, team_id: str | None) -> None:
    """Put a payment that was set aside into a wallet, at its charge's rate, else at today's."""
    from dumont.app.paying import todays_rate
    from dumont.billing import credit_suspended

    async def do(session: "AsyncSession", settings: Settings) -> int:
        rate = todays_rate(settings)
        return await credit_suspended(session, payment, team_id=team_id, rate=rate, now=settings.clock.now())

    click.echo(f"The wallet has it: {shown(plain_amount(_do(do), 6), 'USD')}.")


@click.command("return")
@click.argument("payment")
@ends_well
def give_back(payment: str) -> None:
    """Send a payment that was set aside back to its payer; a worker does it."""
    from dumont.billing import begin_return

    _do(lambda session, settings: begin_return(session, payment, settings.clock.now()))
    click.echo("A worker sends it back. `dumont ledger suspense` shows it until it has arrived.")


def _do(verb: "Callable[[AsyncSession, Settings], Awaitable[T]]") -> T:
    """Do something in one transaction over all teams of the installation's database."""
    from dumont.core import Problem

    with in_sentences("Nothing was changed."):
        settings = load_settings()
        with existing_database(settings, known_secret(settings)) as url:
            try:
                return asyncio.run(_in_session(url, settings, verb))
            except ValueError as error:
                raise CliError(str(error)) from error
            except Problem as problem:
                raise CliError(problem.detail or problem.title, code=problem.code) from problem


async def _in_session(url: str, settings: Settings, verb: "Callable[[AsyncSession, Settings], Awaitable[T]]") -> T:
    from dumont.db import Database, set_sweep

    database = Database(url, pool_size=1)
    try:
        async with database.begin() as session:
            await set_sweep(session)
            return await verb(session, settings)
    finally:
        await database.close()
