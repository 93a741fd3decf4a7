"""What is read and written of meters and their holds, one named function each."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.billing.meter_queries import UNFINISHED
from dumont.billing.model import Wallet

_TEAMS = text(
    f"SELECT DISTINCT m.team_id FROM meter m JOIN wallet w ON w.team_id = m.team_id "
    f"WHERE {UNFINISHED} AND (w.mode = 'prepaid' OR m.hold_id IS NOT NULL) ORDER BY 1"
)
_COVERED = text(
    "SELECT m.id, m.instance_id, m.kind, m.rate_hour_nano, replace(m.hold_id::text, '-', '') AS hold_id, m.held, "
    "m.short_since, m.to_at IS NULL AS open, m.to_at = m.charged_to AS ended "
    "FROM meter m JOIN wallet w ON w.team_id = m.team_id "
    f"WHERE m.team_id = :team AND m.pending IS NULL AND {UNFINISHED} AND (m.hold_id IS NULL OR m.to_at IS NOT NULL "
    "OR m.short_since IS NOT NULL OR w.mode <> 'prepaid') "
    "ORDER BY m.short_since NULLS FIRST, m.from_at, m.id LIMIT :most FOR UPDATE OF m"
)
"""What is covered in full waits for its next charge, which settles its hold."""
_SET = text("UPDATE meter SET hold_id = CAST(:hold AS uuid), held = :held, short_since = :short_since WHERE id = :id")
_LAUNCHES = text(
    "SELECT replace(id::text, '-', '') AS id, amount FROM ledger_hold WHERE account_id = :account "
    "AND status = 'open' AND reason = :reason AND subject = :instance"
)
_SHORT = text(
    "SELECT DISTINCT m.team_id, m.instance_id FROM meter m JOIN wallet w ON w.team_id = m.team_id "
    "WHERE w.mode = 'prepaid' AND w.auto_hibernate AND m.kind = 'gpu' AND m.to_at IS NULL "
    "AND m.short_since IS NOT NULL ORDER BY 1, 2"
)
_RUNNING = text("SELECT DISTINCT instance_id FROM meter WHERE team_id = :team AND kind = 'gpu' AND to_at IS NULL")
_OPEN_RATES = text("SELECT kind, rate_hour_nano FROM meter WHERE team_id = :team AND to_at IS NULL")


@dataclass(frozen=True)
class Covered:
    """A meter and the hold that covers it; `ended`: it was charged to its end. Units: millionths of a dollar."""

    id: str
    instance_id: str
    kind: str
    rate_hour_nano: int
    hold_id: str | None
    held: int
    short_since: datetime | None
    open: bool
    ended: bool | None


async def teams_to_cover(session: AsyncSession) -> list[str]:
    """Read which teams have meters that need holds, or holds that nothing needs."""
    return [str(row[0]) for row in await session.execute(_TEAMS)]


async def covered(session: AsyncSession, team_id: str, most: int) -> list[Covered]:
    """Read and lock the meters of a team whose holds must change, oldest first, but for those in mid-charge."""
    return [Covered(**row._mapping) for row in await session.execute(_COVERED, {"team": team_id, "most": most})]


async def cover(
    session: AsyncSession, meter_id: str, hold_id: str | None, held: int, short_since: datetime | None
) -> None:
    """Write which hold covers a meter, and since when it is less than it should be."""
    values = {"id": meter_id, "hold": hold_id, "held": held, "short_since": short_since}
    await session.execute(_SET, values)


async def launch_holds(session: AsyncSession, account_id: str, instance_id: str, reason: str) -> list[tuple[str, int]]:
    """Read the holds that were made when an instance was about to start, with their amounts."""
    values = {"account": account_id, "instance": instance_id, "reason": reason}
    return [(str(row.id), int(row.amount)) for row in await session.execute(_LAUNCHES, values)]


async def short_instances(session: AsyncSession) -> list[tuple[str, str]]:
    """Read (team, instance) of running machines for which not enough could be held, where that ends in hibernation."""
    return [(str(row[0]), str(row[1])) for row in await session.execute(_SHORT)]


async def limited_wallets(session: AsyncSession) -> Sequence[Wallet]:
    """Read the wallets whose limits hibernate."""
    return (await session.scalars(select(Wallet).where(Wallet.hibernate_over_limit))).all()


async def running_instances(session: AsyncSession, team_id: str) -> list[str]:
    """Read which instances have a GPU that costs."""
    return [str(row[0]) for row in await session.execute(_RUNNING, {"team": team_id})]


async def open_rates(session: AsyncSession, team_id: str) -> list[tuple[str, int]]:
    """Read kind and rate of the team's open meters."""
    return [(str(row[0]), int(row[1])) for row in await session.execute(_OPEN_RATES, {"team": team_id})]
