"""Ask providers what they bill for machines that were given back, and have the charges trued up."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.billing import EndedRental, Stated, true_up
from dumont.db import set_sweep
from dumont.instances.world import World
from dumont.providers import Charge, ProviderError, ProviderUnreachable

log = structlog.get_logger()
AFTER = timedelta(hours=1)
"""How long after its end a machine's bill is asked for: what is billed late shall be in it."""
PATIENCE = timedelta(days=7)
"""How long a bill may say nothing of a machine before that is written down as unknown."""
_MARGIN = timedelta(hours=1)
_WAITING = text(
    "SELECT r.id AS rental_id, r.team_id, r.instance_id, r.provider, r.provider_machine_id, r.created_at, "
    "r.released_at FROM rental r WHERE r.state = 'released' AND r.provider_machine_id IS NOT NULL "
    "AND r.released_at <= :before "
    "AND NOT EXISTS (SELECT FROM true_up t WHERE t.rental_id = r.id AND t.at >= r.released_at) "
    "ORDER BY r.released_at LIMIT 50"
)


@dataclass(frozen=True)
class _Waiting:
    rental_id: str
    team_id: str
    instance_id: str
    provider: str
    provider_machine_id: str
    created_at: datetime
    released_at: datetime


async def true_up_ended(world: World) -> dict[str, Any]:
    """Compare machines that ended an hour ago with their providers' bills; returns how many were, and were not yet.

    Guarantees: a provider that does not answer is asked again the next time; one that states no charges is written
    down as unknown.
    """
    async with world.database.begin() as session:
        await set_sweep(session)
        now = world.clock.now()
        waiting = await _waiting(session, now - AFTER)
    done = 0
    for rental in waiting:
        try:
            stated = await _ask(world, rental, now)
        except ProviderError as error:
            log.info("a provider gave no bill yet", rental_id=rental.rental_id, error=str(error))
            continue
        ended = EndedRental(rental.team_id, rental.instance_id, rental.rental_id, rental.released_at)
        async with world.session(rental.team_id) as session:
            done += await true_up(session, ended, stated, world.clock.now())
    return {"trued_up": done, "left": len(waiting) - done}


async def _waiting(session: AsyncSession, before: datetime) -> list[_Waiting]:
    return [_Waiting(**row._mapping) for row in await session.execute(_WAITING, {"before": before})]


async def _ask(world: World, rental: _Waiting, now: datetime) -> dict[str, Stated] | None:
    """Return the provider's own bill by kind; None where it does not state one, or is not configured any more.

    Errors: the provider's; ProviderUnreachable while its bill says nothing of the machine.
    """
    provider = world.providers.get(rental.provider)
    if provider is None or not provider.capabilities.states_charges:
        return None
    begin, end = rental.created_at - _MARGIN, rental.released_at + _MARGIN
    charges = await provider.charges(rental.provider_machine_id, begin, end)
    if not charges and now - rental.released_at < PATIENCE:
        raise ProviderUnreachable("The provider has no line for this machine yet; an empty bill is no bill of zero.")
    return _summed(charges) if charges else None


def _summed(charges: Iterable[Charge]) -> dict[str, Stated]:
    found: dict[str, Stated] = {}
    for charge in charges:
        before = found.get(charge.kind, Stated(0, 0))
        found[charge.kind] = Stated(before.nano + charge.amount_nano, before.lines + 1)
    return found
