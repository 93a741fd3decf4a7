"""What bookkeeping does by itself: end holds whose time is over, and find what is worth pointing out."""

from datetime import datetime
from typing import Any

import structlog

from dumont.bookkeeping import insight_queries, insight_service
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


@schedule("bookkeeping.insights", cron="23 4 * * *")
async def refresh_insights(world: Any, at: datetime) -> None:
    """Refresh the insights of all users of all teams, a transaction for each team. Runs again harmlessly."""
    users = 0
    async with world.database.begin() as session:
        await set_sweep(session)
        teams = await insight_queries.open_teams(session)
    for team_id in teams:
        async with world.database.begin() as session:
            await set_sweep(session)
            users += await insight_service.refresh_team(session, team_id, world.clock.now())
    log.info("insights are fresh", teams=len(teams), users=users)
