"""The verbs of insights: find them, keep one row for each user, tell of what is urgent, once."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.bookkeeping import insight_queries as queries
from dumont.bookkeeping.insights import TYPES, Insight, find_insights, month_before, month_of

IGNORED_DAYS = 30
COOLDOWN = timedelta(days=7)
Finder = Callable[[AsyncSession, str, datetime], Awaitable[Sequence[Insight]]]
"""Finds what another room has to point out to a team at a moment."""
_finders: list[Finder] = []


def also_ask(finder: Finder) -> None:
    """Have a finder of another room asked as well; the same one twice is asked once."""
    if finder not in _finders:
        _finders.append(finder)


async def compute(session: AsyncSession, team_id: str, now: datetime) -> list[Insight]:
    """Find what is to be pointed out to a team now, the weightiest first within each room."""
    today = now.date()
    sums = await queries.day_sums(session, team_id, month_before(today), today)
    found = find_insights(sums, await queries.budgets(session, team_id), today)
    for finder in _finders:
        found += await finder(session, team_id, now)
    return found


async def choose_for(
    session: AsyncSession, team_id: str, user_id: str, found: Sequence[Insight], now: datetime
) -> list[Insight]:
    """Leave out what a user has turned off, and what he has ignored in the last 30 days."""
    enabled = await queries.choices(session, team_id, user_id)
    ignored = await queries.ignored(session, team_id, user_id, now - timedelta(days=IGNORED_DAYS))
    return [one for one in found if enabled.get(one.type, True) and one.hash not in ignored]


async def refresh_user(
    session: AsyncSession, team_id: str, user_id: str, found: Sequence[Insight], now: datetime
) -> list[Insight]:
    """Keep a user's insights and tell him of the urgent ones.

    Guarantees: one row for each user; done again, also at the same moment, it changes nothing and tells nothing twice.
    """
    own = await choose_for(session, team_id, user_id, found, now)
    month = month_of(now.date())
    await queries.keep(session, team_id, user_id, month, own, now)
    for insight in own:
        if insight.urgent:
            await queries.tell(session, team_id, user_id, insight, month, now, COOLDOWN)
    return own


async def refresh_team(session: AsyncSession, team_id: str, now: datetime) -> int:
    """Refresh the insights of all users of a team, in the order of their ids; return how many users there are."""
    found = await compute(session, team_id, now)
    users = await queries.members(session, team_id)
    for user_id in users:
        await refresh_user(session, team_id, user_id, found, now)
    return len(users)


async def change_choices(session: AsyncSession, team_id: str, user_id: str, wished: dict[str, bool]) -> dict[str, bool]:
    """Change which types of insights a user gets, and return all of them."""
    known = await queries.choices(session, team_id, user_id)
    now = {kind: wished.get(kind, known.get(kind, True)) for kind in TYPES}
    if wished:
        await queries.choose(session, team_id, user_id, now)
    return now
