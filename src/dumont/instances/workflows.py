"""What takes longer than a request: launch a machine and destroy it."""

import asyncio
from functools import partial
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import Problem
from dumont.durable import Result, Retry, Run, workflow
from dumont.instances import queries, rental_rows, service
from dumont.instances.acquire import PATIENT, Wish, acquire
from dumont.instances.model import HostLost, Instance, Status
from dumont.instances.release import release
from dumont.instances.world import World

LOST_ANSWERS = 2
"""How many attempts of a launch may come to nothing because an answer was lost, beside the machines to be tried."""


async def launch_failed(session: AsyncSession, run: Run, problem: Problem) -> None:
    """Leave the instance failed, unless somebody is destroying it already."""
    instance = await service.find_instance(session, run.instance_id or "", lock=True)
    if instance.status == Status.CREATING:
        await service.move(session, instance, Status.FAILED, detail=problem.detail)


@workflow("instances.launch", kind="create", steps=("rent", "boot", "ready"), on_failure=launch_failed)
async def launch(run: Run, world: World) -> Result:
    """Rent the chosen offer and see it answer on SSH; where it fails, the next best ones, as far as was agreed to."""
    facts = await run.record("read instance", partial(_facts, run))
    machines = run.input["attempts"]
    wish = Wish(
        **facts,
        offer=run.input["offer"],
        requested_by=run.input["requested_by"],
        start_timeout_minutes=run.input["start_timeout_minutes"],
        machines=machines,
        attempts=machines + LOST_ANSWERS,
        elsewhere=machines > 1,
        retry_price_hour_nano=run.input["retry_price_hour_nano"],
    )

    async def nothing_more(rental_id: str, attempt: int) -> None:
        return None

    rental_id = await acquire(run, world, wish, nothing_more)

    async def ready(session: AsyncSession) -> dict[str, Any]:
        return {**await take_machine(run, world, rental_id, session), "tried": wish.tried}

    return ready


async def _facts(run: Run, session: AsyncSession) -> dict[str, Any]:
    instance = await service.find_instance(session, run.instance_id or "")
    return wish_of(instance)


def wish_of(instance: Instance) -> dict[str, Any]:
    """The part of a wish that an instance carries with it wherever it goes."""
    return {
        "image": instance.image,
        "disk_gb": instance.disk_gb,
        "env": instance.env,
        "onstart_cmd": instance.onstart_cmd,
        "max_price_hour_nano": instance.max_price_hour_nano,
        "ports": instance.ports,
        "bid_hour_nano": instance.bid_hour_nano,
    }


async def take_machine(run: Run, world: World, rental_id: str, session: AsyncSession) -> dict[str, Any]:
    """Make a rental the instance's machine and the instance running."""
    instance = await service.find_instance(session, run.instance_id or "", lock=True)
    rental = await queries.get_rental(session, rental_id)
    if rental.state == "released":
        raise HostLost("The machine was given back meanwhile.")
    instance.rental_id = rental_id
    instance.started_at = world.clock.now()
    instance.paused_at = instance.hibernated_at = None
    instance.disk_newer = False
    for name in service.FROM_OFFER:
        setattr(instance, name, rental.offer[name])
    await service.move(session, instance, Status.RUNNING)
    return {"instance_id": instance.id, "rental_id": rental_id, "label": rental.label}


async def destroy_failed(session: AsyncSession, run: Run, problem: Problem) -> None:
    """Keep the state destroying: the machine may still cost money, so nobody may believe that it is gone."""
    instance = await service.find_instance(session, run.instance_id or "", lock=True)
    instance.status_detail = problem.detail


@workflow("instances.destroy", kind="destroy", steps=("wait", "destroy", "gone"), on_failure=destroy_failed)
async def destroy(run: Run, world: World) -> Result:
    """Give back every machine of the instance and see each of them gone."""
    rentals = (await run.call("wait", partial(_wait_for_others, run, world)))["rentals"]
    patient = Retry(on=PATIENT.on, for_seconds=float("inf"), most_seconds=15.0)
    for number, rental_id in enumerate(rentals, start=1):
        name = "destroy" if number == 1 else f"destroy ({number})"
        give_back = partial(release, run, world, rental_id, run.input["reason"])
        await run.call(name, give_back, retry=patient)
    return partial(_gone, run, world, rentals)


async def _wait_for_others(run: Run, world: World) -> dict[str, Any]:
    """Wait until nothing else works on the instance, and list the machines that it then has."""
    while True:
        other, rentals = await rental_rows.what_is_left(world, run.team_id, run.instance_id or "")
        if other is None or other == run.operation_id:
            return {"rentals": rentals}
        await run.check()
        await asyncio.sleep(0.3)


async def _gone(run: Run, world: World, rentals: list[str], session: AsyncSession) -> dict[str, Any]:
    instance = await service.find_instance(session, run.instance_id or "", lock=True)
    instance.rental_id = None
    instance.destroyed_at = world.clock.now()
    await service.move(session, instance, Status.DESTROYED)
    return {"instance_id": instance.id, "machines_given_back": len(rentals)}
