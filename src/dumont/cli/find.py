"""Naming things as people do: by id, by the beginning or end of an id, or by label."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from dumont.cli.exit import CliError
from dumont.cli.words import text
from dumont.client import Client, Instance, Offer, Operation, Snapshot
from dumont.core import is_id

T = TypeVar("T", Instance, Offer, Operation, Snapshot)
_SHORTEST = 3


def find_instance(client: Client, name: str, *, include_destroyed: bool = False) -> Instance:
    """Return the one instance that a name means; an exact label wins over parts of ids.

    Errors: CliError when none or several fit, ApiProblem when the full id is unknown.
    """
    if is_id(name, "ins"):
        return client.instance(name, include_destroyed=include_destroyed)
    rows = list(client.iter_instances())
    chosen = _labelled(rows, name) or _by_part(rows, name)
    if not chosen and include_destroyed:
        rows = list(client.iter_instances(include_destroyed=True))
        chosen = _labelled(rows, name) or _by_part(rows, name)
    where = "`dumont ps` lists them."
    found = _only(chosen, name, "instance", where, lambda row: f"{row.id} ({text(row.label)}, {text(row.status)})")
    return client.instance(found.id, include_destroyed=include_destroyed)


def find_offer(offers: Iterable[Offer], name: str) -> Offer:
    """Return the one offer that a part of an id means."""
    chosen = _by_part(offers, name)
    return _only(chosen, name, "offer", "`dumont offers` shows what is there now.", lambda row: row.id)


def find_operation(client: Client, name: str) -> Operation:
    """Return the one operation that an id or a part of one means."""
    if is_id(name, "op"):
        return client.operation(name)
    chosen = _by_part(client.iter_operations(), name)
    return _only(chosen, name, "operation", "`dumont operations` lists them.", lambda row: row.id)


def find_snapshot(client: Client, name: str) -> Snapshot:
    """Return the one snapshot that an id or a part of one means."""
    if is_id(name, "snp"):
        return client.snapshot(name)
    chosen = _by_part(client.iter_snapshots(), name)
    return _only(chosen, name, "snapshot", "`dumont snapshots` lists them.", lambda row: row.id)


def _labelled(rows: Iterable[Instance], name: str) -> list[Instance]:
    return [row for row in rows if row.label == name]


def _by_part(rows: Iterable[T], part: str) -> list[T]:
    wanted = part.upper()
    if len(wanted) < _SHORTEST:
        return []
    return [row for row in rows if _fits(row.id.upper(), wanted)]


def _fits(full_id: str, part: str) -> bool:
    return full_id.startswith(part) or full_id.endswith(part) or full_id.partition("_")[2].startswith(part)


def _only(chosen: list[T], name: str, noun: str, where: str, shown: Callable[[T], str]) -> T:
    if len(chosen) == 1:
        return chosen[0]
    if not chosen:
        raise CliError(f"No {noun} is called {text(name)}. {where}", code=f"{noun}-not-found")
    several = ", ".join(shown(row) for row in chosen[:5])
    raise CliError(f"{text(name)} fits {len(chosen)} {noun}s: {several}. Give more of the id.", code="ambiguous-name")
