"""What stands before a password check: few wrong ones for an account from an address, not many from an address."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import Request

from dumont.http import Limits, Rule, address_of, refusal
from dumont.identity.model import InvalidCredentials, SignInBusy, UserNotFound

_AT_ONCE_FOR_ACCOUNT = 1
_AT_ONCE_FROM_ADDRESS = 4
_MAX_WAITING = 64


@dataclass
class _Room:
    turn: asyncio.Semaphore
    people: int = 0


class Turns:
    """Who checks a password now and who waits for it, in this process.

    Guarantees: for each name at most `at_once` inside; the others wait, 64 of them; a name nobody uses is forgotten.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._rooms: dict[tuple[str, ...], _Room] = {}

    @asynccontextmanager
    async def take(self, *who: str) -> AsyncIterator[None]:
        """Wait for a turn and hold it.

        Errors: SignInBusy where too many wait already.
        """
        room = self._rooms.setdefault(who, _Room(asyncio.Semaphore(self._at_once)))
        if room.people >= _MAX_WAITING + self._at_once:
            raise SignInBusy(retry_after=2)
        room.people += 1
        try:
            async with room.turn:
                yield
        finally:
            room.people -= 1
            if not room.people:
                del self._rooms[who]


class Guard:
    """Count wrong passwords and refuse more of them.

    Guarantees: only what proved wrong is counted, so that right passwords at the same moment lock nobody out. Attempts
    wait for each other, so that in one process no guess is over the account's limit and at most 3 are over the
    address's; every further process may let as many more through as it has inside when the limit is met.
    """

    def __init__(self) -> None:
        self._accounts = Turns(_AT_ONCE_FOR_ACCOUNT)
        self._addresses = Turns(_AT_ONCE_FROM_ADDRESS)

    @asynccontextmanager
    async def guessing(self, request: Request, account: str) -> AsyncIterator[None]:
        """Count what happens inside as a wrong password where it proves wrong; a right one forgets the account's.

        `account` is the user's id, or the name as it was typed where nobody has it. Hold no connection to the database:
        this waits.
        Errors: LoginRateLimited, for unknown accounts as for known ones; SignInBusy.
        """
        limits: Limits = request.app.state.limits
        mine = (account, address_of(request))
        async with self._accounts.take(*mine), self._addresses.take(mine[1]):
            await _refuse_over(request, limits.rules.sign_ins, *mine)
            async with searching(request):
                try:
                    yield
                except InvalidCredentials:
                    await limits.count(limits.rules.sign_ins, *mine)
                    raise
            await limits.forget(limits.rules.sign_ins, *mine)


@asynccontextmanager
async def searching(request: Request) -> AsyncIterator[None]:
    """Count what happens inside for the caller's address where it proves a wrong guess; refuse where it had too many.

    Errors: LoginRateLimited, before anything inside.
    """
    limits: Limits = request.app.state.limits
    await check_address(request)
    try:
        yield
    except (InvalidCredentials, UserNotFound):
        await limits.count(limits.rules.sign_ins_of_address, address_of(request))
        raise


async def check_address(request: Request) -> None:
    """Refuse an address with too many wrong guesses, before anything is looked up for it.

    Errors: LoginRateLimited.
    """
    limits: Limits = request.app.state.limits
    await _refuse_over(request, limits.rules.sign_ins_of_address, address_of(request))


async def _refuse_over(request: Request, rule: Rule, *who: str) -> None:
    limits: Limits = request.app.state.limits
    found = await limits.look(rule, *who)
    if found is not None and found.used >= rule.amount:
        raise refusal(request, found)
