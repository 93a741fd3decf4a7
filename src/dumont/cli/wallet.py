"""Commands about money for machines: the wallet, how it may be spent, its statement, what was used."""

from decimal import Decimal
from typing import Any

import click

from dumont.cli import options as o
from dumont.cli.amounts import day, given, shown
from dumont.cli.exit import CliError, ends_well
from dumont.cli.session import sign_in
from dumont.cli.tables import Column, show_facts, show_json, show_table
from dumont.cli.words import UNKNOWN, moment, text
from dumont.client import Money, Wallet

_DECIMALS = 6
"""The wallet is kept in millionths of a dollar."""
_USAGE = (Column("FOR"), Column("HOURS", figures=True), Column("AMOUNT", figures=True))
_ENTRIES = (
    Column("DATE"),
    Column("WHAT"),
    Column("FOR"),
    Column("AMOUNT", figures=True),
    Column("BALANCE", figures=True),
)


@click.group(invoke_without_command=True)
@o.as_json
@click.pass_context
@ends_well
def wallet(context: click.Context, as_json: bool) -> None:
    """Show the team's wallet: balance, holds, what runs and how long it lasts."""
    if context.invoked_subcommand is None:
        _show(sign_in().client.wallet(), as_json=as_json)


@wallet.command("set")
@click.option("--mode", type=click.Choice(["showback", "prepaid"]), help="Only write use down, or pay for it ahead.")
@click.option("--low", "low_threshold", metavar="USD", help="Tell when less than this is available.")
@click.option("--auto-hibernate/--no-auto-hibernate", default=None, help="Hibernate when nothing more can be held.")
@click.option("--limit-hour", metavar="USD", help="Most that may be spent in an hour; `none` takes the limit away.")
@click.option("--limit-day", metavar="USD", help="The same in a day, UTC.")
@click.option("--limit-month", metavar="USD", help="The same in a month, UTC.")
@click.option("--hibernate-over-limit/--no-hibernate-over-limit", default=None, help="Beside refusing new launches.")
@o.as_json
@ends_well
def change(auto_hibernate: bool | None, as_json: bool, **wishes: Any) -> None:
    """Change how the wallet may be spent."""
    changes = {name: _number(name, value) for name, value in wishes.items() if value is not None}
    if auto_hibernate is not None:
        changes["auto_hibernate_at_zero"] = auto_hibernate
    if not changes:
        raise CliError("Nothing to change was given. See `dumont wallet set --help`.")
    _show(sign_in().client.change_wallet(**changes), as_json=as_json)


@wallet.command()
@click.option("--from", "first", metavar="DATE", help="From this day; the first of this month without.")
@click.option("--to", "last", metavar="DATE", help="To this day; today without.")
@o.as_json
@ends_well
def statement(first: str | None, last: str | None, as_json: bool) -> None:
    """Show the wallet's entries between two dates."""
    found = sign_in().client.wallet_statement(first=day(first), last=day(last))
    if as_json:
        show_json(found)
        return
    currency = str(found.get("currency"))
    rows = [_entry(row, currency) for row in found.get("entries") or []]
    show_table(_ENTRIES, rows, empty="No entries.")
    show_facts([(name, _plain(found.get(f"{name}_str"), currency)) for name in ("opening", "closing")])


@wallet.command()
@click.option("--by", type=click.Choice(["instance", "kind", "day"]), default="instance", help="What the sums are of.")
@click.option("--from", "first", metavar="TIME", help="RFC 3339; the beginning of this month without.")
@click.option("--to", "last", metavar="TIME", help="RFC 3339; now without.")
@o.as_json
@ends_well
def usage(by: str, first: str | None, last: str | None, as_json: bool) -> None:
    """Show what was charged for machines and disks."""
    found = sign_in().client.usage(group_by=by, first=first, last=last)
    if as_json:
        show_json(found)
        return
    rows = [
        [text(row["key"]), _figure(Decimal(row["quantity"]), 2), _document(row["amount"])] for row in found["usage"]
    ]
    show_table(_USAGE, rows, empty="Nothing was charged in this time.")
    show_facts([("total", _document(found["total"]))])


@wallet.command()
@click.argument("instance_id", metavar="INSTANCE")
@click.argument("amount", required=False)
@click.option("--reason", required=True, help="Why, in a few words; it stands in the statement.")
@o.as_json
@ends_well
def refund(instance_id: str, amount: str | None, reason: str, as_json: bool) -> None:
    """Give back what a machine was charged: an amount, or all that remains. For the operator."""
    wanted = None if amount is None else given(amount, _DECIMALS)
    found = sign_in().client.refund_usage(instance_id, wanted, reason)
    if as_json:
        show_json(found)
    else:
        show_facts([("given back", _document(found["amount"])), ("remaining", _document(found["remaining"]))])


def show_money(money: Money | None, decimals: int = 2) -> str:
    """Show an amount as people write it here: `US$ 1.234,56` under a Brazilian locale, else `$1,234.56`."""
    if money is None:
        return UNKNOWN
    return shown(f"{money.amount:.{decimals}f}", money.currency)


def _figure(value: Decimal, decimals: int) -> str:
    return shown(f"{value:.{decimals}f}", "")


def _show(found: Wallet, *, as_json: bool) -> None:
    if as_json:
        show_json(found.raw)
        return
    paid = found.mode == "prepaid"
    facts = [
        ("mode", text(found.mode)),
        ("balance", show_money(found.posted)),
        ("held", show_money(found.held)),
        ("available", show_money(found.available)),
        ("burn", f"{show_money(found.burn_hour, 4)}/h"),
        ("runs out", moment(found.runs_out_at) if paid else "never: use is only written down"),
        ("spent today", show_money(found.spent_day)),
        ("spent this month", show_money(found.spent_month)),
    ]
    for period in ("hour", "day", "month"):
        limit = getattr(found, f"limit_{period}")
        if limit is not None:
            facts.append((f"limit per {period}", show_money(limit)))
    if found.owed is not None and found.owed.amount:
        facts.append(("owed", show_money(found.owed)))
    show_facts(facts)


def _number(name: str, value: Any) -> Any:
    if not isinstance(value, str) or name == "mode":
        return value
    if value == "none" and name.startswith("limit_"):
        return None
    return given(value, _DECIMALS)


def _entry(row: dict[str, Any], currency: str) -> list[str]:
    sign = "-" if row["side"] == "debit" else ""
    amount, balance = _plain(sign + row["amount_str"], currency), _plain(row["balance_after_str"], currency)
    return [text(row["date"]), text(row["kind"]), text(row["description"]), amount, balance]


def _plain(amount: Any, currency: str) -> str:
    return show_money(Money(Decimal(str(amount)), currency), 6 if currency == "USD" else 2)


def _document(document: dict[str, Any]) -> str:
    return show_money(Money(Decimal(document["amount"]), document["currency"]), 6)
