"""The command that shows an account between two days."""

from datetime import date

import click

from dumont.cli import options as o
from dumont.cli.accounts import find_account
from dumont.cli.amounts import day, shown
from dumont.cli.exit import ends_well
from dumont.cli.session import sign_in
from dumont.cli.tables import Column, show_facts, show_json, show_table
from dumont.cli.words import text

_COLUMNS = (
    Column("DATE"),
    Column("DESCRIPTION"),
    Column("KIND"),
    Column("AMOUNT", figures=True),
    Column("BALANCE", figures=True),
)


@click.command()
@click.argument("account")
@click.option("--from", "first", metavar="DATE", help="From this day; the first of this month without.")
@click.option("--to", "last", metavar="DATE", help="To this day; today without.")
@o.as_json
@ends_well
def statement(account: str, first: str | None, last: str | None, as_json: bool) -> None:
    """Show what happened on an account: opening, every entry, closing."""
    books = sign_in().client.books
    today = date.today()
    begin, end = day(first) or today.replace(day=1).isoformat(), day(last) or today.isoformat()
    found = books.statement(find_account(books, account)["id"], begin, end)
    if as_json:
        show_json(found)
        return
    currency = found["account"]["currency"]
    rows = []
    for entry in found["entries"]:
        minus = "-" if entry["side"] == "debit" else ""
        amounts = [shown(minus + entry["amount_str"], currency), shown(entry["running_str"], currency)]
        rows.append([text(entry["date"]), text(entry["description"]), text(entry["kind"]), *amounts])
    show_table(_COLUMNS, rows, empty="No entries in these days.")
    show_facts(
        [
            ("opening", shown(found["opening_str"], currency)),
            ("came in", shown(found["total_credits_str"], currency)),
            ("went out", shown(found["total_debits_str"], currency)),
            ("closing", shown(found["closing_str"], currency)),
        ]
    )
