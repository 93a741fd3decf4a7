"""The verbs of accounts: register, sign in, enter, sign out, passwords, SSH keys; teams made and closed."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import datetime

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import Clock, Problem, Settings, is_id, new_id
from dumont.db import Database, Glance
from dumont.http import CallerFacts, problems
from dumont.identity import queries
from dumont.identity.addresses import check_email, check_username
from dumont.identity.guard import Guard
from dumont.identity.keys import PublicKey
from dumont.identity.model import (
    PERMISSIONS,
    ROLE_PERMISSIONS,
    EmailTaken,
    InvalidCredentials,
    NameTaken,
    NewUser,
    SessionNotFound,
    SshKey,
    SshKeyNotFound,
    TeamNotFound,
    WeakPassword,
)
from dumont.identity.opaque import API_TOKEN_PREFIX, digest
from dumont.identity.passwords import Passwords, is_weak
from dumont.identity.sessions import Sessions, SignedIn, Visitor, real_now

_KNOWN_TOKENS = 10_000
TeamHook = Callable[[AsyncSession, str], Awaitable[None]]
"""Called with the session and the id of a team that was just made or is about to be closed, in that transaction."""


class IdentityService:
    """Everything that needs the installation's secret or its settings; also the authenticator of the request kit."""

    def __init__(self, secret: bytes, settings: Settings) -> None:
        self._clock = settings.clock
        self._hooks: list[TeamHook] = []
        self._close_hooks: list[TeamHook] = []
        self.sessions = Sessions(secret, settings)
        self.passwords = Passwords()
        self.guard = Guard()
        self._known_tokens: OrderedDict[bytes, None] = OrderedDict()

    @property
    def clock(self) -> Clock:
        """The product's clock."""
        return self._clock

    @property
    def permissions(self) -> frozenset[str]:
        """Every permission that exists."""
        return PERMISSIONS

    def on_team_created(self, hook: TeamHook) -> None:
        """Have `hook` called whenever a team is made, inside the transaction that makes it."""
        self._hooks.append(hook)

    def may_close_team(self, hook: TeamHook) -> None:
        """Have `hook` called before a team is closed; it refuses by raising a Problem, such as WrongState."""
        self._close_hooks.append(hook)

    def close(self) -> None:
        """End the threads that check passwords."""
        self.passwords.close()

    def may_be_good(self, bearer_token: str) -> bool:
        """Tell without the database whether a token is worth a look-up.

        An access token is that by its signature and time, an API token by having been good in this process before.
        """
        if bearer_token.startswith(API_TOKEN_PREFIX):
            return digest(bearer_token) in self._known_tokens
        try:
            self.sessions.tokens.read(bearer_token, real_now())
        except problems.Unauthenticated:
            return False
        return True

    async def enter(self, session: AsyncSession | Glance, bearer_token: str, team_id: str | None) -> CallerFacts:
        """Look a token up and set its team for row-level security: one round trip.

        Errors: InvalidToken, ExpiredToken, RevokedToken; TeamNotFound where `team_id` is not a team of the user.
        """
        now = real_now()
        if bearer_token.startswith(API_TOKEN_PREFIX):
            return await self._enter_token(session, bearer_token, team_id, now)
        claims = self.sessions.tokens.read(bearer_token, now)
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
        """Open a login session in the user's present team and issue its tokens.

        Guarantees: whoever is in no team any more gets one of his own, so that nobody is locked out.
        """
        signed = await self.sessions.open(session, user_id, visitor)
        if signed is None:
            account = await queries.read_account(session, user_id)
            await self.create_team(session, user_id, account.name or account.email.partition("@")[0])
            signed = await self.sessions.open(session, user_id, visitor)
        if signed is None:
            raise InvalidCredentials("This account cannot sign in to a team.")
        return signed

    async def create_team(self, session: AsyncSession, user_id: str, name: str) -> str:
        """Make a team of which the user is the admin, call the hooks for it, and return its id.

        Guarantees: the session is in the new team afterwards.
        """
        team_id = new_id("team")
        await queries.insert_team(session, team_id, name, user_id, self._clock.now())
        for hook in self._hooks:
            await hook(session, team_id)
        return team_id

    async def close_team(self, session: AsyncSession, team_id: str) -> None:
        """Close the present team: its rows stay, nobody enters it, its sessions and tokens end at once.

        Errors: whatever problem a hook of `may_close_team` raises.
        """
        team = await queries.lock_team(session, team_id, closing=True)
        for hook in self._close_hooks:
            await hook(session, team_id)
        team.closed_at = self._clock.now()
        await session.flush()
        await queries.end_access(session, None, real_now())

    async def prepare_password(self, email: str, hashed: str, current: str, new: str) -> str:
        """Check the present password against its hash and return the hash of the new one; needs no transaction.

        Errors: InvalidCredentials for a wrong present password, WeakPassword.
        """
        if not await self.passwords.matches(current, hashed):
            raise InvalidCredentials("The present password is not this one.")
        if is_weak(new, email):
            raise WeakPassword("/new_password")
        return await self.passwords.hash(new)

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

    async def _enter_token(
        self, session: AsyncSession | Glance, token: str, team_id: str | None, now: datetime
    ) -> CallerFacts:
        hashed = digest(token)
        found = await queries.enter_token(session, hashed, team_id, now)
        self._known_tokens.pop(hashed, None)
        if found.outcome != "welcome":
            raise _refusal(found.outcome, asked_for_team=team_id is not None)
        self._known_tokens[hashed] = None
        if len(self._known_tokens) > _KNOWN_TOKENS:
            self._known_tokens.popitem(last=False)
        return _token_facts(found)


def build_authenticator(secret: bytes, settings: Settings) -> IdentityService:
    """Build the authenticator that `http.create_app` takes and the routes of this room use."""
    return IdentityService(secret, settings)


async def replace_password(session: AsyncSession, session_id: str, before: str, after: str) -> int:
    """Store the hash of the caller's new password and end his other sessions; return how many were open.

    Errors: InvalidCredentials where `before` is not the hash of his password any more.
    """
    _, hashed = await queries.own_password(session)
    if hashed != before:
        raise InvalidCredentials("The password was changed by another request at this moment.")
    return await queries.change_password(session, after, session_id, real_now())


async def sign_out(session: AsyncSession, user_id: str, session_id: str | None) -> int:
    """End one session of a user, or all for None; their tokens fail from the next request on."""
    return await queries.close_sessions(session, user_id, session_id, real_now())


async def end_session(session: AsyncSession, user_id: str, session_id: str) -> None:
    """End one session of a user.

    Errors: SessionNotFound where it is not his or not open.
    """
    if not await queries.close_sessions(session, user_id, session_id, real_now()):
        raise SessionNotFound()


async def remove_ssh_key(session: AsyncSession, user_id: str, key_id: str) -> None:
    """Delete a public key of the caller.

    Errors: SshKeyNotFound.
    """
    if not await queries.delete_ssh_key(session, user_id, key_id):
        raise SshKeyNotFound()


def _token_facts(found: queries.EnteredToken) -> CallerFacts:
    return CallerFacts(
        user_id=found.user_id,
        email=found.email,
        username=found.username,
        session_id=None,
        api_token_id=found.token_id,
        team_id=found.team_id,
        team_name=found.team_name,
        role=found.role,
        permissions=ROLE_PERMISSIONS[found.role] & frozenset(found.scopes),
        token_expires_at=found.expires_at,
    )


def _refusal(outcome: str, *, asked_for_team: bool) -> Problem:
    if outcome == "unknown":
        return problems.InvalidToken()
    if outcome == "expired":
        return problems.ExpiredToken("The time of this token is over. Sign in again, or make another token.")
    if outcome == "stranger" and asked_for_team:
        return TeamNotFound()
    return problems.RevokedToken("The session or token was ended. Sign in again, or make another token.")


def _taken(error: IntegrityError) -> problems.Conflict:
    if "uq_user_account_email_key" in str(error.orig):
        return EmailTaken("There is already an account with this e-mail address. Sign in instead.")
    if "uq_user_account_username" in str(error.orig):
        return NameTaken("This username is taken. Choose another one.")
    raise error
