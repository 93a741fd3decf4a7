"""What is read and written of meters and charges, one named function each.

A meter's row says how far it was charged, and what is about to be posted. The intent is committed before the ledger is
asked, so whoever comes after a crash asks for the very same posting again.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.billing.model import Stretch
from dumont.db import Question

UNFINISHED = "(m.to_at IS NULL OR m.charged_to <> m.to_at OR m.pending IS NOT NULL OR m.hold_id IS NOT NULL)"
_COLUMNS = "id, team_id, instance_id, rental_id, kind, rate_hour_nano, from_at, to_at"
_CHANGE = "ON CONFLICT (id) DO UPDATE SET rate_hour_nano = excluded.rate_hour_nano, to_at = excluded.to_at"
_FOLLOW = text(
    f"INSERT INTO meter ({_COLUMNS}, charged_to) "
    f"VALUES (:id, :team_id, :instance_id, :rental_id, :kind, :rate_hour_nano, :from_at, :to_at, :from_at) {_CHANGE}"
)
_TEAMS_WITHOUT = text(
    f"SELECT DISTINCT m.team_id FROM meter m WHERE {UNFINISHED} "
    "AND NOT EXISTS (SELECT FROM wallet w WHERE w.team_id = m.team_id)"
)
_INTEND = text(
    f"""
    WITH open AS (
        SELECT m.id, m.charged, m.charged_to, m.to_at, m.rate_hour_nano, m.from_at, m.held, w.mode, w.showback_id,
               w.receivable_id,
               CASE WHEN m.to_at <= m.charged_to THEN m.to_at
                    ELSE least(coalesce(m.to_at, :now),
                               (date_trunc('day', m.charged_to AT TIME ZONE 'UTC') + interval '1 day')
                               AT TIME ZONE 'UTC') END AS upto
          FROM meter m JOIN wallet w ON w.team_id = m.team_id
         WHERE {UNFINISHED} AND m.pending IS NULL FOR UPDATE OF m SKIP LOCKED),
    due AS (
        SELECT o.*, meter_total(o.rate_hour_nano, o.from_at, o.upto) AS total FROM open o
         WHERE o.to_at <> o.charged_to AND (o.upto = o.to_at OR o.upto > o.charged_to)
            OR o.to_at IS NULL AND o.upto > o.charged_to
               AND (o.upto - o.charged_to >= :period OR o.upto < :now))
    UPDATE meter m
       SET charged_to = CASE WHEN d.total = d.charged THEN d.upto ELSE m.charged_to END,
           pending = nullif(d.total, d.charged),
           pending_to = CASE WHEN d.total <> d.charged THEN d.upto END,
           pending_paid = CASE WHEN d.total <> d.charged THEN greatest(0, least(d.total - d.charged, d.held)) END,
           payer_id = CASE d.mode WHEN 'prepaid' THEN d.receivable_id ELSE d.showback_id END
      FROM due d WHERE m.id = d.id
    """
)
"""A charge ends with its day (UTC), with its meter, or when so much time has gone by; no charge lies in two days."""
_PENDING = text(
    "SELECT m.id, m.team_id, m.instance_id, m.kind, m.pending - m.charged AS amount, m.pending AS total, m.pending_to, "
    "m.pending_paid AS paid, m.payer_id, replace(m.hold_id::text, '-', '') AS hold_id, w.account_id, w.revenue_id "
    "FROM meter m JOIN wallet w ON w.team_id = m.team_id WHERE m.pending IS NOT NULL ORDER BY m.id LIMIT :most"
)
_CHARGED = text(
    """
    WITH told AS (
        SELECT u.id, u.upto, u.transfer_id
          FROM unnest(CAST(:ids AS text[]), CAST(:uptos AS timestamptz[]), CAST(:transfers AS text[]))
               AS u(id, upto, transfer_id)),
    old AS (
        SELECT m.*, t.transfer_id FROM meter m JOIN told t ON t.id = m.id AND t.upto = m.pending_to FOR UPDATE OF m),
    moved AS (
        UPDATE meter m
           SET charged = o.pending, charged_to = o.pending_to, pending = NULL, pending_to = NULL, pending_paid = NULL,
               hold_id = CASE WHEN o.pending_paid = 0 THEN o.hold_id END,
               held = CASE WHEN o.pending_paid = 0 THEN o.held ELSE 0 END
          FROM old o WHERE m.id = o.id)
    INSERT INTO usage_charge (id, team_id, instance_id, rental_id, meter_id, kind, amount, from_at, to_at)
    SELECT o.transfer_id, o.team_id, o.instance_id, o.rental_id, o.id, o.kind, o.pending - o.charged, o.charged_to,
           o.pending_to
      FROM old o ON CONFLICT (id) DO NOTHING
    """
)
_GIVE_UP = text(
    "UPDATE meter SET pending = NULL, pending_to = NULL, pending_paid = NULL, hold_id = NULL, held = 0 "
    "WHERE id = :id AND pending_to = :upto"
)


@dataclass(frozen=True)
class Pending:
    """A charge that was written down and is not known to stand. Units: millionths of a dollar."""

    id: str
    team_id: str
    instance_id: str
    kind: str
    amount: int
    total: int
    pending_to: datetime
    paid: int
    payer_id: str
    hold_id: str | None
    account_id: str
    revenue_id: str


async def follow(session: AsyncSession, stretch: Stretch) -> None:
    """Count a stretch of cost from now on, or change what was told of it."""
    await session.execute(_FOLLOW, asdict(stretch))


def following(stretches: str) -> Question:
    """Make the question that has meters count what a SELECT returns, in the transaction that changed it.

    Shapes: `stretches` names its columns as Stretch does. Guarantees: as `follow`; what is counted so is not written.
    """
    return Question(
        text(
            f"INSERT INTO meter AS m ({_COLUMNS}, charged_to) SELECT {_COLUMNS}, from_at FROM ({stretches}) AS s "
            f"{_CHANGE} WHERE (m.rate_hour_nano, m.to_at) IS DISTINCT FROM (excluded.rate_hour_nano, excluded.to_at)"
        )
    )


async def teams_without_wallet(session: AsyncSession) -> list[str]:
    """Read which teams have meters and no wallet."""
    return [str(row[0]) for row in await session.execute(_TEAMS_WITHOUT)]


async def intend(session: AsyncSession, now: datetime, period: timedelta) -> int:
    """Write down what is due of all meters that nobody else charges at this moment; returns how many moved."""
    return int((await session.execute(_INTEND, {"now": now, "period": period})).rowcount)  # type: ignore[attr-defined]


async def pending(session: AsyncSession, most: int) -> list[Pending]:
    """Read charges that are written down and not known to stand."""
    return [Pending(**row._mapping) for row in await session.execute(_PENDING, {"most": most})]


async def charged(session: AsyncSession, stood: Sequence[tuple[Pending, str]]) -> None:
    """Write that charges stand in the ledger, each with its transfer; a second time changes nothing."""
    values = {
        "ids": [charge.id for charge, _ in stood],
        "uptos": [charge.pending_to for charge, _ in stood],
        "transfers": [transfer for _, transfer in stood],
    }
    await session.execute(_CHARGED, values)


async def give_up(session: AsyncSession, charge: Pending) -> None:
    """Forget an intent that the ledger refused for good, and the hold that it meant; the next one is made anew."""
    await session.execute(_GIVE_UP, {"id": charge.id, "upto": charge.pending_to})
