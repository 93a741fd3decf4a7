"""What is read and written of workspaces and snapshots, one named function each."""

from collections.abc import Sequence

from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.http import Page
from dumont.snapshots.model import Snapshot, Workspace

_CHAIN = text(
    "WITH RECURSIVE chain AS (SELECT id, parent_id, 1 AS place FROM snapshot WHERE id = :id UNION ALL "
    "SELECT s.id, s.parent_id, place + 1 FROM snapshot s JOIN chain ON s.id = chain.parent_id WHERE place < :most) "
    "SELECT id FROM chain ORDER BY place"
)
_LONGEST_CHAIN = 1000


async def next_epoch(session: AsyncSession, workspace_id: str) -> int:
    """Raise the writer epoch of a workspace and return the new one."""
    changed = await session.execute(
        update(Workspace)
        .where(Workspace.id == workspace_id)
        .values(epoch=Workspace.epoch + 1)
        .returning(Workspace.epoch)
    )
    return int(changed.scalar_one())


async def get(session: AsyncSession, snapshot_id: str) -> Snapshot | None:
    """Read one snapshot of the session's team."""
    return (await session.scalars(select(Snapshot).where(Snapshot.id == snapshot_id))).one_or_none()


async def newest_ready(session: AsyncSession, workspace_id: str) -> Snapshot | None:
    """Read the newest verified snapshot of a workspace."""
    found = await session.scalars(
        select(Snapshot)
        .where(Snapshot.workspace_id == workspace_id, Snapshot.status == "ready")
        .order_by(Snapshot.id.desc())
        .limit(1)
    )
    return found.one_or_none()


async def listing(session: AsyncSession, page: Page, *, instance_id: str | None) -> Sequence[Snapshot]:
    """Read a page of snapshots, and one more to know whether there is a next; deleted ones are not shown."""
    statement = select(Snapshot).where(Snapshot.status != "deleted")
    if instance_id is not None:
        statement = statement.where(Snapshot.instance_id == instance_id)
    return (await session.scalars(page.select(statement, {"id": Snapshot.id, "created_at": Snapshot.created_at}))).all()


async def chain(session: AsyncSession, snapshot_id: str) -> list[str]:
    """Read a snapshot's id and those that it was made after, newest first, a thousand at most."""
    asked = {"id": snapshot_id, "most": _LONGEST_CHAIN}
    return [str(one) for one in (await session.execute(_CHAIN, asked)).scalars()]


async def first_seconds(session: AsyncSession, workspace_id: str) -> float | None:
    """Read what the first save of a workspace took; unknown where its row is gone."""
    statement = select(Snapshot.seconds).where(
        Snapshot.workspace_id == workspace_id, Snapshot.parent_id.is_(None), Snapshot.seconds.is_not(None)
    )
    return await session.scalar(statement.order_by(Snapshot.id).limit(1))
