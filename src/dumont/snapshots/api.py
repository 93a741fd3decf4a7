"""The routes of snapshots: list and show."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import Depends, Query, Request
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import is_id, nanousd
from dumont.http import CallerDep, Page, ProblemDocument, Router, list_document, page_params, permit, raises
from dumont.snapshots import queries
from dumont.snapshots.figures import MetadataDocument, metadata
from dumont.snapshots.model import Snapshot, SnapshotNotFound

router = Router(prefix="/api/v1/snapshots", tags=["snapshots"])


class SnapshotDocument(BaseModel):
    """A saved state of a workspace; counters are null until known, sizes are in bytes."""

    id: str
    status: Literal["creating", "ready", "failed", "deleting"]
    kind: str
    instance_id: str
    workspace_id: str
    parent_id: str | None
    operation_id: str
    files: int | None
    bytes_total: int | None
    bytes_new: int | None
    bytes_stored: int | None
    ratio: float | None = Field(description="New bytes to stored bytes.")
    seconds: float | None
    unstable: list[str]
    read_errors: list[str]
    merkle_root: str | None
    bytes_verified: int | None
    created_at: datetime
    completed_at: datetime | None
    verified_at: datetime | None
    name: str | None
    keep_forever: bool
    restore_point: bool
    damaged_at: datetime | None = Field(description="Since when files of it cannot be had as they were saved.")
    problem: ProblemDocument | None


class SnapshotsDocument(BaseModel):
    """A page of snapshots."""

    snapshots: list[SnapshotDocument]
    count: int
    total: int | None
    next_cursor: str | None


def snapshot_document(snapshot: Snapshot) -> SnapshotDocument:
    """Show a snapshot."""
    ratio = None
    if snapshot.bytes_new and snapshot.bytes_stored:
        ratio = round(snapshot.bytes_new / snapshot.bytes_stored, 3)
    same = {name: getattr(snapshot, name) for name in SnapshotDocument.model_fields if name != "ratio"}
    return SnapshotDocument(**same, ratio=ratio)


@router.get("", **permit("gpu.view"))
async def list_snapshots(
    caller: CallerDep,
    page: Annotated[Page, Depends(page_params("created_at"))],
    instance_id: Annotated[str | None, Query(max_length=40)] = None,
) -> SnapshotsDocument:
    """List snapshots, newest first."""
    rows = await queries.listing(caller.session, page, instance_id=instance_id)
    return SnapshotsDocument(**list_document("snapshots", rows, page, snapshot_document))


@router.get("/{snapshot_id}", **permit("gpu.view"), responses=raises(SnapshotNotFound))
async def show_snapshot(snapshot_id: str, caller: CallerDep) -> SnapshotDocument:
    """Show one snapshot."""
    return snapshot_document(await read_snapshot(caller.session, snapshot_id))


@router.get("/{snapshot_id}/metadata", **permit("gpu.view"), responses=raises(SnapshotNotFound))
async def show_metadata(request: Request, snapshot_id: str, caller: CallerDep) -> MetadataDocument:
    """Show what was measured of a snapshot: sizes, what was new, how long each step took, what it costs to keep."""
    snapshot = await read_snapshot(caller.session, snapshot_id)
    price = request.app.state.settings.store_gb_month_usd
    return await metadata(caller.session, snapshot, None if price is None else nanousd(price))


async def read_snapshot(session: AsyncSession, snapshot_id: str) -> Snapshot:
    """Read one snapshot of the session's team.

    Errors: SnapshotNotFound, also for one that was deleted.
    """
    snapshot = await queries.get(session, snapshot_id) if is_id(snapshot_id, "snp") else None
    if snapshot is None or snapshot.status == "deleted":
        raise SnapshotNotFound("No snapshot has this id. List the snapshots and choose one of them.")
    return snapshot
