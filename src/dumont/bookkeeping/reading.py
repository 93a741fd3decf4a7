"""What is read of bookkeeping: lists of accounts and transactions, and the entries of both."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import BigInteger, Date, DateTime, Select, Text, case, column, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.bookkeeping.model import CategoryType, Transaction
from dumont.http import Page
from dumont.ledger import SCALES, LedgerAccount
from dumont.ledger import list_accounts as all_accounts

ENTRY = """
SELECT e.seq AS id, e.seq, e.account_id, e.amount, e.balance_after, e.created_at AS at,
       replace(e.transfer_id::text, '-', '') AS transfer_id,
       t.kind, t.currency, t.date, t.memo AS description,
       coalesce(p.transaction_id, r.transaction_id) AS transaction_id,
       CASE WHEN cardinality(t.accounts) = 2 THEN (SELECT c.id FROM ledger_account c
            WHERE c.number = t.accounts[3 - array_position(t.accounts, e.account)]) END AS counter_account_id
"""
CHANGES = """
  LEFT JOIN bookkeeping_change p ON p.posting_id = t.id
  LEFT JOIN bookkeeping_change r ON r.reversal_id = t.id
"""
_COLUMNS = (
    column("id", BigInteger),
    column("seq", BigInteger),
    column("account_id", Text),
    column("amount", BigInteger),
    column("balance_after", BigInteger),
    column("at", DateTime(timezone=True)),
    column("transfer_id", Text),
    column("kind", Text),
    column("currency", Text),
    column("date", Date),
    column("description", Text),
    column("transaction_id", Text),
    column("counter_account_id", Text),
)
_OF_ACCOUNT = text(
    f"{ENTRY} FROM ledger_account_entry e JOIN ledger_transfer t ON t.id = e.transfer_id {CHANGES} "
    "WHERE e.account = :number"
).columns(*_COLUMNS)
_OF_TRANSACTION = text(
    f"""{ENTRY}
  FROM (SELECT c.posting_id AS id FROM bookkeeping_change c WHERE c.transaction_id = :transaction
        UNION SELECT c.reversal_id FROM bookkeeping_change c WHERE c.transaction_id = :transaction) m
  JOIN ledger_transfer t ON t.id = m.id
  CROSS JOIN LATERAL unnest(t.accounts, t.seqs) AS l(account, seq)
  JOIN ledger_account_entry e ON e.account = l.account AND e.seq = l.seq
  {CHANGES}
 ORDER BY e.created_at, coalesce(p.version, r.version), r.version NULLS LAST, e.amount, e.account_id
"""
).columns(*_COLUMNS)


_SHARES = {name: 10 ** (scale - 2) for name, scale in SCALES.items()}
_cents = Transaction.amount / case(_SHARES, value=Transaction.currency)


@dataclass(frozen=True)
class Wanted:
    """Which transactions a list shall hold; what is not given narrows nothing."""

    account_id: str | None = None
    category_id: str | None = None
    type: str | None = None
    start: date | None = None
    end: date | None = None
    tag: str | None = None
    words: str | None = None
    least: int | None = None
    most: int | None = None
    include_reversed: bool = False

    def narrow(self, statement: Select[Any]) -> Select[Any]:
        """Return the statement with these conditions. Units: `least` and `most` in cents of any currency."""
        row = Transaction
        if not self.include_reversed:
            statement = statement.where(row.status == "posted")
        if self.account_id is not None:
            statement = statement.where((row.account_id == self.account_id) | (row.to_account_id == self.account_id))
        for wanted, held in ((self.category_id, row.category_id), (self.type, row.type)):
            statement = statement if wanted is None else statement.where(held == wanted)
        if self.start is not None:
            statement = statement.where(row.date >= self.start)
        if self.end is not None:
            statement = statement.where(row.date <= self.end)
        if self.tag is not None:
            statement = statement.where(row.tags.contains([self.tag]))
        if self.words is not None:
            statement = statement.where(row.description.icontains(self.words, autoescape=True))
        return self._narrow_amount(statement)

    def _narrow_amount(self, statement: Select[Any]) -> Select[Any]:
        if self.least is not None:
            statement = statement.where(_cents >= self.least)
        if self.most is not None:
            statement = statement.where(_cents <= self.most)
        return statement


async def list_transactions(session: AsyncSession, wanted: Wanted, page: Page) -> Sequence[Transaction]:
    """Read one page of the team's transactions, and one more."""
    columns = {
        "date": Transaction.date,
        "amount": Transaction.amount,
        "created_at": Transaction.created_at,
        "id": Transaction.id,
    }
    statement = page.select(wanted.narrow(select(Transaction)), columns)
    return (await session.scalars(statement)).all()


async def list_accounts(session: AsyncSession, team_id: str, include_inactive: bool) -> Sequence[LedgerAccount]:
    """Read the team's accounts by type and name, without those of its categories."""
    categories = {kind.value for kind in CategoryType}
    found = await all_accounts(session, team_id)
    return [one for one in found if one.type not in categories and (include_inactive or one.closed_at is None)]


async def entries_of_account(
    session: AsyncSession, account: LedgerAccount, page: Page, start: date | None, end: date | None
) -> Sequence[Any]:
    """Read one page of an account's entries, and one more."""
    found = _OF_ACCOUNT.subquery("entry")
    statement = select(found)
    if start is not None:
        statement = statement.where(found.c.date >= start)
    if end is not None:
        statement = statement.where(found.c.date <= end)
    statement = page.select(statement, {"seq": found.c.seq, "id": found.c.id})
    return (await session.execute(statement, {"number": account.number})).all()


async def entries_of_transaction(session: AsyncSession, transaction_id: str) -> Sequence[Any]:
    """Read all entries that a transaction ever made, in the order in which they were posted."""
    return (await session.execute(_OF_TRANSACTION, {"transaction": transaction_id})).all()
