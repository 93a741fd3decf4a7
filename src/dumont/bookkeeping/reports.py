"""What the books add up to: statements that chain, balances of any moment, months, and the proof of it all."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.bookkeeping.model import wrong_field
from dumont.bookkeeping.reading import CHANGES, ENTRY
from dumont.ledger import LedgerAccount

MOST_DAYS = 366
MOST_LINES = 10_000
_STATEMENT = text(
    f"""
SELECT o.opening, x.*
  FROM (SELECT coalesce(sum(e.amount), 0)::bigint AS opening
          FROM ledger_account_entry e JOIN ledger_transfer t ON t.id = e.transfer_id
         WHERE e.account = :number AND t.date < :start) o
  LEFT JOIN ({ENTRY} FROM ledger_account_entry e JOIN ledger_transfer t ON t.id = e.transfer_id {CHANGES}
              WHERE e.account = :number AND t.date BETWEEN :start AND :end
              ORDER BY t.date, e.seq LIMIT {MOST_LINES + 1}) x ON true
 ORDER BY x.date, x.seq
"""
)
_MONTH = text(
    """
SELECT t.category_id, c.name, t.type, count(*) AS transactions, sum(t.amount)::bigint AS total
  FROM bookkeeping_transaction t LEFT JOIN bookkeeping_category c ON c.id = t.category_id
 WHERE t.team_id = :team AND t.status = 'posted' AND t.currency = :currency AND t.date BETWEEN :start AND :end
 GROUP BY t.category_id, c.name, t.type ORDER BY total DESC, t.category_id
"""
)
_PROOF = text(
    """
SELECT a.id, a.currency, a.balance, coalesce(s.total, 0)::bigint AS total, coalesce(s.entries, 0) AS entries,
       coalesce(s.debits, 0)::bigint AS debits, coalesce(s.credits, 0)::bigint AS credits
  FROM ledger_account a
  LEFT JOIN (SELECT e.account_id, sum(e.amount) AS total, count(*) AS entries,
                    -sum(e.amount) FILTER (WHERE e.amount < 0) AS debits,
                    sum(e.amount) FILTER (WHERE e.amount > 0) AS credits
               FROM ledger_account_entry e WHERE e.team_id = :team AND (CAST(:account AS text) IS NULL
                    OR e.account_id = CAST(:account AS text)) GROUP BY e.account_id) s ON s.account_id = a.id
 WHERE a.team_id = :team AND (CAST(:account AS text) IS NULL OR a.id = CAST(:account AS text)) ORDER BY a.id
"""
)


@dataclass(frozen=True)
class Statement:
    """An account between two days of business: opening, lines in their order, closing."""

    account: LedgerAccount
    start: date
    end: date
    opening: int
    lines: Sequence[Any]

    @property
    def closing(self) -> int:
        """The balance after the last line."""
        return self.opening + sum(int(line.amount) for line in self.lines)

    @property
    def debits(self) -> int:
        """What was taken, as a positive amount."""
        return sum(-int(line.amount) for line in self.lines if line.amount < 0)

    @property
    def credits(self) -> int:
        """What was added."""
        return sum(int(line.amount) for line in self.lines if line.amount > 0)


@dataclass(frozen=True)
class Proof:
    """Whether every balance is the sum of its entries and, by currency, all of them are zero together."""

    balanced: bool
    rows: Sequence[Any]

    @property
    def wrong(self) -> list[Any]:
        """The accounts whose balance is not the sum of their entries."""
        return [row for row in self.rows if row.balance != row.total]


async def make_statement(session: AsyncSession, account: LedgerAccount, start: date, end: date) -> Statement:
    """Read an account's statement by days of business, both included, as of one moment.

    Errors: InvalidRequest for a span that is empty, longer than 366 days, or of more than 10,000 lines.
    """
    if not 0 <= (end - start).days <= MOST_DAYS:
        raise wrong_field("query/to", f"Must be 0 to {MOST_DAYS} days after from.", "out-of-range")
    values = {"number": account.number, "start": start, "end": end}
    rows = (await session.execute(_STATEMENT, values)).all()
    if len(rows) > MOST_LINES:
        raise wrong_field("query/to", f"These days have more than {MOST_LINES} entries. Ask for fewer.", "too-long")
    return Statement(account, start, end, rows[0].opening, [row for row in rows if row.seq is not None])


async def month_by_category(
    session: AsyncSession, team_id: str, currency: str, start: date, end: date
) -> Sequence[Any]:
    """Read what was recorded between two days, by type and category."""
    values = {"team": team_id, "currency": currency, "start": start, "end": end}
    return (await session.execute(_MONTH, values)).all()


async def prove(session: AsyncSession, team_id: str, account_id: str | None) -> Proof:
    """Prove the team's books, or one account, from their entries, as of one moment."""
    rows = (await session.execute(_PROOF, {"team": team_id, "account": account_id})).all()
    sums: dict[str, int] = {}
    for row in rows:
        sums[row.currency] = sums.get(row.currency, 0) + row.total
    zero = account_id is not None or not any(sums.values())
    return Proof(zero and all(row.balance == row.total for row in rows), rows)
