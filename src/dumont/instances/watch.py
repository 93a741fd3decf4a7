"""The watch over machines: losses and sweeps, each at its time, once whatever the number of workers.

Whose turn it is stands in the database, so the period may be any number of seconds and the durable engine keeps no
record of ten thousand looks a day. A worker that dies in its turn is followed by another after one period.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import structlog

from dumont.db import set_sweep
from dumont.instances import watch_queries
from dumont.instances.losses import Losses
from dumont.instances.sweeps import Sweep
from dumont.instances.world import World

log = structlog.get_logger()


async def keep_watch(world: World) -> None:
    """Look for losses and sweep again and again, until cancelled."""
    await asyncio.gather(
        _again(world, "losses", world.settings.loss_seconds, Losses(world).look),
        _again(world, "sweep", world.settings.sweep_seconds, Sweep(world).run),
    )


async def _again(world: World, name: str, seconds: float, body: Callable[[], Awaitable[dict[str, Any]]]) -> None:
    """Run `body` whenever the turn of that name is ours; an error is logged and the next turn tries again."""
    while True:
        pause = min(seconds, 5.0)
        try:
            async with world.database.begin() as session:
                await set_sweep(session)
                left = await watch_queries.take_turn(session, name, seconds)
            if left == 0.0:
                await _turn(world, name, seconds, body)
                continue
            pause = left + 0.01
        except Exception as error:  # noqa: BLE001 - the watch outlives every error; each is logged
            log.warning("the watch will look again", name=name, error=repr(error))
        await asyncio.sleep(min(pause, seconds))


async def _turn(world: World, name: str, seconds: float, body: Callable[[], Awaitable[dict[str, Any]]]) -> None:
    keeping = asyncio.create_task(_keep(world, name, seconds))
    begun = time.monotonic()
    try:
        found = await body()
    finally:
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping
    async with world.database.begin() as session:
        await set_sweep(session)
        await watch_queries.end_turn(session, name, {**found, "seconds": round(time.monotonic() - begun, 3)})


async def _keep(world: World, name: str, seconds: float) -> None:
    """Hold the turn while a long look goes on."""
    while True:
        await asyncio.sleep(seconds / 2)
        async with world.database.begin() as session:
            await set_sweep(session)
            await watch_queries.keep_turn(session, name, seconds)
