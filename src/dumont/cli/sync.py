"""The commands of versioned sync: what is synced, now, what the history has, and how files come back."""

import itertools
from collections.abc import Callable
from typing import Any

import click

from dumont.cli import options as o
from dumont.cli.exit import CliError, ends_well
from dumont.cli.find import find_instance
from dumont.cli.progress import follow
from dumont.cli.session import Signed, sign_in
from dumont.cli.tables import Column, show_facts, show_json, show_table
from dumont.cli.words import UNKNOWN, moment, number, size, span, text
from dumont.client import read_moment

Document = dict[str, Any]
_RUNS = (
    Column("STARTED"),
    Column("WHAT"),
    Column("STATUS"),
    Column("POINT"),
    Column("FILES", figures=True),
    Column("NEW", figures=True),
    Column("CHANGED", figures=True),
    Column("READ", figures=True),
    Column("SENT", figures=True),
    Column("TOOK", figures=True),
)
_POINTS = (Column("POINT"), Column("TAKEN"), Column("FILES", figures=True), Column("SIZE", figures=True))
_TREE = (Column("MODE"), Column("SIZE", figures=True), Column("CHANGED"), Column("PATH"))
_HELD = "Too many files had vanished, so it is held. Look at it, then `dumont sync release` or restore what is missed."


@click.group()
def sync() -> None:
    """Keep a history of a workspace while it runs, and bring files back from it."""


@sync.command()
@o.name
@click.option("--force", is_flag=True, help="Also where the last one ended less than 30 seconds ago.")
@o.no_wait
@o.as_json
@ends_well
def now(name: str, force: bool, no_wait: bool, as_json: bool) -> None:
    """Sync now."""
    signed, instance_id = _named(name)
    begun = signed.client.syncs.begin(instance_id, force=force)
    result = _carried_out(signed, begun, _synced, no_wait=no_wait, as_json=as_json)
    if result is not None and result.get("status") == "held" and not as_json:
        raise CliError(_HELD, code="sync-guarded")
    if result is None and begun.get("finished_at") and not as_json:
        print("Synced a moment ago; --force syncs again.")


@sync.command()
@o.name
@o.as_json
@ends_well
def status(name: str, as_json: bool) -> None:
    """Show how the sync stands."""
    signed, instance_id = _named(name)
    found = signed.client.syncs.status(instance_id)
    if as_json:
        show_json(found)
        return
    problem = found.get("last_error") or {}
    lag = found.get("lag_seconds")
    show_facts(
        [
            ("synced by itself", text(bool(found.get("enabled")))),
            ("last sync", f"{moment(read_moment(found.get('last_sync')))} ({span(lag)} ago)" if lag else UNKNOWN),
            ("next sync", moment(read_moment(found.get("next_run_at")))),
            ("syncing now", text(bool(found.get("is_syncing")))),
            ("points made", number(found.get("sync_count"))),
            ("history takes", size(found.get("repository_bytes"))),
            ("failures in a row", number(found.get("consecutive_failures"))),
            ("deletion guard", "tripped: see `dumont sync release --help`" if found.get("guard_tripped") else "quiet"),
            ("last problem", text(problem.get("detail"))),
        ]
    )


@sync.command()
@o.name
@click.option("--on/--off", "enabled", default=None, help="Sync by itself, or no more.")
@click.option("--every", type=click.IntRange(30, 86400), metavar="SECONDS", help="How often (300).")
@click.option("--path", "paths", multiple=True, metavar="PATH", help="Only this part of /workspace; may be repeated.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave this out; may be repeated; '' ends it.")
@click.option("--keep", type=click.IntRange(1, 1000), metavar="N", help="How many points to keep (10).")
@click.option("--guard", type=click.IntRange(1, 100), metavar="PERCENT", help="Hold when more files vanish (50).")
@click.option("--mbps", type=click.FloatRange(min=0), metavar="MBPS", help="Upload speed at most; 0 means any.")
@o.as_json
@ends_well
def policy(
    name: str,
    enabled: bool | None,
    every: int | None,
    paths: tuple[str, ...],
    exclude: tuple[str, ...],
    keep: int | None,
    guard: int | None,
    mbps: float | None,
    as_json: bool,
) -> None:
    """Show or change what is synced, how often, and how much is kept."""
    signed, instance_id = _named(name)
    given = {
        "enabled": enabled,
        "interval_seconds": every,
        "paths": list(paths) or None,
        "exclude": [one for one in exclude if one] if exclude else None,
        "keep_last": keep,
        "deletion_guard_percent": guard,
    }
    changes: Document = {member: value for member, value in given.items() if value is not None}
    if mbps is not None:
        changes["bandwidth_mbps_max"] = mbps or None
    syncs = signed.client.syncs
    found = syncs.set_policy(instance_id, **changes) if changes else syncs.policy(instance_id)
    if as_json:
        show_json(found)
        return
    show_facts(
        [
            ("synced by itself", text(bool(found.get("enabled")))),
            ("every", span(found.get("interval_seconds"))),
            ("paths", text(" ".join(found.get("paths") or []))),
            ("left out", text(" ".join(found.get("exclude") or []))),
            ("points kept", number(found.get("keep_last"))),
            ("deletion guard", number(found.get("deletion_guard_percent"), " %")),
            ("upload at most", number(found.get("bandwidth_mbps_max"), " Mbit/s", 1)),
            ("next sync", moment(read_moment(found.get("next_run_at")))),
        ]
    )


@sync.command()
@o.name
@o.limit(20, 1000)
@o.as_json
@ends_well
def history(name: str, limit: int, as_json: bool) -> None:
    """Show all work on the history, newest first, and the first sync against the later ones."""
    signed, instance_id = _named(name)
    rows = list(itertools.islice(signed.client.syncs.iter_runs(instance_id), limit))
    summary = signed.client.syncs.summary(instance_id)
    if as_json:
        show_json({"runs": rows, "summary": summary, "count": len(rows)})
        return
    show_table(_RUNS, (_run_row(row) for row in rows), empty="Nothing was synced yet. `dumont sync now` does.")
    if summary.get("median_incremental_seconds") is not None:
        first = number(summary.get("first_full_seconds"), " s", 1)
        later = number(summary.get("median_incremental_seconds"), " s", 1)
        print(
            f"The first sync took {first}, a later one {later} ({number(summary.get('speedup'), ' times as fast', 1)})."
        )


@sync.command()
@o.name
@o.limit(50, 1000)
@o.as_json
@ends_well
def points(name: str, limit: int, as_json: bool) -> None:
    """Show the points in time that can be brought back, newest first."""
    signed, instance_id = _named(name)
    rows = list(itertools.islice(signed.client.syncs.iter_points(instance_id), limit))
    if as_json:
        show_json({"points": rows, "count": len(rows)})
        return
    show_table(_POINTS, (_point_row(row) for row in rows), empty="No points yet. `dumont sync now` makes one.")


@sync.command("ls")
@o.name
@click.argument("point")
@click.argument("path", default="/workspace")
@o.as_json
@ends_well
def list_point(name: str, point: str, path: str, as_json: bool) -> None:
    """Show what is in a folder at a point in time; POINT is the beginning of its id, or `latest`."""
    signed, instance_id = _named(name)
    begun = signed.client.syncs.tree(instance_id, point, path)
    found = _follow(signed, begun, no_wait=False, quiet=True) or {}
    entries = found.get("entries") or []
    if as_json:
        show_json({"entries": entries, "count": len(entries), "truncated": found.get("truncated")})
        return
    show_table(_TREE, (_entry_row(entry) for entry in entries), empty="The folder is empty.")
    if found.get("truncated"):
        print("There is more: name a folder below.")


@sync.command()
@o.name
@click.argument("point")
@click.argument("paths", nargs=-1)
@click.option("--to", metavar="FOLDER", help="Below this folder of the workspace, not where they were.")
@o.no_wait
@o.as_json
@ends_well
def restore(name: str, point: str, paths: tuple[str, ...], to: str | None, no_wait: bool, as_json: bool) -> None:
    """Bring PATHS back as they were at a POINT in time; all of the workspace without any. All, or none."""
    signed, instance_id = _named(name)
    begun = signed.client.syncs.restore(instance_id, point, list(paths) or ["/workspace"], to)
    _carried_out(signed, begun, _restored, no_wait=no_wait, as_json=as_json)


@sync.command()
@o.name
@click.option("--read", "percent", type=click.IntRange(0, 100), metavar="PERCENT", help="Of the data to read back (5).")
@o.no_wait
@o.as_json
@ends_well
def check(name: str, percent: int | None, no_wait: bool, as_json: bool) -> None:
    """Prove that the history is whole, with a share of its data read back."""
    signed, instance_id = _named(name)
    begun = signed.client.syncs.check(instance_id, percent)
    result = _carried_out(signed, begun, _whole, no_wait=no_wait, as_json=as_json)
    if result is not None and not result.get("ok"):
        told = "; ".join(text(line) for line in (result.get("errors") or [])[:5])
        raise CliError(f"The history is damaged: {told}", code="sync-damaged")


@sync.command()
@o.name
@click.option("--dry-run", is_flag=True, help="Only say how much room that would give back.")
@o.no_wait
@o.as_json
@ends_well
def prune(name: str, dry_run: bool, no_wait: bool, as_json: bool) -> None:
    """Give back the room of points that are not kept any more; once a day this happens by itself."""
    signed, instance_id = _named(name)
    begun = signed.client.syncs.prune(instance_id, dry_run=dry_run)
    _carried_out(signed, begun, _pruned, no_wait=no_wait, as_json=as_json)


@sync.command()
@o.name
@o.as_json
@ends_well
def stop(name: str, as_json: bool) -> None:
    """Stop the sync that goes on; the next one uses what it sent."""
    signed, instance_id = _named(name)
    _answer(signed.client.syncs.stop(instance_id), _stopping, as_json=as_json)


@sync.command()
@o.name
@o.as_json
@ends_well
def release(name: str, as_json: bool) -> None:
    """Accept that so many files vanished, and let syncs go on."""
    signed, instance_id = _named(name)
    _answer(signed.client.syncs.release(instance_id), _accepted, as_json=as_json)


def _named(name: str) -> tuple[Signed, str]:
    signed = sign_in()
    return signed, find_instance(signed.client, name, include_destroyed=True).id


def _answer(found: Document, told: Callable[[Document], str], *, as_json: bool) -> None:
    """Show what the server answered: as it is, or in words."""
    if as_json:
        show_json(found)
    elif line := told(found):
        print(line)


def _carried_out(
    signed: Signed, begun: Document, told: Callable[[Document], str], *, no_wait: bool, as_json: bool
) -> Document | None:
    """Wait for what was begun, show its result as it is or in words, and return it; None where there is none yet."""
    result = _follow(signed, begun, no_wait=no_wait, quiet=as_json)
    if as_json:
        show_json({**begun, "result": result})
    elif result is not None:
        _answer(result, told, as_json=False)
    return result


def _synced(result: Document) -> str:
    took = f"{size(result.get('bytes_uploaded'))} sent in {number(result.get('seconds'), ' s', 1)}"
    return f"Point {_short(result.get('snapshot_id'))}: {_files(result)}, {took}."


def _restored(result: Document) -> str:
    return f"Restored; {size(result.get('bytes_fetched'))} came in {number(result.get('seconds'), ' s', 1)}."


def _whole(result: Document) -> str:
    points = f"{number(result.get('snapshots'))} points in {size(result.get('bytes'))}"
    return f"Whole: {points}." if result.get("ok") else ""


def _pruned(result: Document) -> str:
    if result.get("dry_run"):
        return (
            f"{number(result.get('forgotten'))} points would go, and give back about {size(result.get('bytes_freed'))}."
        )
    return f"{number(result.get('forgotten'))} points are gone, {size(result.get('bytes_freed'))} are free again."


def _stopping(run: Document) -> str:
    return f"Stopping. `dumont operations {text(run.get('operation_id'))} --follow` waits for it."


def _accepted(policy: Document) -> str:
    return f"Accepted. The next sync: {moment(read_moment(policy.get('next_run_at')))}."


def _follow(signed: Signed, begun: Document, *, no_wait: bool, quiet: bool) -> Document | None:
    """Wait for what was begun and return its result; None where nobody waits or nothing was begun."""
    operation_id = begun.get("operation_id")
    if no_wait or operation_id is None or begun.get("finished_at") is not None:
        if no_wait and not quiet:
            print(f"`dumont operations {text(operation_id)} --follow` waits for it.")
        return None
    return follow(signed.client, str(operation_id), quiet=quiet).result or {}


def _files(run: Document) -> str:
    told = [f"{number(run.get('files_total'))} files"]
    told += [f"{number(run[name])} {word}" for name, word in _COUNTS if run.get(name)]
    return ", ".join(told)


_COUNTS = (("files_new", "new"), ("files_changed", "changed"))


def _run_row(row: Document) -> list[str]:
    return [
        moment(read_moment(row.get("started_at"))),
        text(row.get("kind")),
        text(row.get("status")),
        _short(row.get("snapshot_id")),
        number(row.get("files_total")),
        number(row.get("files_new")),
        number(row.get("files_changed")),
        size(row.get("bytes_read")),
        size(row.get("bytes_uploaded")),
        number(row.get("duration_seconds"), " s", 1),
    ]


def _point_row(row: Document) -> list[str]:
    held = " (held)" if row.get("status") == "held" else ""
    taken = moment(read_moment(row.get("started_at")))
    return [_short(row.get("snapshot_id")) + held, taken, number(row.get("files_total")), size(row.get("bytes_read"))]


def _entry_row(entry: Document) -> list[str]:
    kind = "/" if entry.get("type") == "dir" else ""
    mode = entry.get("mode")
    bits = UNKNOWN if not isinstance(mode, int) else f"{mode & 0o777:04o}"
    changed = moment(read_moment(entry.get("mtime")))
    return [bits, size(entry.get("size")), changed, text(f"{entry.get('path')}{kind}")]


def _short(snapshot_id: Any) -> str:
    return text(str(snapshot_id)[:8]) if snapshot_id else UNKNOWN
