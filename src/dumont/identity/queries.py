"""SQL of users and teams, one named function each; accounts and sessions only through functions of the database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.db import Database, Glance, Question
from dumont.identity.model import (
    Account,
    ApiToken,
    FoundUser,
    LoginSession,
    Member,
    Membership,
    OwnTeam,
    Profile,
    SshKey,
    Team,
)

_ENTER = text("SELECT * FROM dumont_enter(:session_id, :user_id, :jti, :team_id, :now)")
_ENTER_GLANCE = Question(_ENTER)
_REGISTER = text(
    "SELECT dumont_register(:user_id, :email, :username, :name, :password_hash,"
    " :team_id, :team_name, :is_operator, :now)"
)
_FIND_USER = text("SELECT id, email, password_hash, team_id FROM dumont_find_user(:identifier)")
_ACCOUNT = text("SELECT * FROM dumont_account(:user_id)")
_ACCOUNT_GLANCE = Question(_ACCOUNT)
_ENTER_TOKEN = text("SELECT * FROM dumont_enter_token(:hash, :team_id, :now)")
_ENTER_TOKEN_GLANCE = Question(_ENTER_TOKEN)
_OPEN_SESSION = text(
    "SELECT * FROM dumont_open_session(:session_id, :user_id, :jti, :created, :expires, :hash, :ip, :agent)"
)
_REFRESH = text("SELECT * FROM dumont_refresh(:spent, :hash, :jti, :now, :expires, :retry_key)")
_KEEP_REFRESH = text("SELECT dumont_keep_refresh(:spent, :retry_key, :answer)")
_SWITCH_TEAM = text("SELECT * FROM dumont_switch_team(:session_id, :team_id, :jti, :hash, :now, :expires)")
_SESSIONS = text("SELECT * FROM dumont_sessions(:now)")
_OWN_PASSWORD = text("SELECT email, password_hash FROM dumont_own_password()")
_CHANGE_PASSWORD = text("SELECT dumont_change_password(:hash, :session_id, :now)")
_PROFILE = text("SELECT * FROM dumont_profile()")
_CHANGE_PROFILE = text("SELECT dumont_change_profile(:name, :locale, :timezone, :currency)")
_TEAMS = text("SELECT * FROM dumont_teams()")
_CREATE_TEAM = text("SELECT dumont_create_team(:team_id, :name, :user_id, :now)")
_MEMBERS = text("SELECT * FROM dumont_members()")
_END_ACCESS = text("SELECT dumont_end_access(:user_id, :now)")
_CLOSE_SESSIONS = text("SELECT dumont_close_sessions(:user_id, :session_id, :now)")
_FORGET_ACCESS = text("SELECT dumont_forget_access(:before)")
_SSH_KEYS = text("SELECT public_key FROM dumont_ssh_keys(:user_id)")
_SSH_KEYS_GLANCE = Question(_SSH_KEYS)
_TEAM = Question(text("SELECT set_config('dumont.team_id', :team, true)"))


@dataclass(frozen=True)
class Entered:
    """What `dumont_enter` found; the names are None unless `outcome` is `welcome`."""

    outcome: str
    email: str
    username: str | None
    team_id: str
    team_name: str
    role: str


@dataclass(frozen=True)
class NewAccount:
    """The row of a new user and of the team made for him."""

    user_id: str
    email: str
    username: str | None
    name: str | None
    password_hash: str
    team_id: str
    team_name: str
    is_operator: bool
    now: datetime


@dataclass(frozen=True)
class NewSession:
    """The row of a new login session."""

    session_id: str
    user_id: str
    jti: str
    created: datetime
    expires: datetime
    hash: bytes
    ip: str | None
    agent: str | None


@dataclass(frozen=True)
class Opened:
    """What a session was opened for; `outcome` is `welcome`, `teamless` or `disabled`, and only the first has rows."""

    outcome: str
    email: str
    team_id: str
    role: str


@dataclass(frozen=True)
class EnteredToken(Entered):
    """What `dumont_enter_token` found."""

    user_id: str
    token_id: str
    scopes: list[str]
    expires_at: datetime | None


@dataclass(frozen=True)
class Rotation:
    """What replaces a session's token pair: the jti of the access token and the digest of the refresh token."""

    jti: str
    hash: bytes
    now: datetime
    expires: datetime


@dataclass(frozen=True)
class Refreshed:
    """What `dumont_refresh` found: `welcome`, `again` (then `answer` is the sealed first one), or why not."""

    outcome: str
    session_id: str
    user_id: str
    email: str
    team_id: str
    role: str
    answer: bytes | None


@dataclass(frozen=True)
class Switched:
    """The team that a session is in now."""

    email: str
    team_id: str
    team_name: str
    role: str


async def enter(
    place: AsyncSession | Glance, *, session_id: str, user_id: str, jti: str, team_id: str | None, now: datetime
) -> Entered:
    """Check session, user, team and membership and set the team for row-level security, in one round trip."""
    named = {"session_id": session_id, "user_id": user_id, "jti": jti, "team_id": team_id, "now": now}
    if isinstance(place, Glance):
        return Entered(*await place.enter(_ENTER_GLANCE, named))
    return Entered(*(await place.execute(_ENTER, named)).one())


async def insert_account(session: AsyncSession, account: NewAccount) -> None:
    """Insert a user, his team and his membership as its admin; the session is then in that team."""
    await session.execute(_REGISTER, vars(account))


async def find_user(session: AsyncSession, identifier: str) -> FoundUser | None:
    """Find a user who may sign in by e-mail address or username, without regard to case."""
    row = (await session.execute(_FIND_USER, {"identifier": identifier})).mappings().one_or_none()
    return FoundUser(**row) if row else None


async def glance_at_account(glance: Glance, user_id: str) -> Account:
    """Read what a user may know about himself, as the one question of a glance."""
    return Account(*(await glance.ask(_ACCOUNT_GLANCE, {"user_id": user_id}))[0])


async def read_account(session: AsyncSession, user_id: str) -> Account:
    """Read what a user may know about himself."""
    return Account(**(await session.execute(_ACCOUNT, {"user_id": user_id})).mappings().one())


async def is_operator(session: AsyncSession, user_id: str) -> bool:
    """Tell whether a user runs this installation."""
    return (await read_account(session, user_id)).is_operator


async def enter_token(place: AsyncSession | Glance, hashed: bytes, team_id: str | None, now: datetime) -> EnteredToken:
    """Check an API token, its user and his membership and set its team for row-level security, in one round trip."""
    named = {"hash": hashed, "team_id": team_id, "now": now}
    if isinstance(place, Glance):
        return EnteredToken(*await place.enter(_ENTER_TOKEN_GLANCE, named))
    return EnteredToken(*(await place.execute(_ENTER_TOKEN, named)).one())


async def insert_session(session: AsyncSession, new: NewSession) -> Opened:
    """Open a login session in the user's present team, or in the oldest of the others where he is not in that one."""
    return Opened(**(await session.execute(_OPEN_SESSION, vars(new))).mappings().one())


async def refresh(session: AsyncSession, spent: bytes, rotation: Rotation, retry_key: bytes | None) -> Refreshed:
    """Spend a refresh token for a new pair; ends the session where it was spent before."""
    named = {"spent": spent, "retry_key": retry_key, **vars(rotation)}
    return Refreshed(**(await session.execute(_REFRESH, named)).mappings().one())


async def keep_refresh(session: AsyncSession, spent: bytes, retry_key: bytes, answer: bytes) -> None:
    """Keep the sealed answer to a refresh for a retry with the same key."""
    await session.execute(_KEEP_REFRESH, {"spent": spent, "retry_key": retry_key, "answer": answer})


async def switch_team(session: AsyncSession, session_id: str, team_id: str, rotation: Rotation) -> Switched | None:
    """Move the caller's session to another of his teams, with a new pair; None where it is not his."""
    named = {"session_id": session_id, "team_id": team_id, **vars(rotation)}
    row = (await session.execute(_SWITCH_TEAM, named)).mappings().one_or_none()
    return Switched(**row) if row else None


async def open_sessions(session: AsyncSession, now: datetime) -> list[LoginSession]:
    """Read the caller's open sessions, last used first."""
    return [LoginSession(**row) for row in (await session.execute(_SESSIONS, {"now": now})).mappings()]


async def own_password(session: AsyncSession) -> tuple[str, str]:
    """Read the caller's e-mail address and password hash."""
    email, hashed = (await session.execute(_OWN_PASSWORD)).one()
    return email, hashed


async def change_password(session: AsyncSession, hashed: str, session_id: str, now: datetime) -> int:
    """Store the caller's new password hash and end his other sessions; return how many were open."""
    return int(await session.scalar(_CHANGE_PASSWORD, {"hash": hashed, "session_id": session_id, "now": now}) or 0)


async def read_profile(session: AsyncSession) -> Profile:
    """Read the caller's profile."""
    return Profile(**(await session.execute(_PROFILE)).mappings().one())


async def change_profile(session: AsyncSession, changes: Mapping[str, Any]) -> None:
    """Store changes to the caller's profile; what is not named stays."""
    await session.execute(_CHANGE_PROFILE, {**vars(await read_profile(session)), **changes})


async def teams_of_caller(session: AsyncSession) -> list[OwnTeam]:
    """Read the teams that the caller is in, oldest first."""
    return [OwnTeam(**row) for row in (await session.execute(_TEAMS)).mappings()]


async def insert_team(session: AsyncSession, team_id: str, name: str, user_id: str, now: datetime) -> None:
    """Insert a team with its first admin; the session is then in that team."""
    await session.execute(_CREATE_TEAM, {"team_id": team_id, "name": name, "user_id": user_id, "now": now})


async def members(session: AsyncSession) -> list[Member]:
    """Read the members of the present team, oldest first."""
    return [Member(**row) for row in (await session.execute(_MEMBERS)).mappings()]


async def lock_team(session: AsyncSession, team_id: str, *, closing: bool = False) -> Team:
    """Lock the present team until the transaction ends: what counts its admins does it one at a time.

    `closing` waits also for whoever is just giving it a row, and makes those who would wait.
    """
    statement = select(Team).where(Team.id == team_id).with_for_update(key_share=not closing)
    return (await session.scalars(statement)).one()


async def count_admins(session: AsyncSession, team_id: str) -> int:
    """Count the admins of the present team."""
    admins = select(func.count()).where(Membership.team_id == team_id, Membership.role == "admin")
    return int(await session.scalar(admins) or 0)


async def end_access(session: AsyncSession, user_id: str | None, now: datetime) -> None:
    """End the sessions and API tokens of a user (None: of everybody) in the present team."""
    await session.execute(_END_ACCESS, {"user_id": user_id, "now": now})


async def find_token(session: AsyncSession, token_id: str) -> ApiToken | None:
    """Find a token of the present team that was not revoked."""
    return (
        await session.scalars(select(ApiToken).where(ApiToken.id == token_id, ApiToken.revoked_at.is_(None)))
    ).one_or_none()


async def close_sessions(session: AsyncSession, user_id: str, session_id: str | None, now: datetime) -> int:
    """End one session of a user, or all of them for None; return how many were open."""
    named = {"user_id": user_id, "session_id": session_id, "now": now}
    return int(await session.scalar(_CLOSE_SESSIONS, named) or 0)


async def forget_access(session: AsyncSession, before: datetime) -> int:
    """Delete sessions, refresh tokens and API tokens that ended before a time; return how many. The worker's alone."""
    return int(await session.scalar(_FORGET_ACCESS, {"before": before}) or 0)


async def ssh_keys_of(session: AsyncSession, user_id: str) -> list[str]:
    """Return a user's public keys in the form of authorized_keys, oldest first."""
    return list((await session.scalars(_SSH_KEYS, {"user_id": user_id})).all())


async def glance_at_ssh_keys(database: Database, team_id: str, user_id: str) -> list[str]:
    """Return what `ssh_keys_of` does, in one round trip."""
    async with database.glance() as glance:
        values = {"team": team_id, "user_id": user_id}
        return [row[0] for row in await glance.enter_and_ask(_TEAM, _SSH_KEYS_GLANCE, values=values)]


async def own_ssh_keys(session: AsyncSession, user_id: str) -> Sequence[SshKey]:
    """Read the keys of the caller."""
    return (await session.scalars(select(SshKey).where(SshKey.user_id == user_id).order_by(SshKey.id))).all()


async def delete_ssh_key(session: AsyncSession, user_id: str, key_id: str) -> bool:
    """Delete a key of the caller; tell whether it was there."""
    statement = delete(SshKey).where(SshKey.id == key_id, SshKey.user_id == user_id).returning(SshKey.id)
    return (await session.execute(statement)).first() is not None
