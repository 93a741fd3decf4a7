"""Which snapshots instances need: the one that each would wake from."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.instances.model import Instance, Status
from dumont.snapshots import also_needed


async def needed_snapshots(session: AsyncSession, snapshot_ids: Sequence[str]) -> dict[str, str]:
    """Return who needs some of the snapshots: every instance that is not destroyed needs its last one."""
    statement = select(Instance.last_snapshot_id, Instance.id).where(
        Instance.last_snapshot_id.in_(snapshot_ids), Instance.status != Status.DESTROYED.value
    )
    return {str(row[0]): str(row[1]) for row in (await session.execute(statement)).all()}


also_needed(needed_snapshots)
