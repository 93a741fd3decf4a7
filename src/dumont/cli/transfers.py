"""The command that moves money between own accounts."""

import click

from dumont.cli import options as o
from dumont.cli.accounts import find_account
from dumont.cli.amounts import day, given
from dumont.cli.exit import ends_well
from dumont.cli.session import sign_in
from dumont.cli.transactions import show_recorded


@click.command()
@click.argument("amount")
@click.option("--from", "source", required=True, metavar="ACCOUNT", help="Name or id of the account that pays.")
@click.option("--to", "target", required=True, metavar="ACCOUNT", help="Name or id of the account that gets it.")
@click.option("--description", help="What it is for.")
@click.option("--date", "on", metavar="DATE", help="31/12/2026 or 2026-12-31; today without.")
@o.as_json
@ends_well
def transfer(amount: str, source: str, target: str, description: str | None, on: str | None, as_json: bool) -> None:
    """Move an amount from one of your accounts to another: both entries or none."""
    books = sign_in().client.books
    made = books.transfer(
        from_account_id=find_account(books, source)["id"],
        to_account_id=find_account(books, target)["id"],
        amount=given(amount),
        description=description,
        date=day(on),
    )
    show_recorded(books, made, as_json=as_json)
