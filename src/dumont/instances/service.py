"""The verbs of instances: launch, destroy, and the one function that changes a state."""

from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.billing import admit
from dumont.core import money_document, new_id
from dumont.db import publish
from dumont.durable import (
    InstanceBusy,
    Operation,
    OperationFinished,
    begin_operation,
    cancel_operation,
    live_of_instance,
)
from dumont.http import problems
from dumont.instances import queries
from dumont.instances.model import (
    NEXT,
    Instance,
    InstanceNotFound,
    InstanceProtected,
    OperationInProgress,
    Status,
)
from dumont.instances.renting import with_bid
from dumont.market import PriceMoved, offer_from_json, offer_to_json
from dumont.providers import Offer
from dumont.snapshots import create_workspace

DEFAULT_IMAGE = "pytorch/pytorch:2.1.0-cuda12.1-cudnn8-runtime"
DESTROY_DEADLINE = timedelta(minutes=30)
PAUSE_DEADLINE = timedelta(minutes=30)
ATTEMPTS = 3
FROM_OFFER = ("provider", "gpu_name", "num_gpus", "gpu_memory_mib", "price_hour_nano", "machine_type")
"""Columns of an instance that say which machine it has."""
RETRY_RISE = 1.10
"""How much dearer than the chosen offer the next ones may be where no limit was set."""


async def find_instance(session: AsyncSession, instance_id: str, *, lock: bool = False) -> Instance:
    """Read an instance of the caller's team.

    Errors: InstanceNotFound.
    """
    found = await (queries.get_locked if lock else queries.get)(session, instance_id)
    if found is None:
        raise unknown_instance()
    return found


def unknown_instance() -> InstanceNotFound:
    """Make the problem of an id that names no instance of the team."""
    return InstanceNotFound("No instance has this id. List the instances and choose one of them.")


async def move(session: AsyncSession, instance: Instance, to: Status, *, detail: str | None = None) -> None:
    """Change the state of a locked instance as the state table allows, and publish it.

    Errors: WrongState.
    """
    now = Status(instance.status)
    if to not in NEXT[now]:
        allowed = sorted(status.value for status in NEXT[now])
        raise problems.WrongState(now.value, allowed, f"The instance is {now.value}; it cannot become {to.value} now.")
    instance.status, instance.status_detail = to.value, detail
    instance.version += 1
    await session.flush()
    await publish(
        session,
        topic=f"instance.{to.value}",
        resource_type="instance",
        resource_id=instance.id,
        team_id=instance.team_id,
        data={"from": now.value, "to": to.value, "detail": detail},
    )


async def launch(
    session: AsyncSession,
    *,
    team_id: str,
    user_id: str,
    offer: Offer,
    wishes: dict[str, Any],
    start_timeout_minutes: float,
    now: datetime,
    attempts: int = ATTEMPTS,
) -> tuple[Instance, Operation]:
    """Write a new instance in state creating, and start the operation that rents its machine.

    Where the offer fails, the next best ones with the same GPUs are tried, `attempts` machines in all, within the
    limit or, without one, up to a tenth above the price that was chosen.
    Shapes: `wishes` holds columns of the instance: image, disk_gb, label, env, max_price_hour_nano and so on.
    Errors: PriceMoved where the offer as last seen costs more than the limit, or needs more than the bid; SpendLimit,
    InsufficientFunds.
    """
    offer = check_price(offer.with_disk(wishes["disk_gb"]), wishes["max_price_hour_nano"], wishes.get("bid_hour_nano"))
    workspace = await create_workspace(session, team_id, now)
    instance = Instance(
        id=new_id("ins"),
        team_id=team_id,
        workspace_id=workspace.id,
        created_by=user_id,
        status=Status.CREATING.value,
        **{name: getattr(offer, name) for name in FROM_OFFER},
        disk_newer=False,
        protected=False,
        version=1,
        created_at=now,
        **wishes,
    )
    session.add(instance)
    await session.flush()
    prices = {"gpu_hour_nano": offer.gpu_hour_nano, "disk_hour_nano": offer.disk_hour_nano}
    await admit(session, team_id, instance.id, **prices, now=now)
    inputs = {
        "offer": offer_to_json(offer),
        "requested_by": user_id,
        "attempts": attempts,
        "start_timeout_minutes": start_timeout_minutes,
        "retry_price_hour_nano": round(offer.price_hour_nano * RETRY_RISE),
    }
    deadline = timedelta(minutes=attempts * start_timeout_minutes + 10)
    return instance, await _begin(session, instance, "instances.launch", inputs, deadline, user_id)


def check_price(offer: Offer, limit: int | None, bid: int | None) -> Offer:
    """Return an offer at the price that it will cost, with the bid where there is one.

    Errors: PriceMoved above the limit, or where the bid is too low to win.
    """
    lowest = offer.min_bid_hour_nano
    if bid is not None and lowest is not None and bid < lowest:
        raise PriceMoved(
            "The bid is below the lowest one that would win now. Bid more, or choose another offer.",
            price_hour=money_document(lowest + offer.disk_hour_nano),
            price_hour_max=money_document(bid + offer.disk_hour_nano),
        )
    offer = with_bid(offer, bid)
    if limit is not None and offer.price_hour_nano > limit:
        raise PriceMoved(
            "The offer costs more than your limit. Raise the limit or choose another offer.",
            price_hour=money_document(offer.price_hour_nano),
            price_hour_max=money_document(limit),
        )
    return offer


async def start(
    session: AsyncSession,
    instance: Instance,
    workflow: str,
    inputs: dict[str, Any],
    *,
    deadline: timedelta,
    requested_by: str | None,
    cancellable: bool = True,
) -> Operation:
    """Start an operation on an instance, in this transaction; there is one at a time.

    Errors: OperationInProgress.
    """
    running = await live_of_instance(session, instance.id)
    if running is not None and running.status != "cancelling":
        raise _busy(running.id)
    return await _begin(session, instance, workflow, inputs, deadline, requested_by, cancellable)


async def _begin(
    session: AsyncSession,
    instance: Instance,
    workflow: str,
    inputs: dict[str, Any],
    deadline: timedelta,
    requested_by: str | None,
    cancellable: bool = True,
) -> Operation:
    try:
        return await begin_operation(
            session,
            workflow,
            team_id=instance.team_id,
            resource=("instance", instance.id),
            instance_id=instance.id,
            inputs=inputs,
            deadline=deadline,
            requested_by=requested_by,
            cancellable=cancellable,
        )
    except InstanceBusy as error:
        raise _busy(None) from error


def _busy(operation_id: str | None) -> OperationInProgress:
    return OperationInProgress(
        "Another operation is running on this instance. Wait until it has ended.",
        operation_id=operation_id,
        retry_after=2,
    )


def expect(instance: Instance, *allowed: Status) -> None:
    """Refuse a verb in a state in which it means nothing.

    Errors: WrongState.
    """
    if instance.status not in allowed:
        names = [status.value for status in allowed]
        raise problems.WrongState(
            instance.status, names, f"The instance is {instance.status}; this works only while it is {names[0]}."
        )


async def same_again(session: AsyncSession, instance: Instance, during: Status, kind: str) -> Operation | None:
    """Return the operation that already does what is asked for once more, None where there is none."""
    if instance.status != during:
        return None
    running = await live_of_instance(session, instance.id)
    return running if running is not None and running.kind == kind and running.status != "cancelling" else None


async def pause(session: AsyncSession, instance: Instance, *, user_id: str) -> Operation | None:
    """Begin to stop the machine of a locked instance and keep its disk. None: it is paused already.

    Errors: WrongState, OperationInProgress.
    """
    if instance.status == Status.PAUSED:
        return None
    again = await same_again(session, instance, Status.PAUSING, "pause")
    if again is not None:
        return again
    expect(instance, Status.RUNNING)
    inputs = {"requested_by": user_id}
    operation = await start(session, instance, "instances.pause", inputs, deadline=PAUSE_DEADLINE, requested_by=user_id)
    await move(session, instance, Status.PAUSING)
    return operation


async def resume(
    session: AsyncSession,
    instance: Instance,
    *,
    wait_minutes: float,
    start_timeout_minutes: float,
    user_id: str,
    now: datetime,
) -> Operation | None:
    """Begin to start the machine of a locked instance that is paused or was lost. None: it is running already.

    Units: `wait_minutes` is how long to wait for a GPU that somebody else has. Errors: WrongState, OperationInProgress,
    SpendLimit, InsufficientFunds.
    """
    if instance.status == Status.RUNNING:
        return None
    again = await same_again(session, instance, Status.RESUMING, "resume")
    if again is not None:
        return again
    expect(instance, Status.PAUSED, Status.INTERRUPTED, Status.OFFLINE)
    if instance.rental_id is None:
        detail = "The instance has no machine any more. Wake it elsewhere from its last snapshot, or destroy it."
        raise problems.WrongState(instance.status, [Status.PAUSED.value], detail)
    rate = offer_from_json((await queries.get_rental(session, instance.rental_id)).offer).gpu_hour_nano
    await admit(session, instance.team_id, instance.id, gpu_hour_nano=rate, disk_hour_nano=0, now=now)
    operation = await start(
        session,
        instance,
        "instances.resume",
        {"requested_by": user_id, "wait_minutes": wait_minutes},
        deadline=timedelta(minutes=wait_minutes + start_timeout_minutes + 5),
        requested_by=user_id,
    )
    await move(session, instance, Status.RESUMING)
    return operation


async def reboot(session: AsyncSession, instance: Instance, *, start_timeout_minutes: float, user_id: str) -> Operation:
    """Begin to let the machine of a running, locked instance go down and come up again.

    Errors: WrongState, OperationInProgress.
    """
    again = await same_again(session, instance, Status.RESUMING, "reboot")
    if again is not None:
        return again
    expect(instance, Status.RUNNING)
    operation = await start(
        session,
        instance,
        "instances.reboot",
        {"requested_by": user_id},
        deadline=timedelta(minutes=start_timeout_minutes + 5),
        requested_by=user_id,
    )
    await move(session, instance, Status.RESUMING, detail="The machine is rebooting.")
    return operation


async def change(session: AsyncSession, instance: Instance, **values: Any) -> None:
    """Write what a person calls a locked instance, and whether it is protected; nothing else is changed.

    Errors: WrongState for one that is destroyed.
    """
    if instance.status == Status.DESTROYED:
        raise problems.WrongState(instance.status, [], "The instance is destroyed; its record stays as it is.")
    changed = {name: value for name, value in values.items() if getattr(instance, name) != value}
    if not changed:
        return
    for name, value in changed.items():
        setattr(instance, name, value)
    instance.version += 1
    await session.flush()
    await publish(
        session,
        topic="instance.changed",
        resource_type="instance",
        resource_id=instance.id,
        team_id=instance.team_id,
        data={"changed": sorted(changed)},
    )


async def destroy(
    session: AsyncSession, instance: Instance, *, user_id: str, reason: str = "user_request", force: bool = False
) -> Operation | None:
    """Begin to destroy an instance; what runs on it is cancelled first. None: it is destroyed already.

    While the workspace is being saved or moved only with `force`. Errors: InstanceProtected, OperationInProgress.
    """
    if instance.status == Status.DESTROYED:
        return None
    if instance.protected:
        raise InstanceProtected("The instance is protected. Take the protection away first.")
    running = await live_of_instance(session, instance.id)
    if running is not None and instance.status == Status.DESTROYING:
        return running
    if running is not None and instance.status in (Status.HIBERNATING, Status.MIGRATING) and not force:
        raise _busy(running.id)
    if running is not None and running.status != "cancelling":
        with suppress(OperationFinished):  # it ended in this moment, so there is nothing to cancel
            await cancel_operation(session, running, insist=True)
    await move(session, instance, Status.DESTROYING)
    return await start_destroying(session, instance, reason=reason, user_id=user_id)


async def start_destroying(session: AsyncSession, instance: Instance, *, reason: str, user_id: str | None) -> Operation:
    """Start the operation that gives back every machine of an instance that is destroying.

    Errors: OperationInProgress.
    """
    inputs = {"reason": reason}
    return await _begin(session, instance, "instances.destroy", inputs, DESTROY_DEADLINE, user_id, cancellable=False)
