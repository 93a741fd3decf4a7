"""Give back what a team was charged for the use of a machine: to where it was paid from, and at most what remains."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.billing import queries
from dumont.billing.model import CURRENCY, Wallet
from dumont.billing.wallets import ensure_wallet
from dumont.http import problems
from dumont.ledger import BalanceTooLow, Leg, Posting, post

UsageNotFound = problems.not_found("usage")

KIND = "refund"
"""The kind of the lines of use that say what was given back; a provider's bill knows nothing of them."""
_PAID = text(
    "SELECT e.account_id, -sum(e.amount)::bigint AS paid, max(c.rental_id) AS rental_id "
    "FROM usage_charge c JOIN ledger_transfer t ON t.id = CAST(c.id AS uuid) "
    "CROSS JOIN LATERAL unnest(t.accounts, t.seqs) AS l(account, seq) "
    "JOIN ledger_account_entry e ON e.account = l.account AND e.seq = l.seq "
    "WHERE c.team_id = :team AND c.instance_id = :instance AND e.account_id <> :revenue GROUP BY e.account_id"
)
_KNOWN = text("SELECT EXISTS (SELECT FROM usage_charge WHERE team_id = :team AND instance_id = :instance)")
_LINE = text(
    "INSERT INTO usage_charge (id, team_id, instance_id, rental_id, kind, amount, from_at, to_at) "
    "VALUES (:id, :team, :instance, :rental, :kind, :amount, :now, :now) ON CONFLICT (id) DO NOTHING"
)


@dataclass(frozen=True)
class UsageRefund:
    """What was given back, and what of the machine's use remains paid. Units: millionths of a dollar."""

    id: str
    instance_id: str
    amount: int
    remaining: int


async def has_usage(session: AsyncSession, team_id: str, instance_id: str) -> bool:
    """Tell whether the team was ever charged for a machine."""
    return bool((await session.execute(_KNOWN, {"team": team_id, "instance": instance_id})).scalar_one())


async def refund_usage(
    session: AsyncSession, team_id: str, instance_id: str, amount: int | None, *, key: str, reason: str, now: datetime
) -> UsageRefund:
    """Take an amount, or all that remains, out of the revenue of a machine and put it where it was paid from.

    What the wallet paid goes back first, then what is owed, then what was only shown back.
    Guarantees: however many ask at once, never more than was charged and not given back yet.
    Errors: BalanceTooLow for more than remains, or where nothing does.
    """
    await ensure_wallet(session, team_id, now)
    wallet = await queries.find_wallet(session, team_id, lock=True)
    assert wallet is not None
    values = {"team": team_id, "instance": instance_id, "revenue": wallet.revenue_id}
    rows = (await session.execute(_PAID, values)).all()
    paid = {row.account_id: max(0, int(row.paid)) for row in rows}
    left = sum(paid.values())
    back = left if amount is None else amount
    if back > left or back == 0:
        detail = "More than what remains of this machine's charges cannot be given back."
        raise BalanceTooLow(detail, needed=back, available=left, currency=CURRENCY)
    legs = (Leg(wallet.revenue_id, -back), *_shares(wallet, paid, back))
    memo = f"{instance_id} {KIND}: {reason}"
    posting = Posting(team_id, "usage-refund", key, "usage-refund", legs, now.date(), memo)
    (await post(session, posting)).stands()
    line = {"id": posting.id, "kind": KIND, "amount": -back, "rental": max(row.rental_id for row in rows), "now": now}
    await session.execute(_LINE, {**values, **line})
    return UsageRefund(posting.id, instance_id, back, left - back)


def _shares(wallet: Wallet, paid: dict[str, int], back: int) -> list[Leg]:
    """Share an amount out over the accounts that paid; the first in this order get theirs first."""
    order = (wallet.account_id, wallet.receivable_id, wallet.showback_id)
    legs = []
    for account_id in (*order, *sorted(paid.keys() - set(order))):
        share = min(back, paid.get(account_id, 0))
        if share:
            legs.append(Leg(account_id, share))
            back -= share
    return legs
