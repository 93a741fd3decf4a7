"""What takes longer than a request: launch a machine and destroy it."""

import asyncio
from functools import partial
from typing import Any, NoReturn

from sqlalchemy import Integer
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import Problem
from dumont.durable import Ending, Result, Retry, Run, StepFailed, workflow
from dumont.instances import queries, rental_rows, service
from dumont.instances.acquire import PATIENT, Wish, acquire
from dumont.instances.model import HostLost, Instance, Rental, Status
from dumont.instances.moves import moved_to, moving
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
    wish_read = partial(rental_rows.read_wish, world, run.team_id, run.instance_id or "")
    facts = await run.read("read instance", wish_read)
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

    return taking_machine(run, world, rental_id, label=wish.label, tried=wish.tried)


def wish_of(instance: Instance) -> dict[str, Any]:
    """The part of a wish that an instance carries with it wherever it goes."""
    return {name: getattr(instance, name) for name in rental_rows.WISH}


async def take_machine(run: Run, world: World, rental_id: str, session: AsyncSession) -> dict[str, Any]:
    """Make a rental the instance's machine and the instance running."""
    instance, rental = await _untaken(run, rental_id, session)
    instance.rental_id = rental_id
    instance.started_at = world.clock.now()
    instance.paused_at = instance.hibernated_at = None
    instance.disk_newer = False
    for name in service.FROM_OFFER:
        setattr(instance, name, rental.offer[name])
    await service.move(session, instance, Status.RUNNING)
    return {"instance_id": instance.id, "rental_id": rental_id, "label": rental.label}


async def _untaken(run: Run, rental_id: str, session: AsyncSession) -> tuple[Instance, Rental]:
    instance = await service.find_instance(session, run.instance_id or "", lock=True)
    rental = await queries.get_rental(session, rental_id)
    if rental.state == "released":
        raise HostLost("The machine was given back meanwhile.")
    return instance, rental


def _from_offer(name: str) -> str:
    """Write how a column of an instance is taken from the JSON of an offer."""
    cast = "::bigint" if isinstance(Instance.__table__.c[name].type, Integer) else ""
    return f"{name} = (r.offer->>'{name}'){cast}"


_TAKEN = moving(
    sets="rental_id = :rental, started_at = :at, paused_at = NULL, hibernated_at = NULL, disk_newer = false, "
    + ", ".join(_from_offer(name) for name in service.FROM_OFFER),
    held=", (SELECT offer FROM rental WHERE id = :rental AND state <> 'released' FOR SHARE) AS r",
)
"""What `take_machine` does, as an ending."""


def taking_machine(run: Run, world: World, rental_id: str, *, label: str, tried: list[dict[str, Any]]) -> Ending:
    """End a workflow by `take_machine`."""

    async def refuse(session: AsyncSession) -> NoReturn:
        instance, _ = await _untaken(run, rental_id, session)
        await service.move(session, instance, Status.RUNNING)
        raise StepFailed(f"The machine could not be taken. Report it with operation {run.operation_id}.")

    values, news = moved_to(Status.RUNNING)
    values |= {"rental": rental_id, "at": world.clock.now()}
    result = {"instance_id": run.instance_id, "rental_id": rental_id, "label": label, "tried": tried}
    return Ending(_TAKEN, values, news, result, refuse)


async def destroy_failed(session: AsyncSession, run: Run, problem: Problem) -> None:
    """Keep the state destroying: the machine may still cost money, so nobody may believe that it is gone."""
    instance = await service.find_instance(session, run.instance_id or "", lock=True)
    instance.status_detail = problem.detail


@workflow("instances.destroy", kind="destroy", steps=("wait", "destroy", "gone"), on_failure=destroy_failed)
async def destroy(run: Run, world: World) -> Result:
    """Give back every machine of the instance and see each of them gone."""
    rentals = run.input.get("rentals")
    if rentals is None:
        rentals = (await run.call("wait", partial(_wait_for_others, run, world)))["rentals"]
    else:
        run.skip("wait")
    patient = Retry(on=PATIENT.on, for_seconds=float("inf"), most_seconds=15.0)
    for number, rental_id in enumerate(rentals, start=1):
        name = "destroy" if number == 1 else f"destroy ({number})"
        give_back = partial(release, run, world, rental_id, run.input["reason"])
        await run.call(name, give_back, retry=patient)
    return _gone(run, world, rentals)


async def _wait_for_others(run: Run, world: World) -> dict[str, Any]:
    """Wait until nothing else works on the instance, and list the machines that it then has."""
    while True:
        other, rentals = await rental_rows.what_is_left(world, run.team_id, run.instance_id or "")
        if other is None or other == run.operation_id:
            return {"rentals": rentals}
        await run.check()
        await asyncio.sleep(0.3)


_GONE = moving(sets="rental_id = NULL, destroyed_at = :at")


def _gone(run: Run, world: World, rentals: list[str]) -> Ending:
    async def refuse(session: AsyncSession) -> NoReturn:
        instance = await service.find_instance(session, run.instance_id or "", lock=True)
        await service.move(session, instance, Status.DESTROYED)
        raise StepFailed(f"The end could not be written. Report it with operation {run.operation_id}.")

    values, news = moved_to(Status.DESTROYED)
    result = {"instance_id": run.instance_id, "machines_given_back": len(rentals)}
    return Ending(_GONE, {**values, "at": world.clock.now()}, news, result, refuse)
