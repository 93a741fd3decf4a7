"""SQL of users and teams, one named function each; accounts and sessions only through functions of the database."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.identity.model import Account, FoundUser, SshKey

_ENTER = text("SELECT * FROM dumont_enter(:session_id, :user_id, :jti, :team_id, :now)")
_REGISTER = text(
    "SELECT dumont_register(:user_id, :email, :username, :name, :password_hash,"
    " :team_id, :team_name, :is_operator, :now)"
)
_FIND_USER = text("SELECT id, email, password_hash, team_id FROM dumont_find_user(:identifier)")
_ACCOUNT = text("SELECT * FROM dumont_account(:user_id)")
_OPEN_SESSION = text("SELECT * FROM dumont_open_session(:session_id, :user_id, :jti, :created, :expires, :ip, :agent)")
_CLOSE_SESSIONS = text("SELECT dumont_close_sessions(:user_id, :session_id, :now)")
_SSH_KEYS = text("SELECT public_key FROM dumont_ssh_keys(:user_id)")


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
    ip: str | None
    agent: str | None


@dataclass(frozen=True)
class Opened:
    """What a session was opened for."""

    email: str
    team_id: str
    role: str


async def enter(
    session: AsyncSession, *, session_id: str, user_id: str, jti: str, team_id: str | None, now: datetime
) -> Entered:
    """Check session, user, team and membership and set the team for row-level security, in one round trip."""
    named = {"session_id": session_id, "user_id": user_id, "jti": jti, "team_id": team_id, "now": now}
    return Entered(**(await session.execute(_ENTER, named)).mappings().one())


async def insert_account(session: AsyncSession, account: NewAccount) -> None:
    """Insert a user, his team and his membership as its admin; the session is then in that team."""
    await session.execute(_REGISTER, vars(account))


async def find_user(session: AsyncSession, identifier: str) -> FoundUser | None:
    """Find a user who may sign in by e-mail address or username, without regard to case."""
    row = (await session.execute(_FIND_USER, {"identifier": identifier})).mappings().one_or_none()
    return FoundUser(**row) if row else None


async def read_account(session: AsyncSession, user_id: str) -> Account:
    """Read what a user may know about himself."""
    return Account(**(await session.execute(_ACCOUNT, {"user_id": user_id})).mappings().one())


async def insert_session(session: AsyncSession, new: NewSession) -> Opened | None:
    """Open a login session in the user's present team; None where he is disabled or no longer its member."""
    row = (await session.execute(_OPEN_SESSION, vars(new))).mappings().one_or_none()
    return Opened(**row) if row else None


async def close_sessions(session: AsyncSession, user_id: str, session_id: str | None, now: datetime) -> int:
    """End one session of a user, or all of them for None; return how many were open."""
    named = {"user_id": user_id, "session_id": session_id, "now": now}
    return int(await session.scalar(_CLOSE_SESSIONS, named) or 0)


async def ssh_keys_of(session: AsyncSession, user_id: str) -> list[str]:
    """Return a user's public keys in the form of authorized_keys, oldest first."""
    return list((await session.scalars(_SSH_KEYS, {"user_id": user_id})).all())


async def own_ssh_keys(session: AsyncSession, user_id: str) -> Sequence[SshKey]:
    """Read the keys of the caller."""
    return (await session.scalars(select(SshKey).where(SshKey.user_id == user_id).order_by(SshKey.id))).all()


async def delete_ssh_key(session: AsyncSession, user_id: str, key_id: str) -> bool:
    """Delete a key of the caller; tell whether it was there."""
    statement = delete(SshKey).where(SshKey.id == key_id, SshKey.user_id == user_id).returning(SshKey.id)
    return (await session.execute(statement)).first() is not None
