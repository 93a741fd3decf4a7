"""What is read and written of sync, one named function each."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.http import Page
from dumont.instances import Instance, Status
from dumont.sync.model import SyncPolicy, SyncRun

POINT = ("ready", "held")


async def policy_of(session: AsyncSession, instance_id: str, *, lock: bool = False) -> SyncPolicy | None:
    """Read an instance's policy, None where nobody has set one."""
    statement = select(SyncPolicy).where(SyncPolicy.instance_id == instance_id)
    return (await session.scalars(statement.with_for_update() if lock else statement)).one_or_none()


async def due(session: AsyncSession, now: datetime) -> Sequence[tuple[str, str]]:
    """Read team and instance of the policies whose next sync is due; the sweep's eyes."""
    live = select(SyncRun.id).where(SyncRun.workspace_id == SyncPolicy.workspace_id, SyncRun.finished_at.is_(None))
    found = await session.execute(
        select(SyncPolicy.team_id, SyncPolicy.instance_id)
        .join(Instance, Instance.id == SyncPolicy.instance_id)
        .where(
            SyncPolicy.enabled,
            SyncPolicy.guard_run_id.is_(None),
            SyncPolicy.next_run_at <= now,
            Instance.status == Status.RUNNING.value,
            ~live.exists(),
        )
        .order_by(SyncPolicy.next_run_at)
        .limit(200)
    )
    return [(team_id, instance_id) for team_id, instance_id in found]


async def due_for_pruning(session: AsyncSession, before: datetime) -> Sequence[tuple[str, str]]:
    """Read team and instance of the histories with forgotten points that were last pruned before a moment."""
    left = select(SyncRun.id).where(
        SyncRun.instance_id == SyncPolicy.instance_id, SyncRun.forgotten_at.is_not(None), SyncRun.pruned_at.is_(None)
    )
    live = select(SyncRun.id).where(SyncRun.workspace_id == SyncPolicy.workspace_id, SyncRun.finished_at.is_(None))
    long_ago = SyncPolicy.pruned_at.is_(None) | (SyncPolicy.pruned_at <= before)
    found = await session.execute(
        select(SyncPolicy.team_id, SyncPolicy.instance_id)
        .where(SyncPolicy.guard_run_id.is_(None), long_ago, left.exists(), ~live.exists())
        .limit(20)
    )
    return [(team_id, instance_id) for team_id, instance_id in found]


async def get_run(session: AsyncSession, run_id: str) -> SyncRun:
    """Read a run that is known to be there, as it is now."""
    found = await session.scalars(select(SyncRun).where(SyncRun.id == run_id).execution_options(populate_existing=True))
    return found.one()


async def live_run(session: AsyncSession, workspace_id: str) -> SyncRun | None:
    """Read the run that works on a workspace's history now."""
    found = await session.scalars(
        select(SyncRun).where(SyncRun.workspace_id == workspace_id, SyncRun.finished_at.is_(None))
    )
    return found.one_or_none()


async def newest(
    session: AsyncSession, workspace_id: str, *statuses: str, kind: str | None = "sync", offset: int = 0
) -> SyncRun | None:
    """Read the newest ended run of these statuses (of all without any)."""
    statement = select(SyncRun).where(SyncRun.workspace_id == workspace_id, SyncRun.finished_at.is_not(None))
    if kind is not None:
        statement = statement.where(SyncRun.kind == kind)
    if statuses:
        statement = statement.where(SyncRun.status.in_(statuses))
    return (await session.scalars(statement.order_by(SyncRun.id.desc()).offset(offset).limit(1))).one_or_none()


async def repository_bytes(session: AsyncSession, workspace_id: str) -> int:
    """Read how many bytes the packs of a workspace's history took up when they were last counted."""
    found = await session.scalar(
        select(SyncRun.repository_bytes)
        .where(SyncRun.workspace_id == workspace_id, SyncRun.repository_bytes.is_not(None))
        .order_by(SyncRun.id.desc())
        .limit(1)
    )
    return int(found or 0)


async def points(session: AsyncSession, instance_id: str, beginning: str, limit: int = 2) -> Sequence[SyncRun]:
    """Read points that are not forgotten by their run's id or the beginning of their snapshot's."""
    statement = select(SyncRun).where(
        SyncRun.instance_id == instance_id,
        SyncRun.kind == "sync",
        SyncRun.status.in_(POINT),
        SyncRun.forgotten_at.is_(None),
        (SyncRun.id == beginning) | SyncRun.snapshot_id.startswith(beginning, autoescape=True),
    )
    return (await session.scalars(statement.limit(limit))).all()


async def forgotten(session: AsyncSession, instance_id: str) -> Sequence[SyncRun]:
    """Read the points that are forgotten and still take up room."""
    statement = select(SyncRun).where(
        SyncRun.instance_id == instance_id, SyncRun.forgotten_at.is_not(None), SyncRun.pruned_at.is_(None)
    )
    return (await session.scalars(statement)).all()


async def kept(session: AsyncSession, instance_id: str) -> list[str]:
    """Read the snapshots of the points that are not forgotten."""
    found = await session.scalars(
        select(SyncRun.snapshot_id).where(
            SyncRun.instance_id == instance_id,
            SyncRun.kind == "sync",
            SyncRun.status.in_(POINT),
            SyncRun.forgotten_at.is_(None),
        )
    )
    return [name for name in found if name is not None]


async def forget_old(session: AsyncSession, instance_id: str, keep_last: int, now: datetime) -> None:
    """Forget the points beyond the newest ones; a held one is neither forgotten nor counted."""
    mine = (SyncRun.instance_id == instance_id, SyncRun.kind == "sync", SyncRun.status == "ready")
    kept = (
        select(SyncRun.id)
        .where(*mine, SyncRun.forgotten_at.is_(None))
        .order_by(SyncRun.id.desc())
        .limit(keep_last)
        .scalar_subquery()
    )
    await session.execute(
        update(SyncRun).where(*mine, SyncRun.forgotten_at.is_(None), SyncRun.id.not_in(kept)).values(forgotten_at=now)
    )


async def mark_pruned(session: AsyncSession, run_ids: Sequence[str], now: datetime) -> None:
    """Write that nothing of these points takes up room any more."""
    await session.execute(update(SyncRun).where(SyncRun.id.in_(run_ids)).values(pruned_at=now))


async def history(
    session: AsyncSession, page: Page, instance_id: str, *, kind: str | None, points_only: bool
) -> Sequence[SyncRun]:
    """Read a page of runs, and one more to know whether there is a next."""
    statement = select(SyncRun).where(SyncRun.instance_id == instance_id)
    if kind is not None:
        statement = statement.where(SyncRun.kind == kind)
    if points_only:
        statement = statement.where(SyncRun.kind == "sync", SyncRun.status.in_(POINT), SyncRun.forgotten_at.is_(None))
    columns = {"id": SyncRun.id, "started_at": SyncRun.started_at}
    return (await session.scalars(page.select(statement, columns))).all()


@dataclass(frozen=True)
class Measured:
    """What all syncs of an instance took: the first one's seconds, the later ones' median, and sums of bytes."""

    first_seconds: float | None
    later_seconds: float | None
    read: int
    uploaded: int
    count: int

    @property
    def speedup(self) -> float | None:
        """How many times as fast as the first the later ones are."""
        return self.first_seconds / self.later_seconds if self.first_seconds and self.later_seconds else None


async def measured(session: AsyncSession, instance_id: str) -> Measured:
    """Read what the syncs of an instance took."""
    done = (SyncRun.instance_id == instance_id, SyncRun.kind == "sync", SyncRun.status.in_(POINT))
    first = await session.scalar(
        select(SyncRun.seconds).where(*done, SyncRun.parent_id.is_(None)).order_by(SyncRun.id).limit(1)
    )
    median = await session.scalar(
        select(func.percentile_cont(0.5).within_group(SyncRun.seconds)).where(*done, SyncRun.parent_id.is_not(None))
    )
    sums = await session.execute(
        select(
            func.coalesce(func.sum(SyncRun.bytes_read), 0),
            func.coalesce(func.sum(SyncRun.bytes_uploaded), 0),
            func.count(),
        ).where(*done)
    )
    read, uploaded, count = sums.one()
    return Measured(first, median, int(read or 0), int(uploaded or 0), int(count or 0))


def pause_after(interval_seconds: int, failures: int) -> timedelta:
    """Return how long to wait for the next sync; longer after every failure in a row, an hour at most."""
    seconds = interval_seconds * 2 ** min(failures, 6)
    return timedelta(seconds=max(interval_seconds, min(seconds, 3600)))
