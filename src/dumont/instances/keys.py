"""Letting one more SSH key into a machine that runs: that of a colleague, or of another computer."""

from datetime import timedelta
from functools import partial
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import Problem
from dumont.durable import Operation, Run, begin_operation, workflow
from dumont.identity import SshKey
from dumont.instances import queries, service
from dumont.instances.acquire import PATIENT
from dumont.instances.model import HostLost, Instance, InstanceNotRunning, Rental, Status
from dumont.instances.world import World
from dumont.market import ProviderSaidNo, explain
from dumont.providers import MachineAbsent, ProviderError

_DEADLINE = timedelta(minutes=5)


async def attach(session: AsyncSession, instance: Instance, key: SshKey, *, user_id: str) -> Operation:
    """Begin to let a key into the machine of a running instance, beside whatever else is done to it.

    Errors: InstanceNotRunning.
    """
    await _rental(session, instance)
    return await begin_operation(
        session,
        "instances.attach_key",
        team_id=instance.team_id,
        resource=("instance", instance.id),
        instance_id=None,
        inputs={"instance_id": instance.id, "public_key": key.public_key, "fingerprint": key.fingerprint},
        deadline=_DEADLINE,
        requested_by=user_id,
    )


async def attach_failed(session: AsyncSession, run: Run, problem: Problem) -> None:
    """Leave the instance as it is: a key that is not let in changes nothing about it, and the operation says why."""


@workflow("instances.attach_key", kind="attach_key", steps=("attach",), on_failure=attach_failed)
async def attach_key(run: Run, world: World) -> dict[str, Any]:
    """Ask the provider to let the key in; once more changes nothing."""
    return await run.call("attach", partial(_attach, run, world), retry=PATIENT)  # type: ignore[no-any-return]


async def _attach(run: Run, world: World) -> dict[str, Any]:
    async with world.session(run.team_id) as session:
        rental = await _rental(session, await service.find_instance(session, run.input["instance_id"]))
    provider = world.provider(rental.provider)
    if not provider.capabilities.attach_key_to_running:
        raise ProviderSaidNo("This provider gives keys to machines only when they are rented. Launch or wake anew.")
    try:
        await provider.attach_key(rental.provider_machine_id or "", run.input["public_key"])
    except MachineAbsent as error:
        raise HostLost("The provider does not know the machine any more.") from error
    except ProviderError as error:
        raise explain(error) from error
    return {"instance_id": run.input["instance_id"], "fingerprints": [run.input["fingerprint"]]}


async def _rental(session: AsyncSession, instance: Instance) -> Rental:
    rental = await queries.get_rental(session, instance.rental_id) if instance.rental_id else None
    if instance.status != Status.RUNNING or rental is None:
        raise InstanceNotRunning(f"The instance is {instance.status}; attach the key once it is running.")
    return rental
