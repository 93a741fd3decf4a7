"""What is read and written of workspaces and snapshots, one named function each."""

from collections.abc import Sequence

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.http import Page
from dumont.snapshots.model import Snapshot, Workspace


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
