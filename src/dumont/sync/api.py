"""The routes of sync: policy, now, status, history, points in time, restore, check, prune."""

from typing import Annotated, Any

from fastapi import Depends, Request, Response

from dumont.http import Caller, CallerDep, Page, Router, list_document, page_params, permit, problems, raises
from dumont.instances import Instance, InstanceNotFound, OperationInProgress, read_instance
from dumont.snapshots import PathNotAllowed, workspace_path, workspace_paths
from dumont.sync import queries, service
from dumont.sync.documents import (
    CheckBody,
    HistoryDocument,
    Kind,
    PointsDocument,
    PolicyBody,
    PolicyDocument,
    PruneHistoryBody,
    ReleaseBody,
    RunDocument,
    SummaryDocument,
    SyncDocument,
    SyncRestoreBody,
    TreeBody,
    policy_document,
    run_document,
)
from dumont.sync.model import SyncGuarded, SyncPointNotFound

router = Router(prefix="/api/v1/instances/{instance_id}/sync", tags=["sync"])
_BUSY = raises(InstanceNotFound, OperationInProgress, problems.WrongState)
_OF_POINT = {**raises(InstanceNotFound, SyncPointNotFound, OperationInProgress, problems.WrongState, PathNotAllowed)}
_DONE: dict[int | str, dict[str, Any]] = {
    200: {"model": RunDocument, "description": "One goes on, or has just ended; nothing was begun."}
}


@router.get("/config", **permit("gpu.view"), responses=raises(InstanceNotFound))
async def show_policy(instance_id: str, caller: CallerDep) -> PolicyDocument:
    """Show what of an instance is synced, and how often."""
    instance = await read_instance(caller.session, instance_id)
    found = await queries.policy_of(caller.session, instance.id)
    return policy_document(found or service.new_policy(instance))


@router.put(
    "/config",
    **permit("gpu.provision"),
    responses=raises(InstanceNotFound, PathNotAllowed, problems.WrongState),
)
async def set_policy(request: Request, instance_id: str, body: PolicyBody, caller: CallerDep) -> PolicyDocument:
    """Set what of an instance is synced, and how often; switched on, the first sync is due at once."""
    instance = await read_instance(caller.session, instance_id, lock=True)
    nullable = {"bandwidth_mbps_max"}
    values = {name: value for name, value in body.model_dump(exclude_unset=True).items() if value is not None}
    values |= {name: None for name in nullable & body.model_fields_set if getattr(body, name) is None}
    if "paths" in values:
        values["paths"] = workspace_paths(values["paths"])
    if "exclude" in values:
        values["exclude"] = [service.exclude_pattern(pattern) for pattern in values["exclude"]]
    return policy_document(await service.configure(caller.session, instance, _now(request), **values))


@router.post(
    "",
    status_code=202,
    **permit("gpu.provision"),
    responses={
        **raises(InstanceNotFound, OperationInProgress, problems.WrongState, SyncGuarded),
        **_DONE,
    },
)
async def begin_sync(
    request: Request, response: Response, instance_id: str, caller: CallerDep, force: bool = False
) -> RunDocument:
    """Sync an instance now; one that ended less than 30 seconds ago will do, without `force`."""
    instance = await read_instance(caller.session, instance_id, lock=True)
    run, begun = await service.begin_sync(
        caller.session, instance, now=_now(request), requested_by=caller.user_id, force=force
    )
    if not begun and run.finished_at is not None:
        response.status_code = 200
    return run_document(run)


@router.get("/status", **permit("gpu.view"), responses=raises(InstanceNotFound))
@router.get("", **permit("gpu.view"), responses=raises(InstanceNotFound))
async def show_sync(request: Request, instance_id: str, caller: CallerDep) -> SyncDocument:
    """Show how the sync of an instance stands."""
    session = caller.session
    instance = await read_instance(session, instance_id)
    policy = await queries.policy_of(session, instance.id) or service.new_policy(instance)
    point = await queries.newest(session, instance.workspace_id, *queries.POINT)
    last = await queries.newest(session, instance.workspace_id)
    live = await queries.live_run(session, instance.workspace_id)
    ended = point.finished_at if point else None
    return SyncDocument(
        instance_id=instance.id,
        enabled=policy.enabled,
        synced=point is not None,
        is_syncing=live is not None and live.kind == "sync",
        guard_tripped=policy.guard_run_id is not None,
        last_sync=ended,
        lag_seconds=max(0.0, (_now(request) - ended).total_seconds()) if ended else None,
        last_snapshot_id=point.snapshot_id if point else None,
        sync_count=(await queries.measured(session, instance.id)).count,
        consecutive_failures=policy.consecutive_failures,
        next_run_at=policy.next_run_at,
        repository_bytes=await queries.repository_bytes(session, instance.workspace_id),
        last_run=run_document(last) if last else None,
        last_error=last.problem if last else None,
    )


@router.get("/history", **permit("gpu.view"), responses=raises(InstanceNotFound))
async def show_history(
    instance_id: str,
    caller: CallerDep,
    page: Annotated[Page, Depends(page_params("started_at", default="-started_at"))],
    kind: Kind | None = None,
) -> HistoryDocument:
    """List the work on an instance's history, newest first, with what the first sync took and the later ones."""
    instance = await read_instance(caller.session, instance_id)
    rows = await queries.history(caller.session, page, instance.id, kind=kind, points_only=False)
    found = await queries.measured(caller.session, instance.id)
    summary = SummaryDocument(
        first_full_seconds=found.first_seconds,
        median_incremental_seconds=found.later_seconds,
        speedup=found.speedup,
        dedup_ratio=found.read / found.uploaded if found.uploaded else None,
    )
    return HistoryDocument(**list_document("runs", rows, page, run_document), summary=summary)


@router.get("/points", **permit("gpu.view"), responses=raises(InstanceNotFound))
async def list_points(
    instance_id: str,
    caller: CallerDep,
    page: Annotated[Page, Depends(page_params("started_at", default="-started_at"))],
) -> PointsDocument:
    """List the points in time that can be brought back, newest first."""
    instance = await read_instance(caller.session, instance_id)
    rows = await queries.history(caller.session, page, instance.id, kind="sync", points_only=True)
    return PointsDocument(**list_document("points", rows, page, run_document))


@router.post("/stop", **permit("gpu.provision"), responses=_BUSY)
async def stop_sync(instance_id: str, caller: CallerDep) -> RunDocument:
    """Stop the work that goes on; what a sync has sent is used by the next one."""
    instance = await read_instance(caller.session, instance_id, lock=True)
    return run_document(await service.stop(caller.session, instance))


@router.post("/release-guard", **permit("gpu.provision"), responses=raises(InstanceNotFound, problems.WrongState))
async def release_guard(request: Request, instance_id: str, body: ReleaseBody, caller: CallerDep) -> PolicyDocument:
    """Accept that so many files vanished; syncs go on."""
    instance = await read_instance(caller.session, instance_id, lock=True)
    return policy_document(await service.release_guard(caller.session, instance, _now(request)))


@router.post("/points/{point}/tree", status_code=202, **permit("gpu.view"), responses=_OF_POINT)
async def list_point(
    request: Request, instance_id: str, point: str, caller: CallerDep, body: TreeBody | None = None
) -> RunDocument:
    """Read what lies below a path at a point in time; the operation's result has the entries."""
    wish = body or TreeBody()
    instance = await read_instance(caller.session, instance_id)
    inputs = {"path": workspace_path(wish.path), "limit": wish.limit}
    return await _begin_at(request, caller, instance, point, "list", inputs)


@router.post("/points/{point}/restore", status_code=202, **permit("gpu.provision"), responses=_OF_POINT)
async def restore_point(
    request: Request, instance_id: str, point: str, body: SyncRestoreBody, caller: CallerDep
) -> RunDocument:
    """Bring paths back to the machine as they were at a point in time; all of them are put in place, or none."""
    instance = await read_instance(caller.session, instance_id, lock=True)
    service.expect_running(instance)
    inputs = {"paths": workspace_paths(body.paths), "to": workspace_path(body.target_path)}
    return await _begin_at(request, caller, instance, point, "restore", inputs)


@router.post("/check", status_code=202, **permit("gpu.provision"), responses=_BUSY)
async def check_history(
    request: Request, instance_id: str, caller: CallerDep, body: CheckBody | None = None
) -> RunDocument:
    """Prove the history's repository, with a share of its data read back; the operation's result says what is wrong."""
    instance = await read_instance(caller.session, instance_id)
    inputs = {"read_data_percent": (body or CheckBody()).read_data_percent}
    return await _begin(request, caller, instance, "check", inputs)


@router.post("/prune", status_code=202, **permit("gpu.provision"), responses=_BUSY)
async def prune_history(
    request: Request, instance_id: str, caller: CallerDep, body: PruneHistoryBody | None = None
) -> RunDocument:
    """Give the room back that forgotten points take up, which happens once a day by itself; or say how much that is."""
    instance = await read_instance(caller.session, instance_id)
    return await _begin(request, caller, instance, "prune", {"dry_run": (body or PruneHistoryBody()).dry_run})


async def _begin_at(
    request: Request, caller: Caller, instance: Instance, point: str, kind: str, inputs: dict[str, Any]
) -> RunDocument:
    found = await service.find_point(caller.session, instance, point)
    return await _begin(request, caller, instance, kind, {**inputs, "snapshot_id": found.snapshot_id})


async def _begin(
    request: Request, caller: Caller, instance: Instance, kind: str, inputs: dict[str, Any]
) -> RunDocument:
    await service.expect_history(caller.session, instance)
    run = await service.begin(caller.session, instance, kind, inputs, now=_now(request), requested_by=caller.user_id)
    return run_document(run)


def _now(request: Request) -> Any:
    return request.app.state.clock.now()
