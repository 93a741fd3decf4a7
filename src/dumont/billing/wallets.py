"""A team's wallet: made with the team, changed by its admins, and always there for whoever needs it."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.billing import queries
from dumont.billing.model import CURRENCY, Mode, Wallet
from dumont.ledger import open_account

_KINDS: dict[str, int | None] = {"wallet": 0, "showback": None, "receivable": None, "revenue": None}
"""The accounts of a wallet with their floors; the wallet's own may go down to its credit limit."""


async def ensure_wallet(session: AsyncSession, team_id: str, now: datetime) -> Wallet:
    """Return a team's wallet, made now with its accounts where the team has none.

    Guarantees: two at once make one; the session may be of the team or of none.
    """
    found = await queries.find_wallet(session, team_id)
    if found is not None:
        return found
    await queries.lock_team_wallet(session, team_id)
    found = await queries.find_wallet(session, team_id)
    if found is not None:
        return found
    ids = {kind: await ensure_account(session, team_id, kind, CURRENCY, now) for kind in _KINDS}
    wallet = Wallet(
        team_id=team_id,
        currency=CURRENCY,
        account_id=ids["wallet"],
        **{f"{kind}_id": ids[kind] for kind in ("showback", "receivable", "revenue")},
        mode=Mode.SHOWBACK.value,
        credit_limit=0,
        low_threshold=5_000_000,
        auto_hibernate=True,
        hibernate_over_limit=False,
        version=1,
        created_at=now,
    )
    session.add(wallet)
    await session.flush()
    return wallet


async def ensure_account(session: AsyncSession, team_id: str, kind: str, currency: str, now: datetime) -> str:
    """Return the team's system account of a kind and currency, such as `clearing` in BRL, opened where there is none.

    Only a `wallet` has a floor.
    """
    found = await queries.system_account(session, team_id, kind, currency)
    if found is not None:
        return found
    await queries.lock_team_wallet(session, team_id)
    found = await queries.system_account(session, team_id, kind, currency)
    if found is not None:
        return found
    return await open_account(
        session, team_id, account_type=kind, name=kind, currency=currency, floor=_KINDS.get(kind), now=now
    )
