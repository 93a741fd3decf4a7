"""The routes of hibernation: put to sleep, wake, show."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

from dumont.billing import SpendLimit
from dumont.core import nanousd
from dumont.hibernation import restoring, service
from dumont.http import CallerDep, Router, permit, problems, raises
from dumont.instances import InstanceDocument, InstanceNotFound, OperationInProgress, Status, read_instance, show_begun
from dumont.ledger import InsufficientFunds
from dumont.market import OfferNotFound, known_offer
from dumont.operations import OperationDocument, operation_document
from dumont.snapshots import (
    ROOT,
    PathNotAllowed,
    PathText,
    SnapshotIncomplete,
    SnapshotNotFound,
    get_snapshot,
    read_snapshot,
)

router = Router(prefix="/api/v1/instances", tags=["hibernation"])
restore_router = Router(prefix="/api/v1/snapshots", tags=["snapshots"])
routers = (router, restore_router)
_DONE: dict[int | str, dict[str, Any]] = {
    200: {"model": InstanceDocument, "description": "It was so already; nothing was begun."}
}


class HibernateBody(BaseModel):
    """What becomes of the machine after the verified snapshot: keep its disk (it costs), or give it back."""

    model_config = ConfigDict(extra="ignore")

    then: Literal["keep", "destroy"] = "keep"


class WakeBody(BaseModel):
    """Where to wake; nothing means: on the kept machine, else on the cheapest one with the same GPUs.

    Units: `max_price` in USD per hour with the disk; it stays the instance's limit. Without any limit another machine
    may cost half more than the last one.
    """

    model_config = ConfigDict(extra="ignore")

    offer_id: Annotated[str | None, Field(min_length=1, max_length=64)] = None
    elsewhere: bool = False
    accept_loss: bool = False
    max_price: Annotated[float | None, Field(gt=0, le=10_000, allow_inf_nan=False)] = None
    snapshot_id: Annotated[
        str | None, Field(max_length=40, description="Another snapshot of the team to wake from, not the last one.")
    ] = None


class RestoreBody(BaseModel):
    """What of a snapshot to bring back to a running instance (nothing means: the one that it was made of), and how.

    `paths` may hold patterns: `*`, `?` and `[...]` within a name, `**` for any folders; none mean everything. Below
    `target_path` what is chosen keeps its path. With `merge` what the snapshot does not have stays; with `replace`
    a chosen folder, or the whole workspace, becomes what it is in the snapshot.
    """

    model_config = ConfigDict(extra="ignore")

    instance_id: Annotated[str | None, Field(max_length=40)] = None
    paths: Annotated[list[PathText], Field(max_length=100)] = []
    target_path: PathText = ROOT
    mode: Literal["merge", "replace"] = "merge"


class HibernationDocument(BaseModel):
    """How an instance sleeps: since when, on which snapshot, and whether its machine is kept."""

    instance_id: str
    status: Status
    hibernated_at: datetime | None
    snapshot_id: str | None
    snapshot_verified_at: datetime | None
    machine_kept: bool


@router.post(
    "/{instance_id}/hibernate",
    status_code=202,
    **permit("gpu.provision"),
    responses={**raises(InstanceNotFound, problems.WrongState, OperationInProgress), **_DONE},
)
async def hibernate_instance(
    request: Request, response: Response, instance_id: str, caller: CallerDep, body: HibernateBody | None = None
) -> InstanceDocument:
    """Save the workspace, verify the copy and stop the machine."""
    instance = await read_instance(caller.session, instance_id, lock=True)
    then = (body or HibernateBody()).then
    begun = await service.hibernate(caller.session, instance, then=then, user_id=caller.user_id)
    return await show_begun(caller.session, instance, request, response, begun)


@router.post(
    "/{instance_id}/wake",
    status_code=202,
    **permit("gpu.provision"),
    responses={
        **raises(
            *(InstanceNotFound, OfferNotFound, problems.WrongState, OperationInProgress, SnapshotIncomplete),
            *(SpendLimit, InsufficientFunds, SnapshotNotFound),
        ),
        **_DONE,
    },
)
async def wake_instance(
    request: Request, response: Response, instance_id: str, caller: CallerDep, body: WakeBody | None = None
) -> InstanceDocument:
    """Bring a hibernated instance back under the same id."""
    wishes = body or WakeBody()
    instance = await read_instance(caller.session, instance_id, lock=True)
    offer = await known_offer(caller.session, wishes.offer_id) if wishes.offer_id else None
    chosen = await read_snapshot(caller.session, wishes.snapshot_id) if wishes.snapshot_id else None
    begun = await service.wake(
        caller.session,
        instance,
        offer=offer,
        elsewhere=wishes.elsewhere,
        accept_loss=wishes.accept_loss,
        max_price_hour_nano=None if wishes.max_price is None else nanousd(wishes.max_price),
        start_timeout_minutes=request.app.state.settings.start_timeout_minutes,
        user_id=caller.user_id,
        now=request.app.state.clock.now(),
        chosen=chosen,
    )
    return await show_begun(caller.session, instance, request, response, begun)


@router.get("/{instance_id}/hibernation", **permit("gpu.view"), responses=raises(InstanceNotFound))
async def show_hibernation(instance_id: str, caller: CallerDep) -> HibernationDocument:
    """Show how an instance sleeps: since when, on which snapshot, and whether its machine is kept."""
    instance = await read_instance(caller.session, instance_id)
    snapshot = await get_snapshot(caller.session, instance.last_snapshot_id) if instance.last_snapshot_id else None
    return HibernationDocument(
        instance_id=instance.id,
        status=instance.status,
        hibernated_at=instance.hibernated_at,
        snapshot_id=instance.last_snapshot_id,
        snapshot_verified_at=snapshot.verified_at if snapshot else None,
        machine_kept=instance.status == Status.HIBERNATED and instance.rental_id is not None,
    )


@restore_router.post(
    "/{snapshot_id}/restore",
    status_code=202,
    **permit("gpu.provision"),
    responses=raises(SnapshotNotFound, InstanceNotFound, problems.WrongState, OperationInProgress, PathNotAllowed),
)
async def restore_snapshot(snapshot_id: str, caller: CallerDep, body: RestoreBody | None = None) -> OperationDocument:
    """Bring a snapshot, or parts of it, back to a running instance of the team: all or nothing."""
    wishes = body or RestoreBody()
    snapshot = await read_snapshot(caller.session, snapshot_id)
    instance = await read_instance(caller.session, wishes.instance_id or snapshot.instance_id, lock=True)
    chosen = {"paths": wishes.paths, "target_path": wishes.target_path, "replace": wishes.mode == "replace"}
    begun = await restoring.restore_onto(caller.session, instance, snapshot, chosen, user_id=caller.user_id)
    return operation_document(begun)
