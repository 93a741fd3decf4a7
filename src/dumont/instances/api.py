"""The routes of instances: launch, list, show, log-in facts, destroy."""

from typing import Annotated, Any

from fastapi import Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import is_id, nanousd
from dumont.http import CallerDep, Page, Router, list_document, page_params, permit, problems, raises
from dumont.instances import queries, service
from dumont.instances.documents import (
    InstanceDocument,
    InstancesDocument,
    MachinesDocument,
    SshDocument,
    instance_document,
    machine_document,
    ssh_document,
)
from dumont.instances.model import (
    Instance,
    InstanceNotFound,
    InstanceNotRunning,
    InstanceProtected,
    OperationInProgress,
    Status,
)
from dumont.market import OfferNotFound, PriceMoved, ProviderNotConfigured, known_offer

router = Router(prefix="/api/v1/instances", tags=["instances"])


class LaunchBody(BaseModel):
    """What to launch. Units: `disk_size` in GB, `max_price` in USD per hour, disk included."""

    model_config = ConfigDict(extra="ignore")

    offer_id: Annotated[str, Field(min_length=1, max_length=64)]
    image: Annotated[str, Field(min_length=1, max_length=255)] = service.DEFAULT_IMAGE
    disk_size: Annotated[float, Field(ge=8, le=10_000)] = 20
    label: Annotated[str | None, Field(min_length=1, max_length=128)] = None
    max_price: Annotated[float | None, Field(gt=0, le=10_000, allow_inf_nan=False)] = None
    env: Annotated[dict[str, str], Field(max_length=64)] = {}
    onstart_cmd: Annotated[str | None, Field(max_length=4000)] = None


async def read_instance(session: AsyncSession, instance_id: str, *, lock: bool = False) -> Instance:
    """Read an instance named in a path.

    Errors: InstanceNotFound, also for an id of another form.
    """
    if not is_id(instance_id, "ins"):
        raise service.unknown_instance()
    return await service.find_instance(session, instance_id, lock=lock)


async def show(session: AsyncSession, instance: Instance, request: Request) -> InstanceDocument:
    """Show an instance as it stands in this transaction."""
    await session.flush()
    return instance_document(await _read_shown(session, instance.id, request))


async def _read_shown(session: AsyncSession, instance_id: str, request: Request) -> Row[Any]:
    found = None
    if is_id(instance_id, "ins"):
        found = await queries.shown(session, instance_id, request.app.state.clock.now())
    if found is None:
        raise service.unknown_instance()
    return found


@router.post(
    "", status_code=202, **permit("gpu.provision"), responses=raises(OfferNotFound, ProviderNotConfigured, PriceMoved)
)
async def launch_instance(request: Request, body: LaunchBody, caller: CallerDep) -> InstanceDocument:
    """Launch an instance from an offer; the operation rents the machine and sees it answer."""
    offer = await known_offer(caller.session, body.offer_id)
    if offer.provider not in request.app.state.providers:
        raise ProviderNotConfigured("The provider of this offer is not configured in this installation.")
    if offer.disk_gb is not None and body.disk_size > offer.disk_gb:
        raise _wrong("/disk_size", f"The offer has {offer.disk_gb:g} GB at most.", "too-large")
    instance, _ = await service.launch(
        caller.session,
        team_id=caller.team_id,
        user_id=caller.user_id,
        offer=offer,
        wishes={
            "image": body.image,
            "disk_gb": body.disk_size,
            "label": body.label,
            "env": body.env,
            "onstart_cmd": body.onstart_cmd,
            "max_price_hour_nano": None if body.max_price is None else nanousd(body.max_price),
        },
        start_timeout_minutes=request.app.state.settings.start_timeout_minutes,
        now=request.app.state.clock.now(),
    )
    return await show(caller.session, instance, request)


@router.get("", **permit("gpu.view"))
async def list_instances(
    request: Request,
    caller: CallerDep,
    page: Annotated[Page, Depends(page_params("created_at", "price_hour", "status"))],
    status: Annotated[str | None, Query(max_length=200)] = None,
    label: Annotated[str | None, Query(max_length=128)] = None,
    include_destroyed: bool = False,
) -> InstancesDocument:
    """List the team's instances from our own records, newest first."""
    statuses = [part for part in (status or "").split(",") if part]
    if set(statuses) - {known.value for known in Status}:
        raise _wrong("/query/status", f"Known are {', '.join(known.value for known in Status)}.", "unknown-value")
    rows = await queries.listing(
        caller.session,
        page,
        request.app.state.clock.now(),
        statuses=statuses,
        label=label,
        include_destroyed=include_destroyed,
    )
    return InstancesDocument(**list_document("instances", rows, page, instance_document))


@router.get("/{instance_id}", **permit("gpu.view"), responses=raises(InstanceNotFound))
async def show_instance(
    request: Request, instance_id: str, caller: CallerDep, include_destroyed: bool = False
) -> InstanceDocument:
    """Show one instance; a destroyed one only when asked for."""
    found = await _read_shown(caller.session, instance_id, request)
    if found.status == Status.DESTROYED and not include_destroyed:
        raise InstanceNotFound("This instance is destroyed. Ask with include_destroyed=true to see its record.")
    return instance_document(found)


@router.get("/{instance_id}/machines", **permit("gpu.view"), responses=raises(InstanceNotFound))
async def list_machines(request: Request, instance_id: str, caller: CallerDep) -> MachinesDocument:
    """List every machine that the instance ever had, oldest first, with what each has cost."""
    instance = await read_instance(caller.session, instance_id)
    rentals = await queries.rentals_of(caller.session, instance.id)
    costs = await queries.rental_costs(caller.session, instance.id, request.app.state.clock.now())
    machines = [machine_document(rental, costs.get(rental.id, {})) for rental in rentals]
    return MachinesDocument(machines=machines, count=len(machines), total=len(machines), next_cursor=None)


@router.get("/{instance_id}/ssh", **permit("gpu.provision"), responses=raises(InstanceNotFound, InstanceNotRunning))
async def show_ssh(instance_id: str, caller: CallerDep) -> SshDocument:
    """Show how to log in to a running instance, its pinned host key included."""
    instance = await read_instance(caller.session, instance_id)
    rental = await queries.get_rental(caller.session, instance.rental_id) if instance.rental_id else None
    if instance.status != Status.RUNNING or rental is None or rental.address is None:
        raise InstanceNotRunning(f"The instance is {instance.status}; log in once it is running.")
    return ssh_document(rental)


@router.delete(
    "/{instance_id}",
    status_code=202,
    **permit("gpu.delete"),
    responses=raises(InstanceNotFound, InstanceProtected, problems.WrongState, OperationInProgress),
)
async def destroy_instance(request: Request, instance_id: str, caller: CallerDep) -> InstanceDocument:
    """Destroy an instance and its machines; snapshots are kept. Again on a destroyed one changes nothing."""
    instance = await read_instance(caller.session, instance_id, lock=True)
    await service.destroy(caller.session, instance, user_id=caller.user_id)
    return await show(caller.session, instance, request)


def _wrong(pointer: str, detail: str, code: str) -> problems.InvalidRequest:
    return problems.InvalidRequest([problems.field_error(pointer, detail, code)])
