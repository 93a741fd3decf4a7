"""What bookkeeping does by itself: end the holds whose time is over."""

from datetime import datetime
from typing import Any

import structlog

from dumont.bookkeeping.holds import AT_ONCE
from dumont.db import set_sweep
from dumont.durable import schedule
from dumont.ledger import expire_holds

log = structlog.get_logger()


@schedule("bookkeeping.expire_holds", cron="* * * * *")
async def expire_all(world: Any, at: datetime) -> None:
    """End the holds of all teams whose time is over. Runs again harmlessly."""
    ended = 0
    while True:
        async with world.database.begin() as session:
            await set_sweep(session)
            more = await expire_holds(session, world.clock.now(), limit=AT_ONCE)
        ended += more
        if more < AT_ONCE:
            break
    if ended:
        log.info("holds have expired", holds=ended)
