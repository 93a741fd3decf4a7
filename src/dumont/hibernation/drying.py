"""Hibernate what nothing pays for any more: billing says which instances, and this sweep reads it again and again."""

import time
from contextlib import suppress
from typing import Any

import structlog

from dumont.billing import Dry, dry_teams
from dumont.db import set_sweep
from dumont.hibernation.service import hibernate
from dumont.http import problems
from dumont.instances import InstanceNotFound, OperationInProgress, Status, World, find_instance

log = structlog.get_logger()
AGAIN_SECONDS = 60.0
"""Real seconds after which a hibernation that failed is begun anew."""


class DrySweep:
    """The sweep of one worker; remembers what it began, so that it does not begin it again at once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._begun: dict[str, float] = {}

    async def run(self) -> dict[str, Any]:
        """Begin to hibernate, with the machine's disk kept, every running instance that is dry; returns how many."""
        async with self._world.database.begin() as session:
            await set_sweep(session)
            found = await dry_teams(session, self._world.clock.now())
        self._begun = {one.instance_id: self._begun.get(one.instance_id, float("-inf")) for one in found}
        begun = 0
        for one in found:
            if time.monotonic() - self._begun[one.instance_id] >= AGAIN_SECONDS:
                with suppress(OperationInProgress, InstanceNotFound, problems.WrongState):
                    begun += await self._hibernate(one)
        return {"dry": len(found), "hibernations_begun": begun}

    async def _hibernate(self, dry: Dry) -> bool:
        async with self._world.session(dry.team_id) as session:
            instance = await find_instance(session, dry.instance_id, lock=True)
            if instance.status != Status.RUNNING:
                return False
            await hibernate(session, instance, then="keep", user_id=instance.created_by)
        self._begun[dry.instance_id] = time.monotonic()
        log.warning("an instance is hibernated because of money", instance_id=dry.instance_id, reason=dry.reason)
        return True
