"""What the house does for itself by night: forget what nobody needs any more."""

from datetime import datetime, timedelta, timezone
from typing import Any

import structlog

from dumont.db import prune, set_sweep
from dumont.durable import forget_history, schedule
from dumont.http import forget_keys
from dumont.identity import forget_access

log = structlog.get_logger()
HISTORY_DAYS = 7
NEWS_DAYS = 7
KEY_DAYS = 30
ACCESS_DAYS = 30


@schedule("operations.clean", cron="17 3 * * *")
async def clean(world: Any, at: datetime) -> None:
    """Delete old engine history, delivered news, idempotency keys and ended sessions. Runs again harmlessly."""
    now = datetime.now(timezone.utc)
    workflows = await forget_history(now - timedelta(days=HISTORY_DAYS))
    async with world.database.begin() as session:
        await set_sweep(session)
        news = await prune(session, now - timedelta(days=NEWS_DAYS))
        keys = await forget_keys(session, now - timedelta(days=KEY_DAYS))
        access = await forget_access(session, now - timedelta(days=ACCESS_DAYS))
    log.info("old records are gone", workflows=workflows, news=news, keys=keys, access=access)
