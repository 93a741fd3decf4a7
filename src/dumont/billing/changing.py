"""Change how a wallet may be spent, where what runs and what is held allow it."""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.billing import hold_queries
from dumont.billing.documents import decimals
from dumont.billing.model import CURRENCY, Mode, Wallet, WalletInUse
from dumont.billing.spending import ahead
from dumont.db import publish
from dumont.ledger import BalanceTooLow, change_account, get_account


async def change_wallet(session: AsyncSession, wallet: Wallet, changes: dict[str, Any]) -> None:
    """Write settings of a wallet, and publish that they changed; what is the same already changes nothing.

    Errors: WalletInUse where the credit limit would be below what is spent of it, or held, and for prepaid mode while
    more runs than the wallet can pay for ahead: it would be hibernated at once.
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
    if fresh.get("mode") == Mode.PREPAID:
        await _check_covers(session, wallet)
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


async def _check_covers(session: AsyncSession, wallet: Wallet) -> None:
    needed = sum(ahead(kind, rate) for kind, rate in await hold_queries.open_rates(session, wallet.team_id))
    available = (await get_account(session, wallet.account_id)).available or 0
    if available < needed:
        raise WalletInUse(
            f"What runs takes {decimals(needed, CURRENCY)} USD ahead; {decimals(available, CURRENCY)} USD is there. "
            "Top the wallet up first, or stop machines.",
            needed=decimals(needed, CURRENCY),
            available=decimals(available, CURRENCY),
        )
