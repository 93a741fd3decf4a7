"""What the ledger does for itself by night: prove that it adds up, and raise an alarm where it does not."""

import asyncio
from dataclasses import asdict
from datetime import datetime
from typing import Any

import structlog

from dumont.db import publish, set_sweep
from dumont.durable import schedule
from dumont.ledger.audit import audit

log = structlog.get_logger()
BROKEN = "ledger.broken"
"""The news of an audit that found something; it belongs to no team, so only the operator can read it."""


@schedule("ledger.audit", cron="41 3 * * *")
async def audit_by_night(world: Any, at: datetime) -> None:
    """Audit the whole ledger; what is wrong becomes an error in the log and news. Runs again harmlessly.

    Errors: DatabaseUnavailable.
    """
    found = await asyncio.to_thread(audit, world.database.url)
    broken = [check for check in found.checks if check.broken]
    if not broken:
        log.info("the ledger adds up", accounts=found.accounts, entries=found.entries, transfers=found.transfers)
        return
    for check in broken:
        log.error(
            "the ledger does not add up: stop what posts and run `dumont ledger audit`",
            rule=check.name,
            broken=check.broken,
            first=check.first,
        )
    async with world.database.begin() as session:
        await set_sweep(session)
        data = {"at": at.isoformat(), "checks": [asdict(check) for check in broken]}
        await publish(session, topic=BROKEN, resource_type="ledger", resource_id="audit", data=data)
