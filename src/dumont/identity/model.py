"""Tables, roles and problems of users and teams.

Accounts and login sessions have no class here: no role may touch their tables, only call the functions of `queries`.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ARRAY, DateTime, ForeignKey, LargeBinary, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from dumont.core import Act
from dumont.db import Base
from dumont.http import problems

_VIEWER = frozenset({"gpu.view", "cost.view_own", "ledger.view"})
_DEVELOPER = _VIEWER | {"gpu.provision", "gpu.delete", "snapshot.manage", "alerts.manage", "advisor.use"}
_ADMIN = _DEVELOPER | {
    "cost.view",
    "cost.export",
    "ledger.post",
    "wallet.manage",
    "standby.manage",
    "settings.view",
    "settings.manage",
    "webhooks.manage",
    "tokens.manage",
    "team.invite",
    "team.remove",
    "team.manage",
    "audit.view",
}
ROLE_PERMISSIONS: dict[str, frozenset[str]] = {"viewer": _VIEWER, "developer": _DEVELOPER, "admin": _ADMIN}
"""The built-in roles; each holds what the one before holds."""

PERMISSIONS: frozenset[str] = _ADMIN
"""Every permission that exists."""

Role = Literal["viewer", "developer", "admin"]


class Team(Base):
    """The owner of every row that somebody pays for; a closed one keeps its rows and lets nobody in."""

    __tablename__ = "team"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    closed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class Membership(Base):
    """A user's role in a team."""

    __tablename__ = "membership"

    team_id: Mapped[str] = mapped_column(ForeignKey("team.id"), primary_key=True)
    user_id: Mapped[str] = mapped_column(Text, primary_key=True)
    role: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class SshKey(Base):
    """A user's public key, put on every machine that he launches."""

    __tablename__ = "ssh_key"
    __table_args__ = (UniqueConstraint("user_id", "fingerprint"),)

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    user_id: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    public_key: Mapped[str] = mapped_column(Text)
    fingerprint: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class ApiToken(Base):
    """A token for programs: a user's rights in one team, or some of them."""

    __tablename__ = "api_token"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    team_id: Mapped[str] = mapped_column(ForeignKey("team.id"))
    user_id: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    prefix: Mapped[str] = mapped_column(Text)
    hash: Mapped[bytes] = mapped_column(LargeBinary)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    last_used_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    revoked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


@dataclass(frozen=True)
class LoginSession:
    """A session that is open; `ip` and `user_agent` are those of the sign-in."""

    id: str
    created_at: datetime
    last_used_at: datetime
    ip: str | None
    user_agent: str | None


@dataclass(frozen=True)
class Profile:
    """What a user may change about himself, and who he is."""

    id: str
    email: str
    name: str | None
    locale: str
    timezone: str
    currency: str


@dataclass(frozen=True)
class OwnTeam:
    """A team as one of its members sees it; `role` is his."""

    id: str
    name: str
    role: str
    member_count: int
    created_at: datetime


@dataclass(frozen=True)
class Member:
    """Somebody in a team."""

    user_id: str
    email: str
    name: str | None
    role: str
    joined_at: datetime


@dataclass(frozen=True)
class FoundUser:
    """A user as sign-in needs him; `team_id` is the team that he is in now."""

    id: str
    email: str
    password_hash: str
    team_id: str


@dataclass(frozen=True)
class NewUser:
    """A user who was just registered, with the team that was made for him."""

    user_id: str
    team_id: str
    email: str


@dataclass(frozen=True)
class Account:
    """What a user may read about himself."""

    id: str
    email: str
    username: str | None
    name: str | None
    settings: dict[str, Any]
    is_operator: bool
    created_at: datetime
    email_verified_at: datetime | None


class InvalidCredentials(problems.Unauthenticated):
    """The account does not exist or the password is not its own; which of the two is not said."""

    code = "invalid-credentials"
    title = "The account or the password is wrong"


class InvalidRefreshToken(problems.Unauthenticated):
    """The refresh token is unknown, its time is over, or its session was ended: sign in again."""

    code = "invalid-refresh-token"
    title = "The refresh token is not valid"


class RefreshTokenReused(problems.Unauthenticated):
    """A refresh token came a second time, so somebody has a copy: the whole session was ended."""

    code = "refresh-token-reused"
    title = "The refresh token was used before; its session was ended"


class LastAdmin(problems.Conflict):
    """A team keeps at least one admin: give the role to somebody else first, or delete the team."""

    code = "last-admin"
    title = "The team would be left without an admin"


class EmailTaken(problems.Conflict):
    """An account with this e-mail address exists: sign in instead."""

    code = "email-taken"
    title = "There is already an account with this e-mail address"


class NameTaken(problems.Conflict):
    """Another one has this name: choose a different one."""

    code = "name-taken"
    title = "This name is taken"


class WeakPassword(problems.InvalidRequest):
    """The password would be among the first guesses of anybody."""

    code = "weak-password"
    title = "This password is too easy to guess"

    def __init__(self, pointer: str = "/password") -> None:
        detail = "Choose a longer password that is neither your address nor a common word."
        super().__init__([problems.field_error(pointer, detail, "weak-password")], detail)


class SignInBusy(problems.RateLimited):
    """More people are signing in at this moment than passwords can be checked."""

    code = "sign-in-busy"
    act = Act.WAIT
    title = "Too many people are signing in at this moment"


SshKeyNotFound = problems.not_found("ssh-key")
TeamNotFound = problems.not_found("team")
SessionNotFound = problems.not_found("session")
TokenNotFound = problems.not_found("token")
MemberNotFound = problems.not_found("member")
UserNotFound = problems.not_found("user")
