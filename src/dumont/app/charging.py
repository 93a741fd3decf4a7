"""The worker's rounds over money: meters are charged again and again, until the process ends."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import structlog

from dumont.billing import Holding, Metering
from dumont.hibernation import DrySweep
from dumont.instances import World, true_up_ended
from dumont.ledger import Lane, Writer

log = structlog.get_logger()
Round = Callable[[], Awaitable[Any]]


async def keep_charging(world: World, worker_url: str) -> None:
    """Charge meters, hold ahead, and hibernate what is dry every few seconds; any number of workers may do so."""
    writer = Writer(Lane(worker_url))
    metering = Metering(world.database, world.clock, writer)
    rounds: Sequence[Round] = (
        metering.run,
        Holding(world.database, world.clock).run,
        DrySweep(world).run,
        partial(true_up_ended, world),
    )
    try:
        while True:
            for body in rounds:
                await _outlive(body)
            await asyncio.sleep(world.settings.charge_seconds)
    finally:
        await writer.close()


async def _outlive(body: Round) -> None:
    try:
        await body()
    except Exception as error:  # noqa: BLE001 - the rounds outlive every error; each is logged
        log.warning("money will be looked after again", error=repr(error))
