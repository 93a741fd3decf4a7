"""The verbs of hibernation: put an instance to sleep, wake it."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.billing import admit
from dumont.durable import Operation
from dumont.hibernation.restoring import expect_ready
from dumont.http import problems
from dumont.instances import Instance, Status, expect, move, same_again, start_operation
from dumont.market import offer_to_json
from dumont.providers import Offer
from dumont.snapshots import Snapshot, SnapshotIncomplete, get_snapshot

HIBERNATE_DEADLINE = timedelta(hours=6)


async def hibernate(session: AsyncSession, instance: Instance, *, then: str, user_id: str) -> Operation | None:
    """Begin to save and stop a locked instance. `then` is keep or destroy: what becomes of the machine.

    None: it is hibernated already. Errors: WrongState, OperationInProgress.
    """
    if instance.status == Status.HIBERNATED:
        return None
    again = await same_again(session, instance, Status.HIBERNATING, "hibernate")
    if again is not None:
        return again
    expect(instance, Status.RUNNING)
    operation = await start_operation(
        session,
        instance,
        "hibernation.hibernate",
        {"then": then},
        deadline=HIBERNATE_DEADLINE,
        requested_by=user_id,
    )
    await move(session, instance, Status.HIBERNATING)
    return operation


async def wake(
    session: AsyncSession,
    instance: Instance,
    *,
    offer: Offer | None,
    elsewhere: bool,
    accept_loss: bool,
    max_price_hour_nano: int | None,
    start_timeout_minutes: float,
    user_id: str,
    now: datetime,
    chosen: Snapshot | None = None,
) -> Operation | None:
    """Begin to wake a locked instance: on its kept machine, or on another one when asked or when none is kept.

    One that is paused, was interrupted or is offline wakes from its last snapshot, elsewhere only with the waiver: its
    machine may hold newer files.
    `accept_loss` is the owner's waiver for files that could not be saved and lie on the kept machine only.
    `chosen` is a snapshot of the team to wake from; a kept machine's disk then becomes that one, with the waiver where
    it alone has some files.
    None: it is running already. Errors: WrongState, OperationInProgress, SnapshotIncomplete, SpendLimit,
    InsufficientFunds.
    """
    if instance.status == Status.RUNNING and chosen is None:
        return None
    again = await same_again(session, instance, Status.WAKING, "wake")
    if again is not None:
        return again
    _expect_saved(instance, chosen)
    elsewhere = elsewhere or offer is not None or instance.rental_id is None
    if instance.rental_id is not None and (elsewhere or chosen is not None) and not accept_loss:
        refuse_loss(await unsaved(session, instance), disk_newer=instance.disk_newer)
    await _admit(session, instance, offer, now)
    if max_price_hour_nano is not None:
        instance.max_price_hour_nano = max_price_hour_nano
    inputs: dict[str, Any] = {
        "offer": offer_to_json(offer) if offer is not None else None,
        "elsewhere": elsewhere,
        "accept_loss": accept_loss,
        "requested_by": user_id,
        "snapshot_id": chosen.id if chosen is not None else instance.last_snapshot_id,
        "chosen": chosen is not None,
    }
    deadline = HIBERNATE_DEADLINE + timedelta(minutes=3 * start_timeout_minutes)
    operation = await start_operation(
        session, instance, "hibernation.wake", inputs, deadline=deadline, requested_by=user_id
    )
    await move(session, instance, Status.WAKING)
    return operation


async def _admit(session: AsyncSession, instance: Instance, offer: Offer | None, now: datetime) -> None:
    """Let the instance cost again; without an offer, what it cost before.

    Errors: SpendLimit, InsufficientFunds.
    """
    gpu = instance.price_hour_nano if offer is None else offer.gpu_hour_nano
    disk = 0 if offer is None else offer.disk_hour_nano
    await admit(session, instance.team_id, instance.id, gpu_hour_nano=gpu, disk_hour_nano=disk, now=now)


async def unsaved(session: AsyncSession, instance: Instance) -> list[str]:
    """Return the files that the last snapshot does not have as they were, so that only the kept machine may."""
    last = await get_snapshot(session, instance.last_snapshot_id or "")
    return last.unstable + last.read_errors if last is not None else []


def refuse_loss(unsaved: list[str], *, disk_newer: bool) -> None:
    """Refuse to leave the kept machine while it alone has some files, or may have newer ones.

    Errors: SnapshotIncomplete.
    """
    if disk_newer:
        raise SnapshotIncomplete(
            "The kept machine went on for a moment after its snapshot, so its disk may be newer. "
            "Wake there, or accept that what is newer is lost.",
            paths=unsaved[:100],
        )
    if unsaved:
        raise SnapshotIncomplete(
            f"{len(unsaved)} files could not be saved and are on the kept machine only. "
            "Wake there, or accept that they are lost.",
            paths=unsaved[:100],
        )


def _expect_saved(instance: Instance, chosen: Snapshot | None) -> None:
    expect(instance, Status.HIBERNATED, Status.PAUSED, Status.INTERRUPTED, Status.OFFLINE)
    if chosen is not None:
        expect_ready(chosen)
    elif instance.last_snapshot_id is None:
        detail = f"The instance is {instance.status} and has no snapshot to wake from. Wait for its machine."
        raise problems.WrongState(instance.status, [Status.HIBERNATED.value], detail)
