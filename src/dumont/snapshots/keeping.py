"""The verbs of keeping: forget a snapshot, forget by policy, keep one, change a policy."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.db import publish
from dumont.http import problems
from dumont.snapshots import keeping_queries as queries
from dumont.snapshots.model import Policy, Snapshot, SnapshotInUse, SnapshotProtected
from dumont.snapshots.retention import Rule, Saved, to_forget

Needed = Callable[[AsyncSession, Sequence[str]], Awaitable[dict[str, str]]]
_needed: list[Needed] = []


@dataclass(frozen=True)
class Terms:
    """What holds for an instance's snapshots; `source` is where it was written: instance, team or default.

    Units: `quick_hours` and `sample_hours` between two checks of a kind, 0 for never.
    """

    enabled: bool = False
    keep_last: int = 10
    keep_daily: int = 7
    keep_weekly: int = 4
    quick_hours: int = 24
    sample_hours: int = 168
    source: str = "default"


TERMS = tuple(name for name in Terms.__dataclass_fields__ if name != "source")


def also_needed(by: Needed) -> None:
    """Let a room above say which of some snapshots it needs: who needs each, by the snapshot's id."""
    if by not in _needed:
        _needed.append(by)


async def terms_of(session: AsyncSession, team_id: str, instance_id: str | None) -> Terms:
    """Read what holds for an instance, or for all of a team that have no terms of their own."""
    found = {row.instance_id: row for row in await queries.policies(session, team_id)}
    row = found.get(instance_id or "") or found.get("")
    if row is None:
        return Terms()
    source = "instance" if row.instance_id else "team"
    return Terms(**{name: getattr(row, name) for name in TERMS}, source=source)


async def set_terms(session: AsyncSession, team_id: str, instance_id: str | None, terms: Terms, now: datetime) -> Terms:
    """Write what holds for an instance, or for a team."""
    values = {name: getattr(terms, name) for name in TERMS}
    await session.merge(Policy(team_id=team_id, instance_id=instance_id or "", updated_at=now, **values))
    await session.flush()
    return replace(terms, source="instance" if instance_id else "team")


async def forget(session: AsyncSession, snapshot: Snapshot, *, force: bool = False) -> None:
    """Begin to delete a locked snapshot; what only it needs is freed by the next collections.

    With `force` also the newest of a workspace. Once more is fine.
    Errors: SnapshotProtected, SnapshotInUse, WrongState.
    """
    if snapshot.status in ("deleting", "deleted"):
        return
    if snapshot.status == "creating":
        raise problems.WrongState(
            snapshot.status, ["ready", "failed"], "The snapshot is being made. Cancel that first."
        )
    if snapshot.keep_forever or snapshot.restore_point:
        kind = "to be kept for ever" if snapshot.keep_forever else "a restore point"
        raise SnapshotProtected(f"The snapshot is {kind}. Take that away first.")
    if (users := await used_by(session, [snapshot])).get(snapshot.id):
        detail = f"The snapshot is needed by {users[snapshot.id]}. Wait for that, or make a newer one."
        raise SnapshotInUse(detail, used_by=users[snapshot.id])
    if snapshot.status == "ready" and not force and await queries.is_newest(session, snapshot):
        raise SnapshotProtected("The snapshot is the newest of its workspace. Make another one first, or force it.")
    await _let_go(session, snapshot)


async def prune(
    session: AsyncSession, team_id: str, *, instance_id: str | None, rule: Rule | None, dry_run: bool
) -> list[str]:
    """Forget what the policy of each workspace (or `rule`) does not keep; return their ids.

    Guarantees: none that is kept for ever, a restore point, needed, or the newest of its workspace.
    """
    chosen: list[Snapshot] = []
    for rows in await queries.ready_by_workspace(session, team_id, instance_id):
        terms = await terms_of(session, team_id, rows[0].instance_id)
        if rule is None and not terms.enabled:
            continue
        by = rule or Rule(terms.keep_last, terms.keep_daily, terms.keep_weekly)
        users = await used_by(session, rows)
        saved = [Saved(r.id, r.created_at, r.keep_forever or r.restore_point or r.id in users) for r in rows]
        ids = set(to_forget(saved, by))
        chosen += [row for row in rows if row.id in ids]
    if not dry_run:
        for snapshot in chosen:
            await _let_go(session, snapshot)
    return [snapshot.id for snapshot in chosen]


async def keep(session: AsyncSession, snapshot: Snapshot, **wishes: bool | str | None) -> None:
    """Name a locked snapshot, or say that it is kept for ever or is a restore point.

    Errors: WrongState for one that is being deleted.
    """
    if snapshot.status in ("deleting", "deleted"):
        raise problems.WrongState(snapshot.status, ["ready"], "The snapshot is being deleted.")
    for name, value in wishes.items():
        setattr(snapshot, name, value)
    await session.flush()


async def used_by(session: AsyncSession, snapshots: Sequence[Snapshot]) -> dict[str, str]:
    """Return who needs snapshots now: instances that would wake from them, and restores that read them."""
    found = dict(await queries.readers(session, snapshots))
    for needed in _needed:
        found |= await needed(session, [snapshot.id for snapshot in snapshots])
    return found


async def _let_go(session: AsyncSession, snapshot: Snapshot) -> None:
    snapshot.status = "deleting"
    snapshot.deleted_at = func.clock_timestamp()
    await session.flush()
    await publish(
        session,
        topic="snapshot.deleting",
        resource_type="snapshot",
        resource_id=snapshot.id,
        team_id=snapshot.team_id,
        data={"instance_id": snapshot.instance_id},
    )
