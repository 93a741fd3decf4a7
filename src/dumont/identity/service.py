"""The verbs of users and teams: register, sign in, enter, sign out, SSH keys."""

import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import Problem, Settings, is_id, new_id
from dumont.db import Database
from dumont.http import CallerFacts, problems
from dumont.identity import queries
from dumont.identity.addresses import check_email, check_username
from dumont.identity.keys import PublicKey
from dumont.identity.model import (
    PERMISSIONS,
    ROLE_PERMISSIONS,
    EmailTaken,
    InvalidCredentials,
    NameTaken,
    NewUser,
    SshKey,
    SshKeyNotFound,
    TeamNotFound,
    WeakPassword,
)
from dumont.identity.passwords import Passwords, is_weak
from dumont.identity.tokens import TokenClaims, Tokens

TeamHook = Callable[[AsyncSession, str], Awaitable[None]]
"""Called with the session and the id of a team that was just made, inside the same transaction."""


@dataclass(frozen=True)
class SignedIn:
    """A session that was just opened, with the token that names it."""

    user_id: str
    email: str
    team_id: str
    role: str
    access_token: str
    expires_in: int


@dataclass(frozen=True)
class Visitor:
    """From where somebody signs in."""

    ip: str | None = None
    agent: str | None = None


class IdentityService:
    """Everything that needs the installation's secret or its settings; also the authenticator of the request kit."""

    def __init__(self, secret: bytes, settings: Settings) -> None:
        self._tokens = Tokens(secret)
        self._clock = settings.clock
        self._lifetime_seconds = settings.access_token_seconds
        self._hooks: list[TeamHook] = []
        self.passwords = Passwords()

    @property
    def permissions(self) -> frozenset[str]:
        """Every permission that exists."""
        return PERMISSIONS

    def on_team_created(self, hook: TeamHook) -> None:
        """Have `hook` called whenever a team is made, inside the transaction that makes it."""
        self._hooks.append(hook)

    def close(self) -> None:
        """End the threads that check passwords."""
        self.passwords.close()

    async def enter(self, session: AsyncSession, bearer_token: str, team_id: str | None) -> CallerFacts:
        """Look a token up and set its team for row-level security: one round trip.

        Errors: InvalidToken, ExpiredToken, RevokedToken; TeamNotFound where `team_id` is not a team of the user.
        """
        now = _real_now()
        claims = self._tokens.read(bearer_token, now)
        if team_id is not None and not is_id(team_id, "team"):
            raise TeamNotFound()
        found = await queries.enter(
            session,
            session_id=claims.session_id,
            user_id=claims.user_id,
            jti=claims.jti,
            team_id=team_id,
            now=now,
        )
        if found.outcome != "welcome":
            raise _refusal(found.outcome, asked_for_team=team_id is not None)
        return CallerFacts(
            user_id=claims.user_id,
            email=found.email,
            username=found.username,
            session_id=claims.session_id,
            team_id=found.team_id,
            team_name=found.team_name,
            role=found.role,
            permissions=ROLE_PERMISSIONS[found.role],
            token_expires_at=claims.expires_at,
        )

    async def register_user(
        self,
        session: AsyncSession,
        *,
        email: str,
        password: str,
        name: str | None = None,
        username: str | None = None,
        is_operator: bool = False,
    ) -> NewUser:
        """Make a user and a team of his own, of which he is the admin, and call the hooks for the team.

        Guarantees: all or nothing within the caller's transaction; the session is in the new team afterwards.
        Errors: EmailTaken, NameTaken, WeakPassword; ValueError for an e-mail or username of the wrong form.
        """
        check_email(email)
        username = check_username(username) if username is not None else None
        if is_weak(password, email):
            raise WeakPassword()
        account = queries.NewAccount(
            user_id=new_id("usr"),
            email=email,
            username=username,
            name=name,
            password_hash=await self.passwords.hash(password),
            team_id=new_id("team"),
            team_name=name or email.partition("@")[0],
            is_operator=is_operator,
            now=self._clock.now(),
        )
        try:
            await queries.insert_account(session, account)
        except IntegrityError as error:
            raise _taken(error) from error
        for hook in self._hooks:
            await hook(session, account.team_id)
        return NewUser(account.user_id, account.team_id, email)

    async def sign_in(self, database: Database, identifier: str, password: str, visitor: Visitor) -> SignedIn:
        """Check a password and open a session; no transaction is open while the password is checked.

        Errors: InvalidCredentials for an unknown account as for a wrong password, after the same work.
        """
        async with database.begin() as session:
            user = await queries.find_user(session, identifier)
        if not await self.passwords.matches(password, user.password_hash if user else None) or user is None:
            raise InvalidCredentials("No account has this name and this password together.")
        async with database.begin() as session:
            return await self.open_session(session, user.id, visitor)

    async def open_session(self, session: AsyncSession, user_id: str, visitor: Visitor) -> SignedIn:
        """Open a login session in the user's present team and issue its token."""
        now = _real_now()
        expires = now + timedelta(seconds=self._lifetime_seconds)
        claims = TokenClaims(user_id, new_id("ses"), secrets.token_urlsafe(16), expires)
        opened = await queries.insert_session(
            session,
            queries.NewSession(claims.session_id, user_id, claims.jti, now, expires, visitor.ip, visitor.agent),
        )
        if opened is None:
            raise InvalidCredentials("This account cannot sign in to its team any more.")
        token = self._tokens.issue(claims, email=opened.email, team_id=opened.team_id, role=opened.role, issued_at=now)
        return SignedIn(user_id, opened.email, opened.team_id, opened.role, token, self._lifetime_seconds)

    async def add_ssh_key(self, session: AsyncSession, user_id: str, name: str, key: PublicKey) -> SshKey:
        """Store a public key of the caller.

        Errors: NameTaken where he has stored this key before.
        """
        row = SshKey(
            id=new_id("key"),
            user_id=user_id,
            name=name,
            public_key=key.line,
            fingerprint=key.fingerprint,
            created_at=self._clock.now(),
        )
        try:
            session.add(row)
            await session.flush()
        except IntegrityError as error:
            raise NameTaken("You have stored this key already.") from error
        return row


def build_authenticator(secret: bytes, settings: Settings) -> IdentityService:
    """Build the authenticator that `http.create_app` takes and the routes of this room use."""
    return IdentityService(secret, settings)


async def sign_out(session: AsyncSession, user_id: str, session_id: str | None) -> int:
    """End one session of a user, or all for None; their tokens fail from the next request on."""
    return await queries.close_sessions(session, user_id, session_id, _real_now())


async def remove_ssh_key(session: AsyncSession, user_id: str, key_id: str) -> None:
    """Delete a public key of the caller.

    Errors: SshKeyNotFound.
    """
    if not await queries.delete_ssh_key(session, user_id, key_id):
        raise SshKeyNotFound()


def _real_now() -> datetime:
    """Return real time: how long a token is good does not follow the product's clock."""
    return datetime.fromtimestamp(time.time(), tz=timezone.utc)


def _refusal(outcome: str, *, asked_for_team: bool) -> Problem:
    if outcome == "unknown":
        return problems.InvalidToken()
    if outcome == "expired":
        return problems.ExpiredToken("The session has expired. Sign in again.")
    if outcome == "stranger" and asked_for_team:
        return TeamNotFound()
    return problems.RevokedToken("The session was ended. Sign in again.")


def _taken(error: IntegrityError) -> problems.Conflict:
    if "uq_user_account_email_key" in str(error.orig):
        return EmailTaken("There is already an account with this e-mail address. Sign in instead.")
    if "uq_user_account_username" in str(error.orig):
        return NameTaken("This username is taken. Choose another one.")
    raise error
