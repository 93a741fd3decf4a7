"""Charge what runs: the intent of each meter first, then all postings through the ledger's writer, then what stands."""

from datetime import timedelta, timezone
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.billing import meter_queries
from dumont.billing.meter_queries import Pending
from dumont.billing.model import Stretch
from dumont.billing.wallets import ensure_wallet
from dumont.core import Clock
from dumont.db import Database, DatabaseUnavailable, set_sweep
from dumont.ledger import Leg, OutcomeUnknown, Posting, Writer

log = structlog.get_logger()
PERIOD = timedelta(minutes=15)
"""How much product time an open meter runs up before it is charged."""
_MOST = 500
_ROUNDS = 1000


async def follow_stretch(session: AsyncSession, stretch: Stretch) -> None:
    """Count a stretch of cost in the transaction that begins, changes or ends it.

    Guarantees: the same id again replaces rate and end; what was charged too much or too little is in the next charge.
    """
    await meter_queries.follow(session, stretch)


class Metering:
    """The sweep over all meters of one worker; several workers at once charge nothing twice."""

    def __init__(self, database: Database, clock: Clock, writer: Writer, *, period: timedelta = PERIOD) -> None:
        self._database = database
        self._clock = clock
        self._writer = writer
        self._period = period

    async def run(self) -> dict[str, Any]:
        """Charge what is due of every meter; returns how many postings stand, and how many must be tried again.

        Guarantees: killed anywhere, the next run posts the same under the same keys.
        """
        await self._give_wallets()
        done = left = 0
        for _ in range(_ROUNDS):
            stood, failed = await self._post_pending()
            done, left = done + stood, left + failed
            moved = await self._intend()
            if left or (moved == 0 and stood == 0):
                break
        return {"charged": done, "left": left}

    async def _give_wallets(self) -> None:
        async with self._database.begin() as session:
            await set_sweep(session)
            for team_id in await meter_queries.teams_without_wallet(session):
                await ensure_wallet(session, team_id, self._clock.now())

    async def _intend(self) -> int:
        async with self._database.begin() as session:
            await set_sweep(session)
            return await meter_queries.intend(session, self._clock.now(), self._period)

    async def _post_pending(self) -> tuple[int, int]:
        async with self._database.begin() as session:
            await set_sweep(session)
            charges = await meter_queries.pending(session, _MOST)
        if not charges:
            return 0, 0
        outcomes = await self._writer.post_batch([_posting(charge) for charge in charges])
        stood: list[tuple[Pending, str]] = []
        refused: list[Pending] = []
        for charge, outcome in zip(charges, outcomes, strict=True):
            if outcome.problem is None:
                stood.append((charge, outcome.id))
            elif not isinstance(outcome.problem, (DatabaseUnavailable, OutcomeUnknown)):
                log.error("the ledger refused a charge", meter=charge.id, code=outcome.problem.code)
                refused.append(charge)
        async with self._database.begin() as session:
            await set_sweep(session)
            await meter_queries.charged(session, stood)
            for charge in refused:
                await meter_queries.give_up(session, charge)
        return len(stood), len(charges) - len(stood)


def _posting(charge: Pending) -> Posting:
    """Make the posting of a charge: out of the hold what it covers, the rest on the account that owes.

    Its key follows from the meter, the moment and the total up to it.
    """
    owed = charge.amount - charge.paid
    legs = [Leg(charge.revenue_id, charge.amount), Leg(charge.account_id, -charge.paid), Leg(charge.payer_id, -owed)]
    return Posting(
        team_id=charge.team_id,
        scope="usage",
        key=f"{charge.id}:{charge.pending_to.timestamp():.6f}:{charge.total}",
        kind="usage",
        legs=tuple(leg for leg in legs if leg.amount),
        date=(charge.pending_to.astimezone(timezone.utc) - timedelta(microseconds=1)).date(),
        memo=f"{charge.instance_id} {charge.kind}",
        settles=charge.hold_id if charge.paid else None,
    )
