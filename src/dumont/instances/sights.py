"""What the watch sees of a provider: complete listings, and absences that are believed only when seen again."""

import time

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.durable import live_of_instance
from dumont.instances import queries
from dumont.instances.model import Instance
from dumont.instances.watch_queries import OpenRental
from dumont.instances.world import World
from dumont.providers import Machine, ProviderError

log = structlog.get_logger()
Sight = dict[str, Machine]
"""Every machine of an account by its number, as one complete listing had them."""


async def see(world: World, provider: str) -> Sight | None:
    """List a provider's machines; None where what exists is unknown, which proves nothing about any machine."""
    if provider not in world.providers:
        return None
    try:
        listed = await world.providers[provider].list()
    except ProviderError as error:
        log.warning("machines could not be listed; looking again at the next turn", provider=provider, error=str(error))
        return None
    return {machine.id: machine for machine in listed}


async def is_absent(world: World, provider: str, machine_id: str) -> bool:
    """Ask for one machine that a listing left out; true only where a call that worked says that there is none."""
    try:
        return await world.providers[provider].get(machine_id) is None
    except ProviderError as error:
        log.info("provider gave no certain answer", machine=machine_id, error=str(error))
        return False


async def unchanged(session: AsyncSession, row: OpenRental) -> Instance | None:
    """Lock the instance; None where it changed since the row was read, even there and back, or somebody works on it."""
    instance = await queries.get_locked(session, row.instance_id)
    if instance is None or instance.version != row.version or instance.rental_id != row.rental_id:
        return None
    return instance if await live_of_instance(session, instance.id) is None else None


class Absences:
    """Since when things are absent, in this process."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def again(self, key: str, seconds: float) -> bool:
        """Note an absence; tells whether it was noted before, at least so many real seconds ago."""
        now = time.monotonic()
        since = self._since.setdefault(key, now)
        return since < now and now - since >= seconds

    def forget(self, *keys: str) -> None:
        """Note that something is there, or no longer looked for."""
        for key in keys:
            self._since.pop(key, None)
