"""What stands before a password check: few wrong ones for an account from an address, not many from an address."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request

from dumont.http import Limits, Rule, address_of, spend
from dumont.identity.model import InvalidCredentials, UserNotFound


@asynccontextmanager
async def guessing(request: Request, account: str | None) -> AsyncIterator[None]:
    """Count what happens inside as a guess unless it proves right.

    `account` is the name as it was typed, without regard to case; None counts for the address alone. Counted before
    the check and taken back after it, so that guesses at the same moment count too. Success forgets the account's.
    Errors: LoginRateLimited, before anything is looked up, so for unknown accounts as for known ones.
    """
    limits: Limits = request.app.state.limits
    address = address_of(request)
    counted: list[tuple[Rule, tuple[str, ...]]] = [(limits.rules.sign_ins_of_address, (address,))]
    if account is not None:
        counted.insert(0, (limits.rules.sign_ins, (account.lower(), address)))
    for rule, who in counted:
        await spend(request, rule, *who)
    try:
        yield
    except (InvalidCredentials, UserNotFound):
        raise
    except BaseException:
        for rule, who in counted:
            await limits.take_back(rule, *who)
        raise
    await limits.take_back(limits.rules.sign_ins_of_address, address)
    if account is not None:
        await limits.forget(limits.rules.sign_ins, account.lower(), address)
