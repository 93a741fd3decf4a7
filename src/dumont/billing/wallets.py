"""A team's wallet: made with the team, changed by its admins, and always there for whoever needs it."""

from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.billing import queries
from dumont.billing.model import CURRENCY, Mode, Wallet, WalletInUse
from dumont.db import publish
from dumont.ledger import BalanceTooLow, change_account, get_account, open_account

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


async def change_wallet(session: AsyncSession, wallet: Wallet, changes: dict[str, Any]) -> None:
    """Write settings of a wallet, and publish that they changed; what is the same already changes nothing.

    Errors: WalletInUse where the credit limit would be below what is spent of it, or held.
    """
    fresh = {name: value for name, value in changes.items() if getattr(wallet, name) != value}
    if not fresh:
        return
    if "credit_limit" in fresh:
        try:
            await change_account(session, wallet.team_id, wallet.account_id, floor=-fresh["credit_limit"])
        except BalanceTooLow as problem:
            account = await get_account(session, wallet.account_id)
            raise WalletInUse(
                "More of the present credit limit is spent or held than the new one allows. Top the wallet up first.",
                balance=str(account.balance),
                held=str(account.held),
            ) from problem
    for name, value in fresh.items():
        setattr(wallet, name, value)
    wallet.version += 1
    await session.flush()
    await publish(
        session,
        topic="wallet.changed",
        resource_type="wallet",
        resource_id=wallet.account_id,
        team_id=wallet.team_id,
        data={"changed": sorted(fresh), "mode": wallet.mode},
    )
