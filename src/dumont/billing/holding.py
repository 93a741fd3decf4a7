"""Keep prepaid use covered: hold an hour ahead of every meter, tell when money gets low, say who has none left."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.billing import hold_queries, queries
from dumont.billing.documents import decimals
from dumont.billing.hold_queries import Covered
from dumont.billing.model import CURRENCY, Mode, Wallet
from dumont.billing.spending import LAUNCH, ahead, passed_limit
from dumont.core import Clock, new_id
from dumont.db import Database, publish, set_sweep, set_team
from dumont.ledger import HoldRequest, Leg, Posting, expire_holds, get_account, hold, post, void

_MOST = 200
"""How many meters are covered in one transaction, which holds the wallet; the others come in the next rounds."""


@dataclass(frozen=True)
class Dry:
    """A running instance that nothing pays for any more, or that a limit of its team forbids."""

    team_id: str
    instance_id: str
    reason: str


class Holding:
    """The sweep over holds of one worker; several at once take turns by the wallet's row."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def run(self) -> dict[str, Any]:
        """Cover the meters of every prepaid team, and end holds of starts that never came; returns how many teams."""
        now = self._clock.now()
        async with self._database.begin() as session:
            await set_sweep(session)
            await expire_holds(session, now)
            teams = await hold_queries.teams_to_cover(session)
        for team_id in teams:
            async with self._database.begin() as session:
                await set_team(session, team_id)
                await _cover_team(session, team_id, now)
        return {"teams": len(teams)}


async def dry_teams(session: AsyncSession, now: datetime) -> list[Dry]:
    """Read which running instances must be hibernated because of money, of all teams; the session sees all."""
    found = dict.fromkeys(await hold_queries.short_instances(session), "dry")
    for wallet in await hold_queries.limited_wallets(session):
        if await passed_limit(session, wallet, now) is None:
            continue
        for instance in await hold_queries.running_instances(session, wallet.team_id):
            found.setdefault((wallet.team_id, instance), "limit")
    return [Dry(team, instance, reason) for (team, instance), reason in sorted(found.items())]


async def _cover_team(session: AsyncSession, team_id: str, now: datetime) -> None:
    wallet = await queries.find_wallet(session, team_id, lock=True)
    assert wallet is not None
    meters = await hold_queries.covered(session, team_id, _MOST)
    if wallet.mode == Mode.PREPAID:
        await _collect(session, wallet, now)
    for meter in meters:
        if meter.hold_id is not None and (meter.ended or wallet.mode != Mode.PREPAID):
            await void(session, team_id, meter.hold_id, "nothing more to pay")
            await hold_queries.cover(session, meter.id, None, 0, None)
    if wallet.mode != Mode.PREPAID:
        return
    available = (await get_account(session, wallet.account_id)).available or 0
    short = []
    for meter in meters:
        if meter.open:
            available, is_short = await _cover(session, wallet, meter, available, now)
            short += [meter] if is_short and meter.kind == "gpu" and meter.short_since is None else []
    await _tell(session, wallet, available, short, now)


async def _cover(
    session: AsyncSession, wallet: Wallet, meter: Covered, available: int, now: datetime
) -> tuple[int, bool]:
    """Hold what a meter needs, or what there is; returns what is available then, and whether it is too little."""
    need = ahead(meter.kind, meter.rate_hour_nano)
    if meter.held >= need:
        return available, False
    if meter.kind == "gpu":
        for launch, amount in await hold_queries.launch_holds(session, wallet.account_id, meter.instance_id, LAUNCH):
            await void(session, wallet.team_id, launch, "the machine runs")
            available += amount
    if available <= 0 and meter.short_since is not None:
        return available, True
    if meter.hold_id is not None:
        await void(session, wallet.team_id, meter.hold_id, "held anew")
        available += meter.held
    held = max(0, min(need, available))
    hold_id = await _hold(session, wallet, meter, held) if held else None
    held = held if hold_id is not None else 0
    since = None if held >= need else meter.short_since or now
    await hold_queries.cover(session, meter.id, hold_id, held, since)
    return available - held, held < need


async def _hold(session: AsyncSession, wallet: Wallet, meter: Covered, amount: int) -> str | None:
    """Keep an amount aside for a meter; None where somebody else took the money in this moment.

    Its key is new each time: hold and meter commit as one, so there is nothing to ask for a second time.
    """
    outcome = await hold(
        session,
        HoldRequest(
            team_id=wallet.team_id,
            scope="ahead",
            key=new_id("hld"),
            account_id=wallet.account_id,
            amount=amount,
            reason=f"ahead of use: {meter.kind}",
            subject=meter.instance_id,
        ),
    )
    return outcome.id if outcome.problem is None else None


async def _collect(session: AsyncSession, wallet: Wallet, now: datetime) -> None:
    """Pay from the wallet what is owed, as far as it goes, or give back to it what was charged too much."""
    owed = await get_account(session, wallet.receivable_id)
    own = await get_account(session, wallet.account_id)
    amount = owed.balance if owed.balance > 0 else -min(-owed.balance, max(0, own.available or 0))
    if amount == 0:
        return
    posting = Posting(
        team_id=wallet.team_id,
        scope="collect",
        key=f"{owed.id}:{owed.version}",
        kind="settlement",
        legs=(Leg(wallet.account_id, amount), Leg(wallet.receivable_id, -amount)),
        date=now.date(),
        memo="use that no hold covered" if amount < 0 else "charged too much before",
    )
    await post(session, posting)


async def _tell(session: AsyncSession, wallet: Wallet, available: int, short: list[Covered], now: datetime) -> None:
    low = available < wallet.low_threshold
    if low and wallet.low_since is None:
        await _publish(session, wallet, "billing.low", {"available": decimals(available, CURRENCY)})
    wallet.low_since = (wallet.low_since or now) if low else None
    for meter in short:
        told = {"instance_id": meter.instance_id, "hibernates": wallet.auto_hibernate}
        await _publish(session, wallet, "billing.dry", told)


async def _publish(session: AsyncSession, wallet: Wallet, topic: str, data: dict[str, Any]) -> None:
    await publish(
        session,
        topic=topic,
        resource_type="wallet",
        resource_id=wallet.account_id,
        team_id=wallet.team_id,
        data={**data, "currency": CURRENCY},
    )
