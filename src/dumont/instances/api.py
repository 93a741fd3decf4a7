"""The routes of instances: launch, list, show, name, pause, resume, reboot, logs, log-in facts, destroy."""

from typing import Annotated, Any, Literal

from fastapi import Body, Depends, Header, Query, Request, Response
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.billing import SpendLimit
from dumont.core import is_id, nanousd
from dumont.durable import Operation
from dumont.http import (
    Caller,
    CallerDep,
    GlanceDep,
    Page,
    Router,
    list_document,
    page_params,
    permit,
    problems,
    raises,
    written,
)
from dumont.instances import queries, service
from dumont.instances.documents import (
    InstanceDocument,
    LogLine,
    LogsDocument,
    MachinesDocument,
    SshDocument,
    instance_document,
    machine_document,
    ssh_document,
)
from dumont.instances.model import (
    HostLost,
    Instance,
    InstanceNotFound,
    InstanceNotRunning,
    InstanceProtected,
    OperationInProgress,
    Status,
    VersionMismatch,
)
from dumont.instances.moves import destroy_at_once
from dumont.instances.summaries import InstancesDocument, listing, summary
from dumont.instances.wishes import ChangeBody, Labels, LaunchBody, ResumeBody, check_fit, wrong
from dumont.ledger import InsufficientFunds
from dumont.market import (
    OfferNotFound,
    PriceMoved,
    ProviderDown,
    ProviderNotConfigured,
    ProviderSaidNo,
    explain,
    known_offer,
)
from dumont.providers import MachineAbsent, ProviderError

router = Router(prefix="/api/v1/instances", tags=["instances"])
_DONE: dict[int | str, dict[str, Any]] = {
    200: {"model": InstanceDocument, "description": "It was so already; nothing was begun."}
}


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


async def show_begun(
    session: AsyncSession, instance: Instance, request: Request, response: Response, begun: Operation | None
) -> InstanceDocument:
    """Show an instance after a verb: 202 where an operation works on it, 200 where it was so already."""
    if begun is None:
        response.status_code = 200
    return await show(session, instance, request)


async def _read_shown(session: AsyncSession, instance_id: str, request: Request) -> Row[Any]:
    found = None
    if is_id(instance_id, "ins"):
        found = await queries.shown(session, instance_id, request.app.state.clock.now())
    if found is None:
        raise service.unknown_instance()
    return found


@router.post(
    "",
    status_code=202,
    **permit("gpu.provision"),
    responses=raises(OfferNotFound, ProviderNotConfigured, PriceMoved, SpendLimit, InsufficientFunds),
)
async def launch_instance(request: Request, body: LaunchBody, caller: CallerDep) -> InstanceDocument:
    """Launch an instance from an offer; the operation rents the machine and sees it answer."""
    offer = await known_offer(caller.session, body.offer_id)
    if offer.provider not in request.app.state.providers:
        raise ProviderNotConfigured("The provider of this offer is not configured in this installation.")
    check_fit(body, offer)
    limits = [limit for limit in (body.price_hour_max, body.max_price) if limit is not None]
    instance, _ = await service.launch(
        caller.session,
        team_id=caller.team_id,
        user_id=caller.user_id,
        offer=offer,
        wishes={
            "image": body.image,
            "disk_gb": body.disk_size,
            "label": body.label,
            "labels": body.labels,
            "env": body.env,
            "onstart_cmd": body.onstart_cmd,
            "ports": sorted(set(body.ports)),
            "bid_hour_nano": None if body.bid_price_usd is None else nanousd(body.bid_price_usd),
            "max_price_hour_nano": nanousd(min(limits)) if limits else None,
        },
        start_timeout_minutes=body.start_timeout_minutes or request.app.state.settings.start_timeout_minutes,
        now=request.app.state.clock.now(),
        attempts=body.attempts,
    )
    return await show(caller.session, instance, request)


@router.get("", **permit("gpu.view"))
async def list_instances(
    request: Request,
    glance: GlanceDep,
    page: Annotated[Page, Depends(page_params("created_at", "price_hour", "status", "label"))],
    status: Annotated[str | None, Query(max_length=200)] = None,
    label: Annotated[str | None, Query(max_length=128)] = None,
    provider: Annotated[str | None, Query(max_length=40)] = None,
    gpu_name: Annotated[str | None, Query(max_length=100)] = None,
    include_destroyed: bool = False,
) -> InstancesDocument | Response:
    """List the team's instances from our own records, newest first; `labels.KEY=VALUE` narrows by labels."""
    statuses = [part for part in (status or "").split(",") if part]
    if set(statuses) - {known.value for known in Status}:
        raise wrong("/query/status", f"Known are {', '.join(known.value for known in Status)}.", "unknown-value")
    wanted = queries.Wanted(
        statuses=statuses,
        label=label,
        labels=_wanted_labels(request),
        provider=provider,
        gpu_name=None if gpu_name is None else gpu_name.replace("_", " "),
        include_destroyed=include_destroyed,
    )
    rows = await listing(glance, page, request.app.state.clock.now(), wanted)
    return written(list_document("instances", rows, page, summary))


def _wanted_labels(request: Request) -> dict[str, str]:
    found = {name: value for name, value in request.query_params.items() if name.startswith("labels.")}
    for name, value in found.items():
        if "\x00" in name + value or len(name) > 70 or len(value) > 128:
            raise wrong(
                "/query/labels", "Must be labels.KEY=VALUE, with a key and a value that labels can have.", "label"
            )
    return {name.removeprefix("labels."): value for name, value in found.items()}


@router.get("/{instance_id}", **permit("gpu.view"), responses=raises(InstanceNotFound))
async def show_instance(
    request: Request, response: Response, instance_id: str, glance: GlanceDep, include_destroyed: bool = False
) -> InstanceDocument:
    """Show one instance; a destroyed one only when asked for."""
    found = None
    if is_id(instance_id, "ins"):
        found = await queries.glance_at(glance, instance_id, request.app.state.clock.now())
    if found is None:
        raise service.unknown_instance()
    if found.status == Status.DESTROYED and not include_destroyed:
        raise InstanceNotFound("This instance is destroyed. Ask with include_destroyed=true to see its record.")
    response.headers["ETag"] = f'"{found.version}"'
    return instance_document(found)


@router.patch(
    "/{instance_id}",
    **permit("gpu.provision"),
    responses=raises(InstanceNotFound, VersionMismatch, problems.WrongState),
)
async def change_instance(
    request: Request,
    response: Response,
    instance_id: str,
    body: ChangeBody,
    caller: CallerDep,
    if_match: Annotated[str | None, Header(max_length=100)] = None,
) -> InstanceDocument:
    """Change what an instance is called and whether it is protected; labels are merged, null removes one."""
    instance = await _read_to_change(caller.session, instance_id, if_match)
    values: dict[str, Any] = {name: getattr(body, name) for name in body.model_fields_set & {"label"}}
    if body.protected is not None:
        values["protected"] = body.protected
    merged = {**instance.labels, **body.labels}
    labels = {name: value for name, value in merged.items() if value is not None}
    if len(labels) > 32:
        raise wrong("/labels", "An instance has 32 labels at most.", "too-long")
    return await _changed(request, response, caller, instance, {**values, "labels": labels})


@router.put(
    "/{instance_id}/labels",
    **permit("gpu.provision"),
    responses=raises(InstanceNotFound, VersionMismatch, problems.WrongState),
)
async def replace_labels(
    request: Request,
    response: Response,
    instance_id: str,
    labels: Annotated[Labels, Body()],
    caller: CallerDep,
    if_match: Annotated[str | None, Header(max_length=100)] = None,
) -> InstanceDocument:
    """Give an instance exactly these labels."""
    instance = await _read_to_change(caller.session, instance_id, if_match)
    return await _changed(request, response, caller, instance, {"labels": labels})


async def _read_to_change(session: AsyncSession, instance_id: str, if_match: str | None) -> Instance:
    """Read and lock an instance, if it is still of the version that the caller has seen. Errors: VersionMismatch."""
    instance = await read_instance(session, instance_id, lock=True)
    wanted = [part.strip().removeprefix("W/").strip('"') for part in (if_match or "*").split(",")]
    if "*" not in wanted and str(instance.version) not in wanted:
        raise VersionMismatch(
            "The instance has changed since you read it. Read it again and decide anew.", version=instance.version
        )
    return instance


async def _changed(
    request: Request, response: Response, caller: Caller, instance: Instance, values: dict[str, Any]
) -> InstanceDocument:
    await service.change(caller.session, instance, **values)
    response.headers["ETag"] = f'"{instance.version}"'
    return await show(caller.session, instance, request)


@router.post(
    "/{instance_id}/pause",
    status_code=202,
    **permit("gpu.provision"),
    responses={**raises(InstanceNotFound, problems.WrongState, OperationInProgress), **_DONE},
)
async def pause_instance(request: Request, response: Response, instance_id: str, caller: CallerDep) -> InstanceDocument:
    """Stop the machine and keep its disk, which goes on costing `paused_cost_hour`; what runs on it ends."""
    instance = await read_instance(caller.session, instance_id, lock=True)
    begun = await service.pause(caller.session, instance, user_id=caller.user_id)
    return await show_begun(caller.session, instance, request, response, begun)


@router.post(
    "/{instance_id}/resume",
    status_code=202,
    **permit("gpu.provision"),
    responses={
        **raises(InstanceNotFound, problems.WrongState, OperationInProgress, SpendLimit, InsufficientFunds),
        **_DONE,
    },
)
async def resume_instance(
    request: Request, response: Response, instance_id: str, caller: CallerDep, body: ResumeBody | None = None
) -> InstanceDocument:
    """Start the machine of a paused instance; where its GPU is taken, wait for it, and else stay paused."""
    instance = await read_instance(caller.session, instance_id, lock=True)
    begun = await service.resume(
        caller.session,
        instance,
        wait_minutes=(body or ResumeBody()).wait_minutes,
        start_timeout_minutes=request.app.state.settings.start_timeout_minutes,
        user_id=caller.user_id,
        now=request.app.state.clock.now(),
    )
    return await show_begun(caller.session, instance, request, response, begun)


@router.post(
    "/{instance_id}/reboot",
    status_code=202,
    **permit("gpu.provision"),
    responses=raises(InstanceNotFound, problems.WrongState, OperationInProgress),
)
async def reboot_instance(request: Request, instance_id: str, caller: CallerDep) -> InstanceDocument:
    """Let the machine go down and come up again with its disk; one that does not come up is paused."""
    instance = await read_instance(caller.session, instance_id, lock=True)
    minutes = request.app.state.settings.start_timeout_minutes
    await service.reboot(caller.session, instance, start_timeout_minutes=minutes, user_id=caller.user_id)
    return await show(caller.session, instance, request)


@router.get(
    "/{instance_id}/logs",
    **permit("gpu.provision"),
    responses=raises(
        InstanceNotFound, InstanceNotRunning, ProviderDown, ProviderSaidNo, ProviderNotConfigured, HostLost
    ),
)
async def read_logs(
    request: Request,
    instance_id: str,
    caller: CallerDep,
    source: Literal["container"] = "container",
    tail: Annotated[int, Query(ge=1, le=5000)] = 500,
) -> LogsDocument:
    """Read the last lines that the machine's container wrote, as the provider has them."""
    instance = await read_instance(caller.session, instance_id)
    rental = await queries.get_rental(caller.session, instance.rental_id) if instance.rental_id else None
    if rental is None or rental.provider_machine_id is None:
        raise InstanceNotRunning(f"The instance is {instance.status} and has no machine, so there is no log to read.")
    provider = request.app.state.providers.get(rental.provider)
    if provider is None:
        raise ProviderNotConfigured("The provider of this instance is not configured in this installation.")
    await caller.release()
    try:
        lines = await provider.logs(rental.provider_machine_id, tail=tail + 1)
    except MachineAbsent as error:
        raise HostLost("The provider does not know the machine any more.") from error
    except ProviderError as error:
        raise explain(error) from error
    shown = [LogLine(at=None, text=line) for line in lines[-tail:]]
    return LogsDocument(lines=shown, source=source, truncated=len(lines) > tail)


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
    responses={**raises(InstanceNotFound, InstanceProtected, problems.WrongState, OperationInProgress), **_DONE},
)
async def destroy_instance(
    request: Request,
    response: Response,
    instance_id: str,
    caller: CallerDep,
    reason: Literal["user_request", "gpu_failure", "spot_interruption"] = "user_request",
    force: bool = False,
) -> InstanceDocument:
    """Destroy an instance and its machines; snapshots are kept. Again on a destroyed one changes nothing.

    While its workspace is being saved or moved only with `force`.
    """
    wish = {"user_id": caller.user_id, "reason": reason}
    if await destroy_at_once(caller.session, caller.team_id, instance_id, **wish) is not None:
        return instance_document(await _read_shown(caller.session, instance_id, request))
    instance = await read_instance(caller.session, instance_id, lock=True)
    begun = await service.destroy(caller.session, instance, **wish, force=force)
    return await show_begun(caller.session, instance, request, response, begun)
