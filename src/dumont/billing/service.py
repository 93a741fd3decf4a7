"""What is told of a wallet: how it stands, its statement."""

from datetime import date, datetime, time, timezone

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.billing import queries
from dumont.billing.documents import (
    StatementDocument,
    StatementEntry,
    WalletDocument,
    decimals,
    runs_out_at,
    wallet_document,
)
from dumont.billing.model import MICRO_NANO, Runway
from dumont.billing.wallets import ensure_wallet
from dumont.http import problems
from dumont.ledger import get_account

MOST_ENTRIES = 5000


async def show_wallet(session: AsyncSession, team_id: str, now: datetime) -> WalletDocument:
    """Show a team's wallet as it stands; it is made where the team has none."""
    wallet = await ensure_wallet(session, team_id, now)
    kinds = {"wallet": wallet.account_id, "receivable": wallet.receivable_id, "showback": wallet.showback_id}
    accounts = {kind: await get_account(session, id_) for kind, id_ in kinds.items()}
    flow = await queries.accruing(session, team_id, now)
    spent = [await queries.spent_since(session, team_id, since) for since in period_starts(now)]
    return wallet_document(wallet, accounts, flow, (spent[0], spent[1]), now)


async def runway(session: AsyncSession, team_id: str, now: datetime) -> Runway | None:
    """Say how long a prepaid wallet lasts at the rate of now; None where nothing runs, or nothing is paid ahead."""
    wallet = await queries.find_wallet(session, team_id)
    if wallet is None:
        return None
    own, flow = await get_account(session, wallet.account_id), await queries.accruing(session, team_id, now)
    until = runs_out_at(wallet, own, flow, now)
    if until is None:
        return None
    return Runway(wallet.currency, own.available or 0, flow.burn_hour_nano // MICRO_NANO, until)


def period_starts(now: datetime) -> tuple[datetime, datetime]:
    """Return when this day and this month began, UTC."""
    today = now.astimezone(timezone.utc).date()
    day = datetime.combine(today, time(), timezone.utc)
    return day, day.replace(day=1)


async def statement(
    session: AsyncSession, account_id: str, currency: str, first: date, last: date
) -> StatementDocument:
    """Show the entries of an account between two dates of business.

    Guarantees: opening + entries = closing. Errors: InvalidRequest for more entries than one answer holds.
    """
    rows = await queries.entries(session, account_id, first, last, MOST_ENTRIES)
    if len(rows) > MOST_ENTRIES:
        detail = f"There are more than {MOST_ENTRIES} entries: ask for fewer days."
        raise problems.InvalidRequest([problems.field_error("/query/from", detail, "bad-range")])
    opening = await queries.balance_before(session, account_id, first)
    entries, balance = [], opening
    for row in rows:
        balance += row.amount
        entries.append(
            StatementEntry(
                id=f"{account_id}.{row.seq}",
                transfer_id=row.transfer_id.hex,
                at=row.created_at,
                date=row.date,
                kind=row.kind,
                side="credit" if row.amount > 0 else "debit",
                amount_str=decimals(abs(row.amount), currency),
                balance_after_str=decimals(balance, currency),
                counter_account_id=row.counter_account_id,
                description=row.memo,
            )
        )
    return StatementDocument(
        account_id=account_id,
        currency=currency,
        first=first,
        last=last,
        opening_str=decimals(opening, currency),
        closing_str=decimals(balance, currency),
        total_debits_str=decimals(-sum(row.amount for row in rows if row.amount < 0), currency),
        total_credits_str=decimals(sum(row.amount for row in rows if row.amount > 0), currency),
        entries=entries,
    )
