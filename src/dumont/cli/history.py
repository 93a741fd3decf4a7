"""Commands about what is being done: operations, cancel."""

import itertools
from datetime import datetime

import click

from dumont.cli import options as o
from dumont.cli.exit import CliError, ends_well
from dumont.cli.find import find_instance, find_operation
from dumont.cli.progress import follow
from dumont.cli.session import sign_in
from dumont.cli.tables import Column, show_facts, show_json, show_table
from dumont.cli.words import moment, number, short, span, text
from dumont.cli.words import seconds_between as between
from dumont.client import Operation

_OPERATIONS = (
    Column("ID"),
    Column("KIND"),
    Column("STATUS"),
    Column("DONE", figures=True),
    Column("STEP"),
    Column("INSTANCE"),
    Column("CREATED"),
)


@click.command()
@click.argument("name", metavar="[OPERATION]", required=False)
@click.option("--instance", metavar="ID", help="Only those of this instance.")
@click.option("--status", help="queued, running, waiting, failed ...")
@click.option("--follow", "-f", "follow_it", is_flag=True, help="Wait for the end of OPERATION, showing progress.")
@o.limit(20, 1000)
@o.as_json
@ends_well
def operations(
    name: str | None, instance: str | None, status: str | None, follow_it: bool, limit: int, as_json: bool
) -> None:
    """Show what is being done and what was, newest first."""
    client = sign_in().client
    if name is None:
        if follow_it:
            raise CliError("Name the operation to follow: `dumont operations ID --follow`.")
        instance_id = find_instance(client, instance, include_destroyed=True).id if instance else None
        rows = list(itertools.islice(client.iter_operations(status=status, instance_id=instance_id), limit))
        _show_operations(rows, as_json=as_json)
        return
    operation = find_operation(client, name)
    if follow_it:
        operation = follow(client, operation.id, quiet=as_json)
    if as_json:
        show_json(operation.raw)
        return
    show_facts([(fact, value) for fact, value in _facts(operation) if value != "-"])


@click.command()
@click.argument("name", metavar="OPERATION")
@o.as_json
@ends_well
def cancel(name: str, as_json: bool) -> None:
    """Stop an operation; what it did is undone."""
    client = sign_in().client
    operation = client.cancel_operation(find_operation(client, name).id)
    if as_json:
        show_json(operation.raw)
    else:
        print(f"Operation {operation.id} is {text(operation.status)}.")


def _show_operations(rows: list[Operation], *, as_json: bool) -> None:
    if as_json:
        show_json({"operations": [row.raw for row in rows], "count": len(rows)})
    else:
        show_table(_OPERATIONS, (_operation_row(row) for row in rows), empty="No operations.")


def _operation_row(operation: Operation) -> list[str]:
    return [
        short(operation.id),
        text(operation.kind),
        text(operation.status),
        number(operation.percent, "%"),
        text(operation.current_step),
        short(operation.instance_id),
        moment(operation.created_at),
    ]


def _facts(operation: Operation) -> list[tuple[str, str]]:
    steps = [
        (f"  {text(step.name)}", f"{text(step.status)}{_took(step.started_at, step.finished_at)}")
        for step in operation.steps
    ]
    return [
        ("id", text(operation.id)),
        ("kind", text(operation.kind)),
        ("status", text(operation.status)),
        ("done", number(operation.percent, "%")),
        ("instance", text(operation.instance_id)),
        ("created", moment(operation.created_at)),
        ("deadline", moment(operation.deadline_at)),
        *steps,
        ("problem", text(operation.problem.detail if operation.problem else None)),
    ]


def _took(started: datetime | None, finished: datetime | None) -> str:
    seconds = between(started, finished)
    return "" if seconds is None else f", {span(seconds)}"
