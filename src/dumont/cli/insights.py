"""Commands about what is worth knowing of a month: changes by category, days that stand out, budgets at risk."""

from typing import Any

import click

from dumont.cli import options as o
from dumont.cli.accounts import find_category
from dumont.cli.amounts import given, shown
from dumont.cli.exit import CliError, ends_well
from dumont.cli.session import sign_in
from dumont.cli.tables import Column, show_json, show_table
from dumont.cli.words import UNKNOWN, text

_KINDS = {
    "category_monthly_variation": "category_variation",
    "spending_spikes": "spending_spike",
    "budgets_at_risk": "budget_at_risk",
    "wallet_running_dry": "wallet_running_dry",
}
_COLUMNS = (
    Column("INSIGHT"),
    Column("WHAT"),
    Column("NOW", figures=True),
    Column("BEFORE", figures=True),
    Column("CHANGE", figures=True),
)
_SHORTEST = 4


@click.group(invoke_without_command=True)
@o.as_json
@click.pass_context
@ends_well
def insights(context: click.Context, as_json: bool) -> None:
    """Show what is worth knowing about your month."""
    if context.invoked_subcommand is not None:
        return
    found = sign_in().client.books.insights()
    if as_json:
        show_json(found)
        return
    rows = [_row(kind, one) for kind in _KINDS for one in found.get(kind) or []]
    show_table(_COLUMNS, rows, empty="Nothing stands out this month.")


@insights.command()
@click.argument("name", metavar="INSIGHT")
@ends_well
def ignore(name: str) -> None:
    """Leave an insight out for 30 days."""
    books = sign_in().client.books
    document = books.insights()
    found = [
        (_KINDS[kind], str(one["insight_hash"]))
        for kind in _KINDS
        for one in document.get(kind) or []
        if len(name) >= _SHORTEST and str(one["insight_hash"]).startswith(name)
    ]
    if len(found) != 1:
        raise CliError("No insight, or more than one, begins like that. `dumont insights` lists them.")
    books.ignore_insight(*found[0])
    print("It is left out for 30 days.")


@insights.command()
@click.argument("category")
@click.argument("amount", required=False)
@click.option("--currency", default="BRL", show_default=True, help="BRL or USD.")
@o.as_json
@ends_well
def budget(category: str, amount: str | None, currency: str, as_json: bool) -> None:
    """Set what you mean to spend in a month under a category; without an amount, take the budget away."""
    books = sign_in().client.books
    category_id = find_category(books, category, "expense")["id"]
    if amount is None:
        done = books.drop_budget(category_id)
        sentence = text(done.get("message"))
    else:
        done = books.set_budget(category_id, given(amount), currency.upper())
        sentence = f"{text(done['name'])}: {shown(done['limit']['amount'], currency.upper())} a month."
    if as_json:
        show_json(done)
    else:
        print(sentence)


def _row(kind: str, one: dict[str, Any]) -> list[str]:
    currency = one["currency"]
    head = text(one["insight_hash"])[:8]
    if kind == "category_monthly_variation":
        percent = one.get("variation_percent")
        change = UNKNOWN if percent is None else f"{percent:+d}%"
        now, before = one["current_amount"], one["previous_amount"]
        return [head, text(one["category_name"]), shown(now, currency), shown(before, currency), change]
    if kind == "spending_spikes":
        amounts = [shown(one["amount"], currency), shown(one["usual_amount"], currency)]
        return [head, f"spent on {text(one['date'])}", *amounts, "usual"]
    if kind == "wallet_running_dry":
        amounts = [shown(one[name]["amount"], currency) for name in ("available", "burn_hour")]
        return [head, f"wallet is used up in {one['hours_left']} h", *amounts, "an hour"]
    amounts = [shown(one[name]["amount"], currency) for name in ("spent", "limit")]
    return [head, f"budget of {text(one['name'])}", *amounts, f"-> {shown(one['projected']['amount'], currency)}"]
