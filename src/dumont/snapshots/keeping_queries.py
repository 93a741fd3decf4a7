"""What is read and written of policies, checks and collections, one named function each."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from sqlalchemy import exists, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from dumont.http import Page
from dumont.snapshots.model import Check, Lease, Policy, Snapshot

_DUE = text(
    "WITH last AS (SELECT snapshot_id, max(at) FILTER (WHERE outcome <> 'unknown') AS quick, "
    "max(at) FILTER (WHERE outcome <> 'unknown' AND depth <> 'quick') AS deep, max(at) AS tried "
    "FROM snapshot_check GROUP BY snapshot_id), "
    "wanted AS (SELECT s.id, s.team_id, s.workspace_id, s.manifest, s.verified_at, last.quick, last.deep, last.tried, "
    "coalesce(mine.quick_hours, ours.quick_hours, :quick) AS quick_hours, "
    "coalesce(mine.sample_hours, ours.sample_hours, :sample) AS sample_hours "
    "FROM snapshot s LEFT JOIN last ON last.snapshot_id = s.id "
    "LEFT JOIN snapshot_policy mine ON mine.team_id = s.team_id AND mine.instance_id = s.instance_id "
    "LEFT JOIN snapshot_policy ours ON ours.team_id = s.team_id AND ours.instance_id = '' WHERE s.status = 'ready'), "
    "due AS (SELECT *, "
    "sample_hours > 0 AND coalesce(deep, verified_at) < clock_timestamp() - sample_hours * interval '1 hour' "
    "AS sampled, "
    "quick_hours > 0 AND greatest(quick, deep, verified_at) < clock_timestamp() - quick_hours * interval '1 hour' "
    "AS looked FROM wanted) "
    "SELECT id, team_id, workspace_id, manifest, CASE WHEN sampled THEN 'sample' ELSE 'quick' END AS depth FROM due "
    "WHERE (sampled OR looked) AND (tried IS NULL OR tried < clock_timestamp() - interval '1 hour') "
    "ORDER BY coalesce(tried, verified_at) LIMIT :most"
)
_TO_COLLECT = text(
    "SELECT w.id, w.team_id FROM workspace w WHERE EXISTS (SELECT FROM snapshot s WHERE s.workspace_id = w.id "
    "AND (:everything OR greatest(s.begun_at, s.deleted_at) > clock_timestamp() - interval '7 days')) "
    "AND (CAST(:team_id AS text) IS NULL OR w.team_id = :team_id) AND (CAST(:instance_id AS text) IS NULL OR EXISTS "
    "(SELECT FROM snapshot s WHERE s.workspace_id = w.id AND s.instance_id = :instance_id)) ORDER BY w.id"
)
_TOTALS = text(
    "SELECT count(*) AS runs, coalesce(sum(packs_deleted), 0) AS packs_deleted, coalesce(sum(bytes_freed), 0) AS "
    "bytes_freed, max(at) AS last_run_at FROM collection WHERE at > clock_timestamp() - :days * interval '1 day'"
)
_VERDICTS = text(
    "WITH last AS (SELECT s.id, s.damaged_at, s.verified_at, "
    "(SELECT c.outcome FROM snapshot_check c WHERE c.snapshot_id = s.id ORDER BY c.at DESC LIMIT 1) AS outcome, "
    "(SELECT max(c.at) FROM snapshot_check c WHERE c.snapshot_id = s.id AND c.outcome <> 'unknown') AS checked "
    "FROM snapshot s WHERE s.status = 'ready') "
    "SELECT count(*), coalesce(array_agg(id ORDER BY id) FILTER (WHERE damaged_at IS NOT NULL), '{}'), "
    "count(*) FILTER (WHERE outcome = 'unknown'), "
    "max(extract(epoch FROM clock_timestamp() - greatest(verified_at, checked)) / 3600) FROM last"
)


@dataclass(frozen=True)
class Due:
    """A snapshot that is to be read back, and how deeply."""

    id: str
    team_id: str
    workspace_id: str
    manifest: str
    depth: str


@dataclass(frozen=True)
class Verdicts:
    """What the last checks of all snapshots found, for the doctor. Units: `oldest_hours` since a snapshot was read."""

    snapshots: int
    damaged: list[str]
    unknown: int
    oldest_hours: float | None


async def policies(session: AsyncSession, team_id: str) -> Sequence[Policy]:
    """Read a team's policies."""
    return (await session.scalars(select(Policy).where(Policy.team_id == team_id))).all()


async def teams_that_forget(session: AsyncSession) -> list[str]:
    """Read the teams of which some policy is in force."""
    return [str(one) for one in await session.scalars(select(Policy.team_id).where(Policy.enabled).distinct())]


async def locked(session: AsyncSession, snapshot_id: str) -> Snapshot | None:
    """Read one snapshot of the session's team and lock it; one that was deleted is not there."""
    statement = select(Snapshot).where(Snapshot.id == snapshot_id, Snapshot.status != "deleted").with_for_update()
    return (await session.scalars(statement)).one_or_none()


async def named_ready(session: AsyncSession, name: str) -> Sequence[Snapshot]:
    """Read the verified snapshots whose id ends so, two at most. Needs `set_sweep` to see all teams."""
    statement = select(Snapshot).where(Snapshot.id.endswith(name, autoescape=True), Snapshot.status == "ready")
    return (await session.scalars(statement.limit(2))).all()


async def instance_exists(session: AsyncSession, instance_id: str) -> bool:
    """Tell whether the session's team has an instance of that id; the table belongs to a room above."""
    found = await session.scalar(text("SELECT true FROM instance WHERE id = :id"), {"id": instance_id})
    return bool(found)


async def is_newest(session: AsyncSession, snapshot: Snapshot) -> bool:
    """Tell whether no newer verified snapshot of the workspace is kept."""
    other = aliased(Snapshot)
    newer = exists().where(other.workspace_id == snapshot.workspace_id, other.status == "ready", other.id > snapshot.id)
    return not await session.scalar(select(newer))


async def ready_by_workspace(session: AsyncSession, team_id: str, instance_id: str | None) -> list[list[Snapshot]]:
    """Read and lock a team's verified snapshots, by workspace."""
    statement = select(Snapshot).where(Snapshot.team_id == team_id, Snapshot.status == "ready")
    if instance_id is not None:
        statement = statement.where(Snapshot.instance_id == instance_id)
    rows = await session.scalars(statement.order_by(Snapshot.workspace_id, Snapshot.id).with_for_update())
    return [list(group) for _, group in groupby(rows.all(), key=lambda row: row.workspace_id)]


async def readers(session: AsyncSession, snapshots: Sequence[Snapshot]) -> dict[str, str]:
    """Return which of the snapshots are being read."""
    names = {snapshot.manifest: snapshot.id for snapshot in snapshots if snapshot.manifest}
    statement = select(Lease.subject).where(
        Lease.kind == "read", Lease.subject.in_(names), Lease.expires_at > func.clock_timestamp()
    )
    return {names[subject]: "a restore" for subject in await session.scalars(statement)}


async def deleting(session: AsyncSession, workspace_id: str) -> list[tuple[str, str | None]]:
    """Read the ids and manifests of a workspace's snapshots that are to be deleted."""
    statement = select(Snapshot.id, Snapshot.manifest).where(
        Snapshot.workspace_id == workspace_id, Snapshot.status == "deleting"
    )
    return [(row[0], row[1]) for row in (await session.execute(statement)).all()]


async def mark_deleted(session: AsyncSession, ids: Sequence[str]) -> None:
    """Write that snapshots are gone."""
    await session.execute(update(Snapshot).where(Snapshot.id.in_(ids)).values(status="deleted"))


async def due_checks(session: AsyncSession, *, quick: int, sample: int, most: int) -> list[Due]:
    """Read which snapshots are to be read back now, the longest waiting first. Units: defaults in hours."""
    rows = await session.execute(_DUE, {"quick": quick, "sample": sample, "most": most})
    return [Due(**row._mapping) for row in rows]


async def to_collect(
    session: AsyncSession, *, team_id: str | None = None, instance_id: str | None = None, everything: bool = True
) -> list[tuple[str, str]]:
    """Read the workspaces (and their teams) in which something may have died; all that have snapshots."""
    asked = {"team_id": team_id, "instance_id": instance_id, "everything": everything}
    return [(row[0], row[1]) for row in (await session.execute(_TO_COLLECT, asked)).all()]


async def totals(session: AsyncSession, days: int) -> dict[str, object]:
    """Add up what the collections of the last days freed."""
    return dict((await session.execute(_TOTALS, {"days": days})).one()._mapping)


async def ready_of(session: AsyncSession, workspace_id: str) -> dict[str, str]:
    """Read the ids of a workspace's verified snapshots by their manifests."""
    statement = select(Snapshot.manifest, Snapshot.id).where(
        Snapshot.workspace_id == workspace_id, Snapshot.status == "ready", Snapshot.manifest.is_not(None)
    )
    return {str(row[0]): str(row[1]) for row in (await session.execute(statement)).all()}


async def set_damaged(session: AsyncSession, ids: Sequence[str], *, damaged: bool) -> None:
    """Write that files of snapshots cannot be had, or that they can again."""
    at = func.clock_timestamp() if damaged else None
    await session.execute(update(Snapshot).where(Snapshot.id.in_(ids)).values(damaged_at=at))


async def checks(session: AsyncSession, page: Page, *, snapshot_id: str | None, outcome: str | None) -> Sequence[Check]:
    """Read a page of checks, and one more to know whether there is a next."""
    statement = select(Check)
    if snapshot_id is not None:
        statement = statement.where(Check.snapshot_id == snapshot_id)
    if outcome is not None:
        statement = statement.where(Check.outcome == outcome)
    return (await session.scalars(page.select(statement, {"id": Check.id, "at": Check.at}))).all()


async def verdicts(session: AsyncSession) -> Verdicts:
    """Read what is known of all kept snapshots. Needs `set_sweep`."""
    row = (await session.execute(_VERDICTS)).one()
    return Verdicts(int(row[0]), list(row[1]), int(row[2]), None if row[3] is None else float(row[3]))
