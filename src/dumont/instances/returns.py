"""Machines that were believed gone and are listed again: their instances get them back, for they may hold work.

Two looks at a marketplace can both be wrong: it lost sight of a host, or we asked it with another account's key. Such a
machine was never given up by anybody, so it is not ours to destroy.
"""

from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.db import publish
from dumont.durable import live_of_instance
from dumont.instances import queries
from dumont.instances.model import GONE, Instance, Rental, Status
from dumont.instances.watch_queries import KnownLabel
from dumont.instances.world import World
from dumont.providers import Machine, MachineState, ProviderError

log = structlog.get_logger()
_GIVEN_UP = frozenset({Status.DESTROYING, Status.DESTROYED})
_SAID = "The machine was missing at its provider and is there again."


async def take_back(world: World, known: KnownLabel, machine: Machine) -> bool:
    """Make a machine the machine of its instance again, with a cost that never paused; what it does is seen next.

    Guarantees: only where the instance has no other machine, nobody works on it, and nobody gave it up.
    """
    try:
        again = await world.provider(known.provider).get(machine.id)
    except ProviderError as error:
        log.info("provider gave no certain answer", machine=machine.id, error=str(error))
        return False
    if again is None or again.label != known.label or again.id != known.provider_machine_id:
        return False
    async with world.session(known.team_id) as session:
        instance = await queries.get_locked(session, known.instance_id)
        rental = await queries.get_rental(session, known.id)
        if instance is None or not await _still_missed(session, instance, rental):
            return False
        await _hold_again(session, instance, rental, runs=again.state is MachineState.RUNNING)
    log.error("a machine that was believed gone is there again", instance_id=known.instance_id, label=known.label)
    return True


async def _still_missed(session: AsyncSession, instance: Instance, rental: Rental) -> bool:
    if instance.rental_id is not None or instance.status in _GIVEN_UP:
        return False
    if rental.state != "released" or rental.reason != GONE:
        return False
    return await live_of_instance(session, instance.id) is None


async def _hold_again(session: AsyncSession, instance: Instance, rental: Rental, *, runs: bool) -> None:
    unseen: dict[str, Any] = {"released_at": None, "released_real_at": None, "reason": None}
    ended = rental.released_at
    await queries.change_rental(session, rental.id, state="rented", **unseen)
    if ended is not None:
        for kind in ("disk", "gpu") if runs else ("disk",):
            await queries.continue_span(session, rental.id, kind, ended)
    instance.rental_id = rental.id
    instance.status_detail = _SAID
    instance.disk_newer = True
    instance.version += 1
    await publish(
        session,
        topic="instance.machine_back",
        resource_type="instance",
        resource_id=instance.id,
        team_id=instance.team_id,
        data={"provider": rental.provider, "provider_machine_id": rental.provider_machine_id, "label": rental.label},
    )
