"""Commands about what a person records: add, list, edit, delete, and files of banks."""

import base64
import itertools
import sys
from datetime import date
from pathlib import Path
from typing import Any

import click

from dumont.cli import options as o
from dumont.cli.accounts import find_account, find_category
from dumont.cli.amounts import day, given, is_brazilian, shown
from dumont.cli.exit import CliError, ends_well
from dumont.cli.session import sign_in
from dumont.cli.tables import Column, show_json, show_table
from dumont.cli.words import short, text
from dumont.client import Books
from dumont.core import is_id

_COLUMNS = (
    Column("ID"),
    Column("DATE"),
    Column("TYPE"),
    Column("DESCRIPTION"),
    Column("CATEGORY"),
    Column("AMOUNT", figures=True),
    Column("STATUS"),
)
_MOVEMENTS = (
    Column("LINE", figures=True),
    Column("DATE"),
    Column("DESCRIPTION"),
    Column("AMOUNT", figures=True),
    Column("STATUS"),
)
_KINDS = click.Choice(["income", "expense"])
_SEARCHED = 2000
_account = click.option("--account", metavar="ACCOUNT", help="Name or id of the account.")
_category = click.option("--category", metavar="CATEGORY", help="Name or id of the category.")
_tags = click.option("--tag", "tags", multiple=True, metavar="WORD", help="A tag; may be given again.")
_date = click.option("--date", "on", metavar="DATE", help="31/12/2026 or 2026-12-31.")


@click.group(invoke_without_command=True)
@_account
@_category
@click.option("--type", "kind", type=click.Choice(["income", "expense", "transfer"]), help="Only these.")
@click.option("--from", "first", metavar="DATE", help="From this day.")
@click.option("--to", "last", metavar="DATE", help="To this day.")
@click.option("--tag", metavar="WORD", help="With this tag.")
@click.option("--search", metavar="WORDS", help="With these words in the description.")
@click.option("--sort", metavar="FIELD", help="date, amount, created_at; -FIELD reverses (-date).")
@click.option("--deleted", is_flag=True, help="Deleted ones too.")
@o.limit(50, 10_000)
@o.as_json
@click.pass_context
@ends_well
def transactions(context: click.Context, /, limit: int, as_json: bool, **wishes: Any) -> None:
    """Show what you recorded, the latest day first."""
    if context.invoked_subcommand is not None:
        return
    books = sign_in().client.books
    filters = {"type": wishes["kind"], "tag": wishes["tag"], "q": wishes["search"], "sort": wishes["sort"]}
    filters |= {"start_date": day(wishes["first"]), "end_date": day(wishes["last"])}
    filters |= {"include_reversed": wishes["deleted"] or None, "limit": min(limit, 100)}
    filters |= _named(books, wishes["account"], wishes["category"], wishes["kind"])
    rows = list(itertools.islice(books.iter_transactions(**filters), limit))
    if as_json:
        show_json({"transactions": rows, "count": len(rows)})
    else:
        _show(books, rows)


@transactions.command()
@click.argument("kind", metavar="income|expense", type=_KINDS)
@click.argument("amount")
@click.argument("description")
@click.option("--account", required=True, metavar="ACCOUNT", help="Name or id of the account.")
@click.option("--category", required=True, metavar="CATEGORY", help="Name or id of the category.")
@_date
@_tags
@o.as_json
@ends_well
def add(
    kind: str, amount: str, description: str, account: str, category: str, on: str | None, tags: tuple[str, ...],
    as_json: bool,
) -> None:  # fmt: skip
    """Record income or an expense, such as: add expense 'R$ 52,30' Bakery --account Everyday --category Food."""
    books = sign_in().client.books
    made = books.record(
        type=kind,
        amount=given(amount),
        description=description,
        date=day(on) or date.today().isoformat(),
        tags=list(tags) or None,
        **_named(books, account, category, kind),
    )
    show_recorded(books, made, as_json=as_json)


@transactions.command()
@click.argument("name", metavar="TRANSACTION")
@click.option("--amount", metavar="AMOUNT", help="What it was.")
@click.option("--description", help="What it was for.")
@_account
@_category
@_date
@_tags
@o.as_json
@ends_well
def edit(name: str, account: str | None, category: str | None, as_json: bool, **wishes: Any) -> None:
    """Correct a transaction: its entries are reversed and made anew, its id stays."""
    books = sign_in().client.books
    found = find_transaction(books, name)
    changes = {"description": wishes["description"], "date": day(wishes["on"]), "tags": list(wishes["tags"]) or None}
    changes |= {"amount": None if wishes["amount"] is None else given(wishes["amount"])}
    changes |= _named(books, account, category, found["type"])
    if not any(changes.values()):
        raise CliError("Nothing to change was given. See `dumont transactions edit --help`.")
    show_recorded(books, books.edit(found["id"], **changes), as_json=as_json)


@transactions.command()
@click.argument("name", metavar="TRANSACTION")
@click.option("--reason", help="Why; it is kept.")
@o.as_json
@ends_well
def delete(name: str, reason: str | None, as_json: bool) -> None:
    """Delete a transaction: its entries are reversed, nothing is removed."""
    books = sign_in().client.books
    done = books.delete(find_transaction(books, name)["id"], reason)
    if as_json:
        show_json(done)
    else:
        print(text(done.get("message")))


@transactions.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--account", required=True, metavar="ACCOUNT", help="Name or id of the account that it tells of.")
@click.option("--income-category", metavar="CATEGORY", help="For what came in; `Imported` without.")
@click.option("--expense-category", metavar="CATEGORY", help="For what went out; `Imported` without.")
@click.option("--dry-run", is_flag=True, help="Only show what would be added.")
@o.as_json
@ends_well
def take_in(
    file: Path, account: str, income_category: str | None, expense_category: str | None, dry_run: bool, as_json: bool
) -> None:
    """Take in a bank's CSV or OFX file; a file that comes again adds nothing."""
    books = sign_in().client.books
    done = books.take_in(
        find_account(books, account)["id"],
        content_base64=base64.b64encode(file.read_bytes()).decode(),
        dry_run=dry_run,
        income_category_id=None if income_category is None else find_category(books, income_category, "income")["id"],
        expense_category_id=None
        if expense_category is None
        else find_category(books, expense_category, "expense")["id"],
    )
    if as_json:
        show_json(done)
        return
    rows = [
        [str(row["line"]), text(row["date"]), text(row["description"]), shown(row["amount_str"], ""), _state(row)]
        for row in done["lines"]
    ]
    show_table(_MOVEMENTS, rows, empty="The file has no movements.")
    verb = "would be added" if done["dry_run"] else "were added"
    print(f"{done['added']} {verb}, {done['known']} were known, {done['skipped']} skipped.", file=sys.stderr)


@transactions.command()
@click.argument("account")
@click.option("--format", "form", type=click.Choice(["csv", "csv-br", "ofx"]), help="csv-br under a Brazilian locale.")
@click.option("--from", "first", metavar="DATE", help="From this day; the first of this year without.")
@click.option("--to", "last", metavar="DATE", help="To this day; today without.")
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file.")
@ends_well
def export(account: str, form: str | None, first: str | None, last: str | None, output: Path | None) -> None:
    """Write an account's entries as CSV or OFX, to stdout or to a file."""
    books = sign_in().client.books
    today = date.today()
    chosen = form or ("csv-br" if is_brazilian() else "csv")
    begin, end = day(first) or f"{today.year}-01-01", day(last) or today.isoformat()
    content = books.statement_file(find_account(books, account)["id"], begin, end, chosen)
    if output is None:
        sys.stdout.write(content)
    else:
        output.write_text(content, encoding="utf-8", newline="")


def find_transaction(books: Books, name: str) -> dict[str, Any]:
    """Return the one transaction that an id or the end of one means. Errors: CliError."""
    if is_id(name, "txn"):
        return books.transaction(name)
    rows = itertools.islice(books.iter_transactions(include_reversed=True, limit=100), _SEARCHED)
    found = [row for row in rows if len(name) >= 3 and str(row["id"]).endswith(name.upper())]
    if len(found) != 1:
        what = "No transaction has" if not found else "Several transactions have"
        raise CliError(f"{what} an id with this end. `dumont transactions` lists them.", code="transaction-not-found")
    return found[0]


def _named(books: Books, account: str | None, category: str | None, kind: str | None) -> dict[str, Any]:
    """Return the ids that names of an account and a category mean."""
    found: dict[str, Any] = {}
    if account is not None:
        found["account_id"] = find_account(books, account)["id"]
    if category is not None:
        found["category_id"] = find_category(books, category, kind)["id"]
    return found


def _show(books: Books, rows: list[dict[str, Any]]) -> None:
    names = {row["id"]: row["name"] for row in books.categories()} if rows else {}
    cells = []
    for row in rows:
        minus = "-" if row["type"] == "expense" else ""
        amount = shown(minus + str(row["amount_str"]), row["currency"])
        sorted_by = text(names.get(row.get("category_id"), row.get("category_id")))
        head = [short(row["id"]), text(row["date"]), text(row["type"]), text(row["description"])]
        cells.append([*head, sorted_by, amount, text(row["status"])])
    show_table(_COLUMNS, cells, empty="Nothing is recorded here.")


def show_recorded(books: Books, made: dict[str, Any], *, as_json: bool) -> None:
    """Show a transaction that was just recorded, and say where it may be one too many."""
    if as_json:
        show_json(made)
        return
    _show(books, [made])
    if made.get("possible_duplicate_of"):
        print(
            f"The same was recorded within the last minute ({short(made['possible_duplicate_of'])}). "
            f"`dumont transactions delete {short(made['id'])}` takes this one back.",
            file=sys.stderr,
        )


def _state(row: dict[str, Any]) -> str:
    if row.get("possible_duplicate_of"):
        return f"{row['status']}, perhaps {short(row['possible_duplicate_of'])}"
    return text(row["status"])
