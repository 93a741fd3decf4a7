"""What is in a snapshot, and how it comes back to a machine that runs."""

import sys
from typing import Any

import click

from dumont.cli import options as o
from dumont.cli.exit import CliError, ends_well
from dumont.cli.find import find_instance, find_snapshot
from dumont.cli.progress import wait_for
from dumont.cli.session import sign_in
from dumont.cli.tables import Column, show_facts, show_json, show_table
from dumont.cli.words import UNKNOWN, amount, moment, number, percent, short, size, text
from dumont.client import read_moment, read_money

_TREE = (Column("MODE"), Column("SIZE", figures=True), Column("PATH"))
_ENDS = {"folder": "/", "link": "@"}
_path = click.option(
    "--path", "paths", multiple=True, metavar="PATH", help="Only this path or pattern (*, ?, [], **); may be repeated."
)
_into = click.option("--into", metavar="FOLDER", help="Below this folder of the workspace, not where it was.")


@click.command()
@click.argument("name", metavar="SNAPSHOT")
@click.option("--instance", metavar="ID", help="Another running instance than the one that it was made of.")
@_path
@_into
@click.option("--replace", is_flag=True, help="Chosen folders become as they were; else what is new in them stays.")
@click.option("--preview", is_flag=True, help="Only say what would be written.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask before the whole workspace is replaced.")
@o.no_wait
@o.as_json
@ends_well
def restore(
    name: str,
    instance: str | None,
    paths: tuple[str, ...],
    into: str | None,
    replace: bool,
    preview: bool,
    yes: bool,
    no_wait: bool,
    as_json: bool,
) -> None:
    """Bring a snapshot, or parts of it, back to a running instance: all of it is put in place, or nothing."""
    client = sign_in().client
    snapshot = find_snapshot(client, name)
    wishes: dict[str, Any] = {"paths": list(paths), **({"target_path": into} if into else {})}
    if preview:
        _show_tree(client, client.keeping.preview(snapshot.id, **wishes), as_json=as_json)
        return
    target = find_instance(client, instance or str(snapshot.instance_id))
    if replace and not paths and not into and not yes:
        _ask_first(f"Everything in the workspace of {short(target.id)} that is not in the snapshot will be gone.")
    mode = "replace" if replace else "merge"
    begun = client.keeping.restore(snapshot.id, instance_id=target.id, mode=mode, **wishes)
    ended = wait_for(client, begun, no_wait=no_wait, quiet=as_json)
    if as_json:
        show_json(ended.raw)
    elif ended.result is not None:
        print(_told(ended.result))


@click.command("ls")
@click.argument("name", metavar="SNAPSHOT")
@click.argument("paths", nargs=-1)
@click.option("--limit", type=click.IntRange(0, 2000), default=1000, show_default=True, help="How many at most.")
@o.as_json
@ends_well
def list_files(name: str, paths: tuple[str, ...], limit: int, as_json: bool) -> None:
    """Show what is in a snapshot, or at PATHS (or patterns) of it."""
    client = sign_in().client
    wishes = {"paths": list(paths), "limit": limit}
    _show_tree(client, client.keeping.preview(find_snapshot(client, name).id, **wishes), as_json=as_json)


@click.command()
@click.argument("name", metavar="SNAPSHOT")
@o.as_json
@ends_well
def show(name: str, as_json: bool) -> None:
    """Show what was measured of a snapshot: sizes, what was new, how quick it was, what it costs to keep."""
    client = sign_in().client
    found = client.snapshot_metadata(find_snapshot(client, name).id)
    if as_json:
        show_json(found)
        return
    new = f"{size(found.get('bytes_new'))}, {percent(found.get('dedup_share'))} was stored already"
    stored = f"{size(found.get('bytes_stored'))}, {number(found.get('ratio'), 'x', 2)} smaller"
    quick = f"{number(found.get('seconds'), ' s', 1)}, {_rate(found.get('bytes_second'))}"
    first = (
        f"{number(found.get('first_seconds'), ' s', 1)}, {number(found.get('speedup_vs_full'), ' times as long', 1)}"
    )
    facts = [
        *(("made", moment(read_moment(found.get("created_at")))), ("kind", text(found.get("kind")))),
        ("files", f"{number(found.get('files'))}, {size(found.get('bytes_total'))}"),
        *(("new", new), ("stored", stored), ("sent", _rate(found.get("sent_bytes_second"))), ("took", quick)),
        *((("first save took", first),) if found.get("speedup_vs_full") else ()),
        ("read back", size(found.get("bytes_verified"))),
        *((f"step {text(row.get('phase'))}", _phase(row)) for row in found.get("phases") or ()),
        ("snapshots before it", number(len(found.get("chain") or [None]) - 1)),
        ("not read, or changing", number((found.get("unstable") or 0) + (found.get("read_errors") or 0))),
        ("keeping costs", _month(found)),
    ]
    show_facts(facts)


def _rate(bytes_second: Any) -> str:
    return UNKNOWN if bytes_second is None else f"{size(bytes_second)}/s"


def _phase(row: dict[str, Any]) -> str:
    return f"{number(row.get('seconds'), ' s', 2)}, {_rate(row.get('bytes_second'))}"


def _month(found: dict[str, Any]) -> str:
    month = read_money(found.get("cost_month"))
    return UNKNOWN if month is None else f"{amount(month, 6)} a month for what only it added"


def _show_tree(client: Any, begun: Any, *, as_json: bool) -> None:
    found = wait_for(client, begun, no_wait=False, quiet=True).result or {}
    if as_json:
        show_json(found)
        return
    rows = ([_mode(row), size(row.get("bytes")), _name(row)] for row in found.get("entries") or [])
    show_table(_TREE, rows, empty="Nothing is there.")
    more = "; there is more than is shown" if found.get("truncated") else ""
    print(f"{number(found.get('files'))} files, {size(found.get('bytes'))}{more}.")


def _mode(row: dict[str, Any]) -> str:
    mode = row.get("mode")
    return f"{mode & 0o7777:04o}" if isinstance(mode, int) else UNKNOWN


def _name(row: dict[str, Any]) -> str:
    return text(f"{row.get('path')}{_ENDS.get(str(row.get('type')), '')}")


def _told(result: dict[str, Any]) -> str:
    whole = f"{number(result.get('files'))} files, {size(result.get('bytes_total'))}"
    came = f"{size(result.get('bytes_fetched'))} came in {number(result.get('seconds'), ' s', 1)}"
    gave = result.get("replaced")
    way = f", {number(gave)} paths gave way" if gave else ""
    return f"Restored {whole}: {came}, {number(result.get('hashes_compared'))} hashes compared{way}."


def _ask_first(warning: str) -> None:
    if not sys.stdin.isatty():
        raise CliError(f"{warning} Say --yes to do so.")
    sys.stderr.write(f"{warning} Go on? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes", "s", "sim"):
        raise CliError("Nothing was restored.", code="declined")
