"""The commands of snapshots: list, forget, keep, read back, and free what nothing needs."""

import itertools
from typing import Any

import click

from dumont.cli import options as o
from dumont.cli.exit import CliError, ends_well
from dumont.cli.find import find_instance, find_snapshot
from dumont.cli.progress import wait_for
from dumont.cli.restoring import list_files, restore, show
from dumont.cli.session import sign_in
from dumont.cli.tables import Column, show_facts, show_json, show_table
from dumont.cli.words import moment, number, short, size, span, text
from dumont.client import Client, Snapshot, read_moment

_SNAPSHOTS = (
    Column("ID"),
    Column("INSTANCE"),
    Column("STATUS"),
    Column("FILES", figures=True),
    Column("SIZE", figures=True),
    Column("NEW", figures=True),
    Column("STORED", figures=True),
    Column("RATIO", figures=True),
    Column("CREATED"),
    Column("VERIFIED"),
)
_CHECKS = (
    Column("SNAPSHOT"),
    Column("DEPTH"),
    Column("OUTCOME"),
    Column("READ", figures=True),
    Column("TOOK", figures=True),
    Column("WHEN"),
    Column("DETAIL"),
)
_TERMS = ("enabled", "keep_last", "keep_daily", "keep_weekly", "quick_hours", "sample_hours")
_instance = click.option("--instance", metavar="ID", help="Only those of this instance.")
_snapshot = click.argument("name", metavar="SNAPSHOT")
_really = click.option("--yes", is_flag=True, help="Do it; without, only say what would be done.")


class _Group(click.Group):
    """A group whose first word may also be an instance: then its snapshots are listed."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `list` in front where no command is named."""
        if "--help" not in args and "-h" not in args and (not args or args[0] not in self.commands):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Group)
def snapshots() -> None:
    """Show saved workspaces, keep, check and forget them, and bring files back."""


snapshots.add_command(restore)
snapshots.add_command(list_files)
snapshots.add_command(show)


@snapshots.command("list")
@click.argument("instance", metavar="[INSTANCE]", required=False)
@o.limit(50, 1000)
@o.as_json
@ends_well
def list_all(instance: str | None, limit: int, as_json: bool) -> None:
    """Show saved workspaces, newest first."""
    client = sign_in().client
    rows = list(itertools.islice(client.iter_snapshots(instance_id=_id_of(client, instance)), limit))
    if as_json:
        show_json({"snapshots": [row.raw for row in rows], "count": len(rows)})
        return
    show_table(_SNAPSHOTS, (_row(row) for row in rows), empty="No snapshots.")


@snapshots.command()
@_snapshot
@click.option("--force", is_flag=True, help="Even the newest one of its workspace.")
@o.as_json
@ends_well
def forget(name: str, force: bool, as_json: bool) -> None:
    """Delete a snapshot. What only it needs is freed by the next collections, a day later."""
    client = sign_in().client
    gone = client.keeping.forget(find_snapshot(client, name).id, force=force)
    if as_json:
        show_json(gone.raw)
    else:
        print(f"Snapshot {short(gone.id)} is being deleted.")


@snapshots.command()
@_snapshot
@click.option("--forever/--not-forever", default=None, help="No policy forgets it, and nobody by mistake.")
@click.option("--restore-point/--no-restore-point", default=None, help="The same, for a place to go back to.")
@click.option("--name", "called", metavar="TEXT", help="What to call it.")
@o.as_json
@ends_well
def keep(name: str, forever: bool | None, restore_point: bool | None, called: str | None, as_json: bool) -> None:
    """Name a snapshot, keep it for ever, or make it a restore point."""
    client = sign_in().client
    wishes: dict[str, Any] = {"keep_forever": forever, "restore_point": restore_point, "name": called}
    given = {wish: value for wish, value in wishes.items() if value is not None}
    if not given:
        raise CliError("Say what to change: --forever, --restore-point or --name.")
    kept = client.keeping.keep(find_snapshot(client, name).id, **given)
    if as_json:
        show_json(kept.raw)
    else:
        show_facts([(wish.replace("_", " "), text(kept.raw.get(wish))) for wish in wishes])


@snapshots.command()
@_snapshot
@click.option("--depth", type=click.Choice(["quick", "sample", "full"]), default="sample", show_default=True)
@o.no_wait
@o.as_json
@ends_well
def verify(name: str, depth: str, no_wait: bool, as_json: bool) -> None:
    """Read a snapshot back from the store; exit code 1 when files of it cannot be had."""
    client = sign_in().client
    ended = wait_for(
        client, client.keeping.verify(find_snapshot(client, name).id, depth), no_wait=no_wait, quiet=as_json
    )
    found = ended.result or {}
    if as_json:
        show_json(ended.raw)
    elif ended.ended:
        _show_check(found)
    if found.get("outcome") == "damaged":
        raise click.exceptions.Exit(1)


@snapshots.command()
@click.argument("name", metavar="[SNAPSHOT]", required=False)
@click.option("--outcome", type=click.Choice(["whole", "damaged", "unknown"]))
@o.limit(20, 1000)
@o.as_json
@ends_well
def checks(name: str | None, outcome: str | None, limit: int, as_json: bool) -> None:
    """Show when snapshots were read back and what was found, newest first."""
    client = sign_in().client
    snapshot_id = find_snapshot(client, name).id if name else None
    rows = list(itertools.islice(client.keeping.checks(snapshot_id=snapshot_id, outcome=outcome), limit))
    if as_json:
        show_json({"checks": [row.raw for row in rows], "count": len(rows)})
        return
    cells = (
        [
            *(short(row.snapshot_id), text(row.depth), text(row.outcome), size(row.bytes_checked), span(row.seconds)),
            *(moment(read_moment(row.raw.get("at"))), text(row.detail)),
        ]
        for row in rows
    )
    show_table(_CHECKS, cells, empty="Nothing was read back yet.")


@snapshots.command()
@click.option("--keep-last", type=click.IntRange(1, 1000), help="How many; without it, the policies in force decide.")
@click.option("--keep-daily", type=click.IntRange(0, 3650), default=0, help="And the newest of so many days.")
@click.option("--keep-weekly", type=click.IntRange(0, 520), default=0, help="And the newest of so many weeks.")
@_instance
@_really
@o.as_json
@ends_well
def prune(
    keep_last: int | None, keep_daily: int, keep_weekly: int, instance: str | None, yes: bool, as_json: bool
) -> None:
    """Forget the snapshots that a policy does not keep; says which, unless --yes."""
    client = sign_in().client
    wishes: dict[str, Any] = {"dry_run": not yes, "instance_id": _id_of(client, instance)}
    if keep_last is not None:
        wishes |= {"keep_last": keep_last, "keep_daily": keep_daily, "keep_weekly": keep_weekly}
    found = client.keeping.prune(**wishes)
    if as_json:
        show_json(found)
        return
    ids = found["deleted"] if yes else found["would_delete"]
    what = "are being deleted" if yes else "would be deleted"
    print(f"{len(ids)} snapshots {what}: {', '.join(map(short, ids)) or '-'}")


@snapshots.command()
@_instance
@_really
@o.no_wait
@o.as_json
@ends_well
def collect(instance: str | None, yes: bool, no_wait: bool, as_json: bool) -> None:
    """Free what no snapshot needs; says how much, unless --yes. It happens every night by itself."""
    client = sign_in().client
    begun = client.keeping.collect(instance_id=_id_of(client, instance), dry_run=not yes)
    ended = wait_for(client, begun, no_wait=no_wait, quiet=as_json)
    if as_json:
        show_json(ended.raw)
    elif ended.result is not None:
        _show_collection(ended.result)


@snapshots.command()
@_instance
@click.option("--on/--off", "enabled", default=None, help="Whether snapshots are forgotten by it, every hour.")
@click.option("--keep-last", type=click.IntRange(1, 1000))
@click.option("--keep-daily", type=click.IntRange(0, 3650), help="The newest of so many days.")
@click.option("--keep-weekly", type=click.IntRange(0, 520), help="The newest of so many weeks.")
@click.option("--quick-hours", type=click.IntRange(0, 8760), help="Between two quick checks; 0 for never.")
@click.option("--sample-hours", type=click.IntRange(0, 8760), help="Between two checks of samples; 0 for never.")
@o.as_json
@ends_well
def policy(instance: str | None, as_json: bool, **wishes: Any) -> None:
    """Show or change which snapshots are kept, and how often they are read back."""
    client = sign_in().client
    instance_id = _id_of(client, instance)
    found = client.keeping.policy(instance_id=instance_id)
    given = {name: value for name, value in wishes.items() if value is not None}
    if given:
        terms = {name: found[name] for name in _TERMS} | given
        found = client.keeping.set_policy(terms, instance_id=instance_id)
    if as_json:
        show_json(found)
    else:
        show_facts([(name.replace("_", " "), text(found.get(name))) for name in (*_TERMS, "source")])


def _id_of(client: Client, instance: str | None) -> str | None:
    return find_instance(client, instance, include_destroyed=True).id if instance else None


def _show_check(found: dict[str, Any]) -> None:
    if found.get("outcome") == "whole":
        print(f"Whole: {number(found.get('chunks_checked'))} chunks, {size(found.get('bytes_checked'))} read back.")
        return
    print(f"{text(found.get('outcome')).capitalize()}: {text(found.get('detail'))}")
    for one in found.get("touched") or ():
        paths = one.get("paths") or ["everything"]
        more = f" and {one['files'] - len(paths)} more" if (one.get("files") or 0) > len(paths) else ""
        print(f"  {short(one.get('snapshot_id'))}: {', '.join(map(text, paths))}{more}")


def _show_collection(found: dict[str, Any]) -> None:
    if found.get("dry_run"):
        packs = number(found.get("packs_marked"))
        print(f"{size(found.get('bytes_marked'))} in {packs} packs would be marked, and freed a day later.")
    else:
        marked = size(found.get("bytes_marked"))
        print(f"{size(found.get('bytes_freed'))} freed; {marked} marked, to be freed a day later.")
    print(f"{size(found.get('bytes_pending'))} marked before wait for their time.")
    for who in found.get("waiting") or ():
        print(f"Waiting for: {text(who)}")
    for name in found.get("unknown") or ():
        print(f"Kept, though no row names it: {text(name)}")


def _row(snapshot: Snapshot) -> list[str]:
    return [
        short(snapshot.id),
        short(snapshot.instance_id),
        text("damaged" if snapshot.raw.get("damaged_at") else snapshot.status),
        number(snapshot.files),
        size(snapshot.bytes_total),
        size(snapshot.bytes_new),
        size(snapshot.bytes_stored),
        number(snapshot.ratio, "x", 2),
        moment(snapshot.created_at),
        moment(snapshot.verified_at),
    ]
