"""The routes of snapshots: list and show."""

from typing import Annotated, Any

from fastapi import Depends, Query

from dumont.core import is_id
from dumont.http import CallerDep, Page, Router, list_document, page_params, permit
from dumont.snapshots import queries
from dumont.snapshots.model import Snapshot, SnapshotNotFound

router = Router(prefix="/api/v1/snapshots", tags=["snapshots"])


def snapshot_document(snapshot: Snapshot) -> dict[str, Any]:
    """Show a snapshot; counters are null until known."""
    ratio = None
    if snapshot.bytes_new and snapshot.bytes_stored:
        ratio = round(snapshot.bytes_new / snapshot.bytes_stored, 3)
    return {
        "id": snapshot.id,
        "status": snapshot.status,
        "kind": snapshot.kind,
        "instance_id": snapshot.instance_id,
        "workspace_id": snapshot.workspace_id,
        "parent_id": snapshot.parent_id,
        "operation_id": snapshot.operation_id,
        "files": snapshot.files,
        "bytes_total": snapshot.bytes_total,
        "bytes_new": snapshot.bytes_new,
        "bytes_stored": snapshot.bytes_stored,
        "ratio": ratio,
        "seconds": snapshot.seconds,
        "unstable": snapshot.unstable,
        "read_errors": snapshot.read_errors,
        "merkle_root": snapshot.merkle_root,
        "bytes_verified": snapshot.bytes_verified,
        "created_at": snapshot.created_at,
        "completed_at": snapshot.completed_at,
        "verified_at": snapshot.verified_at,
        "problem": snapshot.problem,
    }


@router.get("", **permit("gpu.view"))
async def list_snapshots(
    caller: CallerDep,
    page: Annotated[Page, Depends(page_params("created_at"))],
    instance_id: Annotated[str | None, Query(max_length=40)] = None,
) -> dict[str, Any]:
    """List snapshots, newest first."""
    rows = await queries.listing(caller.session, page, instance_id=instance_id)
    return list_document("snapshots", rows, page, snapshot_document)


@router.get("/{snapshot_id}", **permit("gpu.view"))
async def show_snapshot(snapshot_id: str, caller: CallerDep) -> dict[str, Any]:
    """Show one snapshot."""
    snapshot = await queries.get(caller.session, snapshot_id) if is_id(snapshot_id, "snp") else None
    if snapshot is None:
        raise SnapshotNotFound("No snapshot has this id. List the snapshots and choose one of them.")
    return snapshot_document(snapshot)
