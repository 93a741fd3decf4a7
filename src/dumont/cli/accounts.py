"""Commands about a person's accounts and categories, and the ways to name them."""

from typing import Any

import click

from dumont.cli import options as o
from dumont.cli.amounts import given, shown
from dumont.cli.exit import CliError, ends_well
from dumont.cli.session import sign_in
from dumont.cli.tables import Column, show_json, show_table
from dumont.cli.words import short, text
from dumont.client import Books

_ACCOUNTS = (
    Column("ID"),
    Column("NAME"),
    Column("TYPE"),
    Column("BALANCE", figures=True),
    Column("HELD", figures=True),
    Column("AVAILABLE", figures=True),
)
_CATEGORIES = (Column("ID"), Column("NAME"), Column("TYPE"))
_KINDS = click.Choice(["checking", "savings", "investment", "credit", "cash"])
_SHORTEST = 3


@click.group(invoke_without_command=True)
@click.option("--all", "-a", "everything", is_flag=True, help="Closed ones too.")
@o.as_json
@click.pass_context
@ends_well
def accounts(context: click.Context, everything: bool, as_json: bool) -> None:
    """Show your accounts and what is on them."""
    if context.invoked_subcommand is None:
        rows = sign_in().client.books.accounts(include_inactive=everything)
        if as_json:
            show_json({"accounts": rows, "count": len(rows)})
        else:
            _show(rows)


@accounts.command("add")
@click.argument("name")
@click.option("--type", "kind", type=_KINDS, default="checking", show_default=True, help="What kind of account.")
@click.option("--currency", default="BRL", show_default=True, help="BRL or USD.")
@click.option("--opening", metavar="AMOUNT", help="What is on it already, such as 'R$ 1.234,56'.")
@click.option("--overdraft", metavar="AMOUNT", help="How far it may go below zero (checking and credit).")
@o.as_json
@ends_well
def add_account(name: str, kind: str, currency: str, opening: str | None, overdraft: str | None, as_json: bool) -> None:
    """Open an account."""
    made = sign_in().client.books.open_account(
        name=name,
        type=kind,
        currency=currency.upper(),
        opening_balance=None if opening is None else given(opening),
        overdraft_limit=None if overdraft is None else given(overdraft),
    )
    _told(made, as_json=as_json)


@accounts.command("change")
@click.argument("name", metavar="ACCOUNT")
@click.option("--name", "new_name", help="What to call it.")
@click.option("--overdraft", metavar="AMOUNT", help="How far it may go below zero.")
@o.as_json
@ends_well
def change(name: str, new_name: str | None, overdraft: str | None, as_json: bool) -> None:
    """Rename an account, or change its overdraft limit."""
    books = sign_in().client.books
    limit = None if overdraft is None else given(overdraft)
    _told(books.change_account(find_account(books, name)["id"], name=new_name, overdraft_limit=limit), as_json=as_json)


@accounts.command("close")
@click.argument("name", metavar="ACCOUNT")
@o.as_json
@ends_well
def close(name: str, as_json: bool) -> None:
    """Close an empty account; what happened on it stays."""
    books = sign_in().client.books
    done = books.close_account(find_account(books, name)["id"])
    if as_json:
        show_json(done)
    else:
        print(text(done.get("message")))


@click.group(invoke_without_command=True)
@o.as_json
@click.pass_context
@ends_well
def categories(context: click.Context, as_json: bool) -> None:
    """Show what you sort income and expenses by."""
    if context.invoked_subcommand is None:
        rows = sign_in().client.books.categories()
        if as_json:
            show_json({"categories": rows, "count": len(rows)})
            return
        cells = [[short(row["id"]), text(row["name"]), text(row["type"])] for row in rows]
        show_table(_CATEGORIES, cells, empty="No categories. `dumont categories add NAME --type expense` makes one.")


@categories.command("add")
@click.argument("name")
@click.option("--type", "kind", type=click.Choice(["income", "expense"]), required=True, help="What it sorts.")
@o.as_json
@ends_well
def add_category(name: str, kind: str, as_json: bool) -> None:
    """Make a category."""
    made = sign_in().client.books.add_category(name, kind)
    if as_json:
        show_json(made)
    else:
        print(f"Category {text(made['name'])} ({kind}) is made: {made['id']}.")


@categories.command("delete")
@click.argument("name", metavar="CATEGORY")
@o.as_json
@ends_well
def delete_category(name: str, as_json: bool) -> None:
    """Take a category out of use; what was recorded under it stays."""
    books = sign_in().client.books
    done = books.delete_category(find_category(books, name)["id"])
    if as_json:
        show_json(done)
    else:
        print(text(done.get("message")))


def find_account(books: Books, name: str) -> dict[str, Any]:
    """Return the one account that a name, an id or a part of an id means. Errors: CliError."""
    return _only(books.accounts(), name, "account", "`dumont accounts` lists them.")


def find_category(books: Books, name: str, kind: str | None = None) -> dict[str, Any]:
    """Return the one category that a name or an id means, of one type where it is given. Errors: CliError."""
    rows = [row for row in books.categories() if kind in (None, row["type"])]
    return _only(rows, name, "category", "`dumont categories` lists them.")


def _only(rows: list[dict[str, Any]], name: str, noun: str, where: str) -> dict[str, Any]:
    found = [row for row in rows if name in (row["id"], row["name"])]
    found = found or [row for row in rows if str(row["name"]).casefold() == name.casefold()]
    if not found and len(name) >= _SHORTEST:
        found = [row for row in rows if str(row["id"]).endswith(name.upper())]
    if len(found) == 1:
        return found[0]
    if not found:
        raise CliError(f"No {noun} is called that. {where}", code=f"{noun}-not-found")
    named = ", ".join(f"{row['id']} ({text(row['type'])})" for row in found)
    raise CliError(f"Several fit: {named}. Give more of the id.", code="ambiguous")


def _show(rows: list[dict[str, Any]]) -> None:
    cells = []
    for row in rows:
        amounts = [shown(row.get(name), row["currency"]) for name in ("balance_str", "held_str", "available_str")]
        closed = "" if row.get("is_active") else " (closed)"
        cells.append([short(row["id"]), text(row["name"]) + closed, text(row["type"]), *amounts])
    show_table(_ACCOUNTS, cells, empty="No accounts. `dumont accounts add NAME` opens one.")


def _told(account: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(account)
    else:
        _show([account])
