"""What may be spent: money ahead of use for whoever starts a machine, and the limits that a team sets for itself."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.billing import queries
from dumont.billing.documents import decimals, micro_money
from dumont.billing.model import CURRENCY, MICRO_NANO, Mode, SpendLimit, Wallet
from dumont.billing.service import period_starts
from dumont.ledger import HoldRequest, InsufficientFunds, hold

AHEAD_HOURS = 1.0
SNAPSHOT_HOURS = 0.5
"""What a hibernation may take with the GPU running: saving, verifying, stopping."""
DISK_HOURS = 24.0
"""How long a kept disk stays paid for when there is no more money."""
LAUNCH_HOLD = timedelta(hours=1)
"""How long a start may take until its meters hold for themselves."""
LAUNCH = "launch"


@dataclass(frozen=True)
class Passed:
    """A limit that is passed. Units: millionths of a dollar."""

    period: str
    limit: int
    spent: int


def ahead(kind: str, rate_hour_nano: int) -> int:
    """Return what is held for a meter: an hour of use, and what hibernating will cost when there is no more money.

    Units: nano-dollars per hour, millionths of a dollar. Source: decision 20 of the design.
    """
    hours = AHEAD_HOURS + (SNAPSHOT_HOURS if kind == "gpu" else DISK_HOURS)
    return -(-round(rate_hour_nano * hours) // MICRO_NANO)


async def admit(
    session: AsyncSession, team_id: str, instance_id: str, *, gpu_hour_nano: int, disk_hour_nano: int, now: datetime
) -> None:
    """Let a machine be started: within the team's limits, and in prepaid mode with money held for it from now on.

    Guarantees: of two who start at once with money for one, one gets it. The hold ends by itself where nothing starts.
    Errors: SpendLimit, InsufficientFunds.
    """
    wallet = await queries.find_wallet(session, team_id)
    if wallet is None:
        return
    passed = await passed_limit(session, wallet, now, more_hour_nano=gpu_hour_nano + disk_hour_nano)
    if passed is not None:
        raise SpendLimit(
            f"The team's limit per {passed.period} is {decimals(passed.limit, CURRENCY)} USD, and this would make it "
            f"{decimals(passed.spent, CURRENCY)}. Stop something, wait, or have an admin raise the limit.",
            period=passed.period,
            limit=micro_money(passed.limit).model_dump(),
            spent=micro_money(passed.spent).model_dump(),
        )
    if wallet.mode == Mode.PREPAID:
        await _hold_for_start(session, wallet, instance_id, gpu_hour_nano, disk_hour_nano, now)


async def _hold_for_start(
    session: AsyncSession, wallet: Wallet, instance_id: str, gpu_hour_nano: int, disk_hour_nano: int, now: datetime
) -> None:
    needed = ahead("gpu", gpu_hour_nano) + (ahead("disk", disk_hour_nano) if disk_hour_nano else 0)
    if needed <= 0:
        return
    outcome = await hold(
        session,
        HoldRequest(
            team_id=wallet.team_id,
            scope=LAUNCH,
            key=f"{instance_id}:{now.timestamp():.6f}",
            account_id=wallet.account_id,
            amount=needed,
            reason=LAUNCH,
            subject=instance_id,
            expires_at=now + LAUNCH_HOLD,
        ),
    )
    if isinstance(outcome.problem, InsufficientFunds):
        there = int(outcome.problem.extra.get("available", 0))
        raise InsufficientFunds(
            f"Starting this takes {decimals(needed, CURRENCY)} USD ahead (an hour of use, and what hibernating would "
            f"cost), and {decimals(there, CURRENCY)} USD is available. Top the wallet up, or stop something.",
            currency=CURRENCY,
            needed=micro_money(needed).model_dump(),
            available=micro_money(there).model_dump(),
        ) from outcome.problem
    outcome.stands()


async def passed_limit(
    session: AsyncSession, wallet: Wallet, now: datetime, *, more_hour_nano: int = 0
) -> Passed | None:
    """Return the first of a team's limits that is passed, with one more machine of that price; None within all.

    The hour's limit is compared with what all machines and disks cost in an hour; those of day and month (UTC) with
    what was used so far, and an hour of the new machine.
    """
    if wallet.limit_hour is None and wallet.limit_day is None and wallet.limit_month is None:
        return None
    flow = await queries.accruing(session, wallet.team_id, now)
    more = more_hour_nano // MICRO_NANO
    spent = {"hour": flow.burn_hour_nano // MICRO_NANO + more}
    for period, since in zip(("day", "month"), period_starts(now), strict=True):
        spent[period] = await queries.spent_since(session, wallet.team_id, since) + flow.uncharged + more
    for period, amount in spent.items():
        limit = getattr(wallet, f"limit_{period}")
        if limit is not None and amount > limit:
            return Passed(period, limit, amount)
    return None
