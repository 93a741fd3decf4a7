"""The verbs of teams: who is in one, with what role, and how it ends."""

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import Clock, is_id
from dumont.http import problems
from dumont.identity import queries
from dumont.identity.addresses import check_email
from dumont.identity.model import (
    ROLE_PERMISSIONS,
    LastAdmin,
    Member,
    MemberNotFound,
    Membership,
    NameTaken,
    OwnTeam,
    UserNotFound,
)
from dumont.identity.sessions import real_now


async def own_team(session: AsyncSession, team_id: str) -> OwnTeam:
    """Read a team of the caller."""
    return next(team for team in await queries.teams_of_caller(session) if team.id == team_id)


async def check_free(session: AsyncSession, name: str, *, but: str | None = None) -> None:
    """Refuse a name that another team of the caller has: he could not tell them apart.

    Errors: NameTaken.
    """
    teams = await queries.teams_of_caller(session)
    if any(team.name.lower() == name.lower() and team.id != but for team in teams):
        raise NameTaken("You are in a team of this name already. Choose another name.")


async def rename_team(session: AsyncSession, team_id: str, name: str) -> OwnTeam:
    """Give the present team another name.

    Errors: NameTaken.
    """
    await check_free(session, name, but=team_id)
    team = await queries.lock_team(session, team_id)
    team.name = name
    await session.flush()
    return await own_team(session, team_id)


def check_grant(held: frozenset[str], role: str) -> None:
    """Refuse a role that holds a permission which whoever gives it does not hold, or his token does not.

    Errors: Forbidden, with the first such permission.
    """
    missing = sorted(ROLE_PERMISSIONS[role] - held)
    if missing:
        raise problems.Forbidden(missing[0])


async def add_member(session: AsyncSession, team_id: str, email: str, role: str, clock: Clock) -> Member:
    """Put an existing account into the present team; his own present team stays as it is.

    Guarantees: a second time changes nothing, not even the role.
    Errors: UserNotFound for an address without an account. That tells no more than registering does, and the route
    counts it as a failed sign-in of the caller's address, so that nobody tries addresses by the thousand.
    """
    user = await queries.find_user(session, check_email(email))
    if user is None:
        raise UserNotFound("Nobody has an account with this address. Ask him to register first.")
    await queries.lock_team(session, team_id)
    if await session.get(Membership, (team_id, user.id)) is None:
        session.add(Membership(team_id=team_id, user_id=user.id, role=role, created_at=clock.now()))
        await session.flush()
    return await _member(session, user.id)


async def change_role(session: AsyncSession, team_id: str, user_id: str, role: str) -> Member:
    """Give a member of the present team another role, which his sessions and tokens have from the next request on.

    Errors: MemberNotFound, LastAdmin.
    """
    await queries.lock_team(session, team_id)
    membership = await _membership(session, team_id, user_id)
    if role != "admin":
        await _keep_an_admin(session, membership)
    membership.role = role
    await session.flush()
    return await _member(session, user_id)


async def remove_member(session: AsyncSession, team_id: str, user_id: str) -> None:
    """Take a member out of the present team; his sessions and API tokens there end at once.

    Guarantees: he keeps his account; whoever is in no team gets one of his own at the next sign-in.
    Errors: MemberNotFound, LastAdmin.
    """
    await queries.lock_team(session, team_id)
    membership = await _membership(session, team_id, user_id)
    await _keep_an_admin(session, membership)
    await session.delete(membership)
    await session.flush()
    await queries.end_access(session, user_id, real_now())


async def _membership(session: AsyncSession, team_id: str, user_id: str) -> Membership:
    found = await session.get(Membership, (team_id, user_id)) if is_id(user_id, "usr") else None
    if found is None:
        raise MemberNotFound()
    return found


async def _keep_an_admin(session: AsyncSession, membership: Membership) -> None:
    if membership.role == "admin" and await queries.count_admins(session, membership.team_id) == 1:
        raise LastAdmin("This is the only admin. Give the role to another member first, or delete the team.")


async def _member(session: AsyncSession, user_id: str) -> Member:
    return next(member for member in await queries.members(session) if member.user_id == user_id)
