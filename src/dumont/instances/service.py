"""The verbs of instances: launch, destroy, and the one function that changes a state."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import money_document, new_id
from dumont.db import publish
from dumont.durable import Operation, begin_operation, cancel_operation, live_of_instance
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
from dumont.market import PriceMoved, offer_to_json
from dumont.providers import Offer
from dumont.snapshots import create_workspace

DEFAULT_IMAGE = "pytorch/pytorch:2.1.0-cuda12.1-cudnn8-runtime"
DESTROY_DEADLINE = timedelta(minutes=30)


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
) -> tuple[Instance, Operation]:
    """Write a new instance in state creating, and start the operation that rents its machine.

    Shapes: `wishes` holds image, disk_gb, label, env, onstart_cmd, max_price_hour_nano.
    Errors: PriceMoved where the offer as last seen costs more than the limit.
    """
    _check_price(offer, wishes["max_price_hour_nano"])
    workspace = await create_workspace(session, team_id, now)
    instance = Instance(
        id=new_id("ins"),
        team_id=team_id,
        workspace_id=workspace.id,
        created_by=user_id,
        status=Status.CREATING.value,
        provider=offer.provider,
        gpu_name=offer.gpu_name,
        num_gpus=offer.num_gpus,
        gpu_memory_mib=offer.gpu_memory_mib,
        price_hour_nano=offer.price_hour_nano,
        disk_newer=False,
        protected=False,
        version=1,
        created_at=now,
        **wishes,
    )
    session.add(instance)
    await session.flush()
    operation = await start(
        session,
        instance,
        "instances.launch",
        {"offer": offer_to_json(offer), "requested_by": user_id},
        deadline=timedelta(minutes=3 * start_timeout_minutes + 5),
        requested_by=user_id,
    )
    return instance, operation


def _check_price(offer: Offer, limit: int | None) -> None:
    if limit is not None and offer.price_hour_nano > limit:
        raise PriceMoved(
            "The offer costs more than your limit. Raise the limit or choose another offer.",
            price_hour=money_document(offer.price_hour_nano),
            price_hour_max=money_document(limit),
        )


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
    try:
        async with session.begin_nested():
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
    except IntegrityError as error:
        raise _busy(None) from error


def _busy(operation_id: str | None) -> OperationInProgress:
    return OperationInProgress(
        "Another operation is running on this instance. Wait until it has ended.",
        operation_id=operation_id,
        retry_after=2,
    )


async def destroy(session: AsyncSession, instance: Instance, *, user_id: str) -> Operation | None:
    """Begin to destroy an instance; what runs on it is cancelled first. None: it is destroyed already.

    Errors: InstanceProtected.
    """
    if instance.status == Status.DESTROYED:
        return None
    if instance.protected:
        raise InstanceProtected("The instance is protected. Take the protection away first.")
    running = await live_of_instance(session, instance.id)
    if running is not None and instance.status == Status.DESTROYING:
        return running
    if running is not None and running.status != "cancelling":
        await cancel_operation(session, running)
    await move(session, instance, Status.DESTROYING)
    return await start_destroying(session, instance, reason="user_request", user_id=user_id)


async def start_destroying(session: AsyncSession, instance: Instance, *, reason: str, user_id: str | None) -> Operation:
    """Start the operation that gives back every machine of an instance that is destroying.

    Errors: OperationInProgress.
    """
    return await start(
        session,
        instance,
        "instances.destroy",
        {"reason": reason},
        deadline=DESTROY_DEADLINE,
        requested_by=user_id,
        cancellable=False,
    )
