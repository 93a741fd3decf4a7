"""Give a machine back: found by number or by label, destroyed, and seen gone twice before anybody believes it.

Absence is believed only when seen twice through calls that worked; errors and time-outs mean unknown.
"""

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import structlog

from dumont.durable import Run
from dumont.instances import rental_rows
from dumont.instances.model import Rental
from dumont.instances.world import World
from dumont.market import explain
from dumont.providers import Machine, Provider, ProviderError

log = structlog.get_logger()


async def release(run: Run, world: World, rental_id: str, reason: str) -> dict[str, Any]:
    """Give a machine back and see it gone twice; then, and only then, the rental is released.

    Errors: the problems of `explain` while the provider gives no certain answer; call again.
    """
    rental = await rental_rows.read_rental(world, run.team_id, rental_id)
    if rental.state == "released":
        return {"released": True}
    provider = world.provider(rental.provider)
    ended = world.clock.now()
    try:
        machine_id = rental.provider_machine_id
        if machine_id is None and rental.state == "asked":
            machine_id = await found_by_label(run, world, provider, rental, patient=True)
        if machine_id is not None:
            ended = await _destroy_and_see(run, world, provider, rental, machine_id)
    except ProviderError as error:
        raise explain(error) from error
    await rental_rows.write_released(world, rental, reason, ended)
    return {"released": True}


async def found_by_label(run: Run, world: World, provider: Provider, rental: Rental, *, patient: bool) -> str | None:
    """Look for the machine with a rental's label, for a while where one may still appear; destroy its twins."""
    patience = world.patience_with(rental.provider)
    until = time.monotonic() + (patience.doubt_seconds if patient else 0.0)
    while True:
        machines = sorted(await provider.find_by_label(rental.label), key=lambda machine: machine.id)
        if machines:
            await _destroy_twins(provider, rental, machines[1:])
            return machines[0].id
        if time.monotonic() >= until:
            return None
        await run.check()
        await asyncio.sleep(patience.poll_seconds)


async def _destroy_twins(provider: Provider, rental: Rental, twins: Sequence[Machine]) -> None:
    """Destroy machines that share a label with one that we hold or have given up: a rent was answered twice."""
    for twin in twins:
        log.error("a second machine has the label of a rental", label=rental.label, machine=twin.id)
        await provider.destroy(twin.id)


async def _destroy_and_see(run: Run, world: World, provider: Provider, rental: Rental, machine_id: str) -> datetime:
    """Destroy until the machine is seen gone twice by its number, which nobody changes, and its label names no other.

    Twins with the label end with it. Returns the product time at which it stopped costing.
    """
    patience = world.patience_with(rental.provider)
    while True:
        await provider.destroy(machine_id)
        ended = world.clock.now()
        gone = await provider.get(machine_id) is None
        await asyncio.sleep(patience.absence_seconds if gone else patience.poll_seconds)
        if gone and await provider.get(machine_id) is None:
            left = await provider.find_by_label(rental.label)
            if not left:
                return ended
            await _destroy_twins(provider, rental, [machine for machine in left if machine.id != machine_id])
        await run.check()
