"""True up: compare what a machine was charged with its provider's own bill, and post the difference as its own line."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.billing.meter_queries import UNFINISHED
from dumont.billing.model import MICRO_NANO, Mode
from dumont.billing.wallets import ensure_wallet
from dumont.ledger import Leg, Posting, post_together

_PRECISION = 500
"""A provider states thousandths of a dollar: half of one, in millionths, is what a line of its bill may be off."""
_STATE = text(
    "SELECT pg_advisory_xact_lock(hashtextextended('true-up ' || :rental, 0)), "
    "(SELECT t.at FROM true_up t WHERE t.rental_id = :rental) AS done_at, "
    f"EXISTS (SELECT FROM meter m WHERE m.rental_id = :rental AND {UNFINISHED}) AS unfinished"
)
_CHARGED = text(
    "SELECT kind, sum(amount)::bigint FROM usage_charge WHERE rental_id = :rental AND kind <> 'refund' GROUP BY kind"
)
_LINE = text(
    "INSERT INTO usage_charge (id, team_id, instance_id, rental_id, kind, amount, from_at, to_at) "
    "VALUES (:id, :team, :instance, :rental, :kind, :amount, :now, :now)"
)
_DONE = text(
    "INSERT INTO true_up (rental_id, team_id, stated_nano, metered_nano, at) "
    "VALUES (:rental, :team, :stated, :metered, :now) ON CONFLICT (rental_id) DO UPDATE "
    "SET stated_nano = excluded.stated_nano, metered_nano = excluded.metered_nano, at = excluded.at"
)


@dataclass(frozen=True)
class Stated:
    """What a provider bills of one kind, and in how many lines. Units: nano-dollars."""

    nano: int
    lines: int


@dataclass(frozen=True)
class EndedRental:
    """A machine that was given back."""

    team_id: str
    instance_id: str
    rental_id: str
    ended_at: datetime


async def true_up(
    session: AsyncSession, rental: EndedRental, stated: Mapping[str, Stated] | None, now: datetime
) -> bool:
    """Post what a machine was charged too little or too much by its provider's word; `stated` None: it cannot tell.

    The session must be the team's. Differences that the provider's own rounding explains are left alone.
    Guarantees: once for each end of the machine, whoever asks; False while its meters are not charged to the end.
    """
    state = (await session.execute(_STATE, {"rental": rental.rental_id})).one()
    if state.done_at is not None and state.done_at >= rental.ended_at:
        return True
    if state.unfinished:
        return False
    charged = {str(kind): int(amount) for kind, amount in await session.execute(_CHARGED, {"rental": rental.rental_id})}
    differences = {} if stated is None else _differences(charged, stated)
    values = {
        "rental": rental.rental_id,
        "team": rental.team_id,
        "stated": None if stated is None else sum(one.nano for one in stated.values()),
        "metered": sum(charged.values()) * MICRO_NANO,
        "now": now,
    }
    await session.execute(_DONE, values)
    await _post(session, rental, differences, now)
    return True


def _differences(charged: Mapping[str, int], stated: Mapping[str, Stated]) -> dict[str, int]:
    """Return by line what is missing, or too much where negative. Units: millionths of a dollar."""
    found = {}
    for kind in sorted({*stated, *(kind.removesuffix("-true-up") for kind in charged)}):
        bill = stated.get(kind, Stated(0, 1))
        had = charged.get(kind, 0) + charged.get(f"{kind}-true-up", 0)
        difference = round(bill.nano / MICRO_NANO) - had
        if abs(difference) > _PRECISION * bill.lines:
            found[f"{kind}-true-up"] = difference
    return found


async def _post(session: AsyncSession, rental: EndedRental, differences: Mapping[str, int], now: datetime) -> None:
    if not differences:
        return
    wallet = await ensure_wallet(session, rental.team_id, now)
    payer = wallet.receivable_id if wallet.mode == Mode.PREPAID else wallet.showback_id
    postings = [
        Posting(
            team_id=rental.team_id,
            scope="true-up",
            key=f"{rental.rental_id}:{line}:{rental.ended_at.timestamp():.6f}",
            kind="true-up",
            legs=(Leg(wallet.revenue_id, amount), Leg(payer, -amount)),
            date=now.date(),
            memo=f"{rental.instance_id} {line}",
        )
        for line, amount in differences.items()
    ]
    for (line, amount), posting in zip(differences.items(), postings, strict=True):
        values = {
            "id": posting.id,
            "team": rental.team_id,
            "instance": rental.instance_id,
            "rental": rental.rental_id,
            "kind": line,
            "amount": amount,
            "now": now,
        }
        await session.execute(_LINE, values)
    await post_together(session, postings)
