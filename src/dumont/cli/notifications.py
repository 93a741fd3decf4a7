"""Commands about what you were told: list it, and mark it as read."""

from typing import Any

import click

from dumont.cli import options as o
from dumont.cli.exit import CliError, ends_well
from dumont.cli.session import sign_in
from dumont.cli.tables import Column, show_json, show_table
from dumont.cli.words import UNKNOWN, text

_COLUMNS = (Column("NOTIFICATION"), Column("AT"), Column("READ"), Column("WHAT"))


@click.group(invoke_without_command=True)
@click.option("--unread", is_flag=True, help="Only what you have not read.")
@click.option("--limit", type=click.IntRange(1, 100), default=50, show_default=True, help="How many, latest first.")
@o.as_json
@click.pass_context
@ends_well
def notifications(context: click.Context, unread: bool, limit: int, as_json: bool) -> None:
    """Show what you were told, latest first."""
    if context.invoked_subcommand is not None:
        return
    found = sign_in().client.books.notifications(unread_only=unread, limit=limit)
    if as_json:
        show_json(found)
        return
    rows = [_row(one) for one in found.get("notifications") or []]
    show_table(_COLUMNS, rows, empty="Nothing new." if unread else "You were told nothing yet.")


@notifications.command()
@click.argument("name", metavar="NOTIFICATION", required=False)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@o.as_json
@ends_well
def read(name: str | None, everything: bool, as_json: bool) -> None:
    """Mark a notification as read, or all of them."""
    if (name is None) == (not everything):
        raise CliError("Give one notification, or --all.")
    books = sign_in().client.books
    done = books.read_notifications() if name is None else books.read_notification(name)
    if as_json:
        show_json(done)
    else:
        print(f"Marked as read: {done['marked'] if name is None else text(done.get('title'))}")


def _row(one: dict[str, Any]) -> list[str]:
    at = str(one.get("created_at") or UNKNOWN)[:16].replace("T", " ")
    told = " ".join(text(one[part]) for part in ("title", "body") if one.get(part))
    return [text(one["id"]), at, "yes" if one.get("read_at") else "no", told]
