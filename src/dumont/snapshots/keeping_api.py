"""The routes of keeping snapshots: forget, keep, policies, verification, and what collections freed."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from dumont.core import is_id
from dumont.durable import begin_operation
from dumont.http import Caller, CallerDep, Page, Router, list_document, page_params, permit, problems, raises
from dumont.operations import OperationDocument, operation_document
from dumont.snapshots import keeping, keeping_queries
from dumont.snapshots.api import SnapshotDocument, snapshot_document
from dumont.snapshots.keeping import TERMS, Terms
from dumont.snapshots.model import PathNotAllowed, Snapshot, SnapshotInUse, SnapshotNotFound, SnapshotProtected
from dumont.snapshots.places import ROOT, PathText, choice_of
from dumont.snapshots.retention import Rule

router = Router(prefix="/api/v1/snapshots", tags=["snapshots"])
DEADLINE = timedelta(hours=6)
_InstanceId = Annotated[str | None, Query(max_length=40)]


class KeepBody(BaseModel):
    """What to change of a snapshot; what is left out stays."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[str | None, Field(max_length=100)] = None
    keep_forever: bool | None = None
    restore_point: bool | None = None


class VerifyBody(BaseModel):
    """How deeply: manifest, index and packs (quick), chunks drawn at random too (sample), or every byte (full)."""

    model_config = ConfigDict(extra="ignore")

    depth: Literal["quick", "sample", "full"] = "sample"


class PreviewBody(BaseModel):
    """Which paths and patterns of a snapshot to look at (none: everything), and where a restore would put them."""

    model_config = ConfigDict(extra="ignore")

    paths: Annotated[list[PathText], Field(max_length=100)] = []
    target_path: PathText = ROOT
    limit: Annotated[int, Field(ge=0, le=2000)] = 1000


class PruneBody(BaseModel):
    """Forget by these numbers or, without `keep_last`, by the policies in force. A dry run only says what it would."""

    model_config = ConfigDict(extra="ignore")

    keep_last: Annotated[int | None, Field(ge=1, le=1000)] = None
    keep_daily: Annotated[int, Field(ge=0, le=3650)] = 0
    keep_weekly: Annotated[int, Field(ge=0, le=520)] = 0
    instance_id: Annotated[str | None, Field(max_length=40)] = None
    dry_run: bool = True


class CollectBody(BaseModel):
    """Where to free what no snapshot needs. A dry run only says how many bytes that would be."""

    model_config = ConfigDict(extra="ignore")

    instance_id: Annotated[str | None, Field(max_length=40)] = None
    dry_run: bool = True


class TermsBody(BaseModel):
    """Which snapshots are kept, and how many hours lie between two checks of a kind (0: never)."""

    model_config = ConfigDict(extra="ignore")

    enabled: bool = False
    keep_last: Annotated[int, Field(ge=1, le=1000)] = Terms.keep_last
    keep_daily: Annotated[int, Field(ge=0, le=3650)] = Terms.keep_daily
    keep_weekly: Annotated[int, Field(ge=0, le=520)] = Terms.keep_weekly
    quick_hours: Annotated[int, Field(ge=0, le=8760)] = Terms.quick_hours
    sample_hours: Annotated[int, Field(ge=0, le=8760)] = Terms.sample_hours


class TermsDocument(TermsBody):
    """What holds, and where that was written: for the instance, for the team, or nowhere."""

    source: Literal["instance", "team", "default"]


class PruneDocument(BaseModel):
    """Which snapshots a policy would forget, or has begun to."""

    dry_run: bool
    would_delete: list[str]
    deleted: list[str]


class CheckDocument(BaseModel):
    """One verification of a snapshot; `touched` names the files of every snapshot that cannot be had whole."""

    id: str
    snapshot_id: str
    depth: Literal["quick", "sample", "full"]
    outcome: Literal["whole", "damaged", "unknown"]
    bytes_checked: int | None
    chunks_checked: int | None
    packs_checked: int | None
    missing: list[str]
    damaged: list[str]
    touched: list[dict[str, Any]]
    detail: str | None
    seconds: float
    at: datetime


class ChecksDocument(BaseModel):
    """A page of checks."""

    checks: list[CheckDocument]
    count: int
    total: int | None
    next_cursor: str | None


class CleanupDocument(BaseModel):
    """What collections freed in the last days. Units: bytes as they lay in the store."""

    runs: int
    packs_deleted: int
    bytes_freed: int
    last_run_at: datetime | None


@router.get("/checks", **permit("gpu.view"), responses=raises(problems.InvalidRequest))
async def list_checks(
    caller: CallerDep,
    page: Annotated[Page, Depends(page_params("at", default="-at"))],
    snapshot_id: _InstanceId = None,
    outcome: Annotated[Literal["whole", "damaged", "unknown"] | None, Query()] = None,
) -> ChecksDocument:
    """List verifications, newest first."""
    rows = await keeping_queries.checks(caller.session, page, snapshot_id=snapshot_id, outcome=outcome)
    return ChecksDocument(**list_document("checks", rows, page, _check_document))


@router.get("/retention-policy", **permit("gpu.view"), responses=raises(problems.InvalidRequest))
async def show_policy(caller: CallerDep, instance_id: _InstanceId = None) -> TermsDocument:
    """Show what holds for the team's snapshots, or for those of one instance."""
    await _expect_instance(caller, instance_id)
    return _terms_document(await keeping.terms_of(caller.session, caller.team_id, instance_id))


@router.put("/retention-policy", **permit("settings.manage"), responses=raises(problems.InvalidRequest))
async def set_policy(
    request: Request, body: TermsBody, caller: CallerDep, instance_id: _InstanceId = None
) -> TermsDocument:
    """Change what holds for the team's snapshots, or for those of one instance."""
    await _expect_instance(caller, instance_id)
    terms = Terms(**body.model_dump())
    now = request.app.state.clock.now()
    return _terms_document(await keeping.set_terms(caller.session, caller.team_id, instance_id, terms, now))


@router.get("/cleanup/metrics", **permit("gpu.view"))
async def show_cleanup(caller: CallerDep, days: Annotated[int, Query(ge=1, le=365)] = 30) -> CleanupDocument:
    """Show what collections freed in the last days."""
    return CleanupDocument.model_validate(await keeping_queries.totals(caller.session, days))


@router.post("/prune", **permit("settings.manage"))
async def prune_snapshots(caller: CallerDep, body: PruneBody | None = None) -> PruneDocument:
    """Forget what a policy does not keep; a dry run unless told otherwise."""
    wishes = body or PruneBody()
    rule = Rule(wishes.keep_last, wishes.keep_daily, wishes.keep_weekly) if wishes.keep_last else None
    ids = await keeping.prune(
        caller.session, caller.team_id, instance_id=wishes.instance_id, rule=rule, dry_run=wishes.dry_run
    )
    gone, would = ([], ids) if wishes.dry_run else (ids, [])
    return PruneDocument(dry_run=wishes.dry_run, would_delete=would, deleted=gone)


@router.post("/collect", status_code=202, **permit("settings.manage"))
async def collect_snapshots(caller: CallerDep, body: CollectBody | None = None) -> OperationDocument:
    """Free what no snapshot needs; a dry run unless told otherwise. The operation's result says what was found."""
    wishes = body or CollectBody()
    operation = await begin_operation(
        caller.session,
        "snapshots.collect",
        team_id=caller.team_id,
        resource=("team", caller.team_id),
        instance_id=None,
        inputs={"instance_id": wishes.instance_id, "dry_run": wishes.dry_run},
        deadline=DEADLINE,
        requested_by=caller.user_id,
    )
    return operation_document(operation)


@router.patch("/{snapshot_id}", **permit("snapshot.manage"), responses=raises(SnapshotNotFound, problems.WrongState))
async def keep_snapshot(snapshot_id: str, body: KeepBody, caller: CallerDep) -> SnapshotDocument:
    """Name a snapshot, keep it for ever, or make it a restore point."""
    snapshot = await _locked(caller, snapshot_id)
    wishes = body.model_dump(exclude_unset=True)
    flags = {name: bool(value) for name, value in wishes.items() if name != "name" and value is not None}
    named = {"name": wishes["name"]} if "name" in wishes else {}
    await keeping.keep(caller.session, snapshot, **flags, **named)
    return snapshot_document(snapshot)


@router.delete(
    "/{snapshot_id}",
    status_code=202,
    **permit("snapshot.manage"),
    responses=raises(SnapshotNotFound, SnapshotProtected, SnapshotInUse, problems.WrongState),
)
async def forget_snapshot(
    snapshot_id: str, caller: CallerDep, force: Annotated[bool, Query()] = False
) -> SnapshotDocument:
    """Delete a snapshot; its bytes are freed by the next collections, a day later. `force`: even the newest one."""
    snapshot = await _locked(caller, snapshot_id)
    await keeping.forget(caller.session, snapshot, force=force)
    await caller.session.refresh(snapshot)
    return snapshot_document(snapshot)


@router.post(
    "/{snapshot_id}/verify",
    status_code=202,
    **permit("snapshot.manage"),
    responses=raises(SnapshotNotFound, problems.WrongState),
)
async def verify_snapshot(snapshot_id: str, caller: CallerDep, body: VerifyBody | None = None) -> OperationDocument:
    """Read a snapshot back from the store; the operation's result says what was found."""
    snapshot = await _ready(caller, snapshot_id)
    return await _begun(caller, "snapshots.verify", snapshot, {"depth": (body or VerifyBody()).depth})


@router.post(
    "/{snapshot_id}/preview",
    status_code=202,
    **permit("gpu.view"),
    responses=raises(SnapshotNotFound, problems.WrongState, PathNotAllowed),
)
async def preview_restore(snapshot_id: str, caller: CallerDep, body: PreviewBody | None = None) -> OperationDocument:
    """Look at paths of a snapshot; the operation's result says what a restore would write: files, bytes, entries."""
    snapshot = await _ready(caller, snapshot_id)
    wishes = (body or PreviewBody()).model_dump()
    choice_of(wishes["paths"], wishes["target_path"])
    return await _begun(caller, "snapshots.preview", snapshot, wishes)


async def _ready(caller: Caller, snapshot_id: str) -> Snapshot:
    snapshot = await _locked(caller, snapshot_id)
    if snapshot.status != "ready":
        raise problems.WrongState(snapshot.status, ["ready"], "Only a snapshot that is ready can be read.")
    return snapshot


async def _begun(caller: Caller, workflow: str, snapshot: Snapshot, wishes: dict[str, Any]) -> OperationDocument:
    operation = await begin_operation(
        caller.session,
        workflow,
        team_id=caller.team_id,
        resource=("snapshot", snapshot.id),
        instance_id=None,
        inputs={"snapshot_id": snapshot.id, **wishes},
        deadline=DEADLINE,
        requested_by=caller.user_id,
    )
    return operation_document(operation)


async def _locked(caller: Caller, snapshot_id: str) -> Snapshot:
    found = await keeping_queries.locked(caller.session, snapshot_id) if is_id(snapshot_id, "snp") else None
    if found is None:
        raise SnapshotNotFound("No snapshot has this id. List the snapshots and choose one of them.")
    return found


async def _expect_instance(caller: Caller, instance_id: str | None) -> None:
    if instance_id is not None and not await keeping_queries.instance_exists(caller.session, instance_id):
        detail = "No instance has this id. List the instances and choose one of them."
        raise problems.InvalidRequest([problems.field_error("/query/instance_id", detail, "unknown-instance")])


def _terms_document(terms: Terms) -> TermsDocument:
    return TermsDocument(**{name: getattr(terms, name) for name in (*TERMS, "source")})


def _check_document(check: Any) -> CheckDocument:
    return CheckDocument(**{name: getattr(check, name) for name in CheckDocument.model_fields})
