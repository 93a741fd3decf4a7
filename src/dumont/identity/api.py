"""Routes of sign-up, sign-in, sessions, passwords and SSH keys."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from fastapi import Depends, Request
from pydantic import BaseModel, Field, StringConstraints, field_validator, model_validator
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from dumont.db import set_team
from dumont.http import (
    CallerDep,
    Claim,
    DatabaseDep,
    GlanceDep,
    Line,
    Router,
    address_of,
    apart,
    problems,
    public,
    raises,
    read_open_claim,
    signed_in,
    spend,
    written,
)
from dumont.identity import queries, service
from dumont.identity.addresses import EmailText, IdentifierText, UsernameText
from dumont.identity.guard import check_address
from dumont.identity.keys import PublicKey, read_public_key
from dumont.identity.model import (
    EmailTaken,
    InvalidCredentials,
    InvalidRefreshToken,
    NameTaken,
    RefreshTokenReused,
    SessionNotFound,
    SignInBusy,
    SshKey,
    SshKeyNotFound,
    WeakPassword,
)
from dumont.identity.service import IdentityService
from dumont.identity.sessions import SignedIn, Visitor, real_now

auth = Router(prefix="/api/v1/auth", tags=["auth"])
ssh_keys = Router(prefix="/api/v1/ssh-keys", tags=["ssh-keys"])
NameText = Annotated[Line, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]


async def _service(request: Request) -> IdentityService:
    found = request.app.state.authenticator
    if not isinstance(found, IdentityService):
        raise TypeError("these routes need the authenticator of dumont.identity")
    return found


async def _visitor(request: Request) -> Visitor:
    agent = request.headers.get("user-agent")
    return Visitor(request.client.host if request.client else None, agent[:200] if agent else None)


ServiceDep = Annotated[IdentityService, Depends(_service)]
VisitorDep = Annotated[Visitor, Depends(_visitor)]


class RegisterBody(BaseModel):
    """A new account."""

    email: EmailText
    password: str = Field(min_length=8, max_length=128, repr=False)
    name: NameText | None = None
    username: UsernameText | None = None


class LoginBody(BaseModel):
    """Who signs in: an e-mail address or a username; where both are sent they must be equal."""

    email: EmailText | None = None
    username: IdentifierText | None = None
    password: str = Field(min_length=1, max_length=1024, repr=False)

    @model_validator(mode="after")
    def _one_name(self) -> Self:
        if self.email is None and self.username is None:
            raise ValueError("Send email or username.")
        if self.email is not None and self.username is not None and self.email.lower() != self.username.lower():
            raise ValueError("email and username must be equal where both are sent.")
        return self


class RefreshBody(BaseModel):
    """The refresh token that is spent."""

    refresh_token: str = Field(min_length=1, max_length=200, repr=False)


class PasswordBody(BaseModel):
    """A change of password."""

    current_password: str = Field(min_length=1, max_length=1024, repr=False)
    new_password: str = Field(min_length=8, max_length=128, repr=False)


class LogoutBody(BaseModel):
    """Which sessions end."""

    all: bool = False


class SshKeyBody(BaseModel):
    """A public key in the form of OpenSSH."""

    name: NameText
    public_key: str = Field(max_length=10_000)

    @field_validator("public_key")
    @classmethod
    def _readable(cls, text: str) -> str:
        read_public_key(text)
        return text

    def key(self) -> PublicKey:
        """Return the key in its one form."""
        return read_public_key(self.public_key)


class SessionDocument(BaseModel):
    """A session with a fresh pair of tokens."""

    user_id: str
    email: str
    team_id: str
    role: str
    access_token: str
    token_type: Literal["bearer"] = "bearer"
    expires_in: int
    refresh_token: str
    refresh_expires_in: int


class UserDocument(BaseModel):
    """The signed-in user."""

    id: str
    email: str
    username: str | None
    name: str | None
    settings: dict[str, Any]
    is_operator: bool
    created_at: datetime
    email_verified_at: datetime | None


class TeamDocument(BaseModel):
    """The team that the request works in."""

    id: str
    name: str
    role: str
    permissions: list[str]


class OwnSessionDocument(BaseModel):
    """The session of the token, and when the token ends."""

    id: str
    expires_at: datetime


class MeDocument(BaseModel):
    """Who is signed in, where, and what he may do."""

    authenticated: Literal[True] = True
    user: UserDocument
    team: TeamDocument
    session: OwnSessionDocument | None = Field(description="Null where an API token is calling.")


class LogoutDocument(BaseModel):
    """What signing out ended."""

    success: bool
    message: str
    sessions_revoked: int


class OpenSessionDocument(BaseModel):
    """A session that is open; address and program are those of the sign-in."""

    id: str
    created_at: datetime
    last_used_at: datetime
    ip: str | None
    user_agent: str | None
    current: bool


class SessionsDocument(BaseModel):
    """The caller's open sessions."""

    sessions: list[OpenSessionDocument]
    count: int


class DoneDocument(BaseModel):
    """What was done, in a sentence."""

    success: bool = True
    message: str


class SshKeyDocument(BaseModel):
    """A stored public key."""

    id: str
    name: str
    fingerprint: str
    created_at: datetime


class SshKeysDocument(BaseModel):
    """All public keys of the caller."""

    ssh_keys: list[SshKeyDocument]
    count: int


class SuccessDocument(BaseModel):
    """Done."""

    success: bool = True


@auth.post(
    "/register",
    status_code=201,
    **public(),
    responses=raises(
        EmailTaken, NameTaken, WeakPassword, problems.IdempotencyInProgress, problems.IdempotencyKeyReused
    ),
)
async def register(
    body: RegisterBody, request: Request, database: DatabaseDep, identity: ServiceDep, visitor: VisitorDep
) -> SessionDocument | Response:
    """Make an account with a team of its own, and sign in to it.

    A retry with the same Idempotency-Key within 24 hours gets the same answer, where its password is the same.
    """
    await spend(request, request.app.state.limits.rules.registrations, address_of(request))
    claim = await read_open_claim(request, body.email.lower())
    async with database.begin() as session:
        stored = await _registered_before(session, claim, body.email)
        if stored is not None:
            return stored
        user = await identity.register_user(
            session, email=body.email, password=body.password, name=body.name, username=body.username
        )
        signed = await identity.open_session(session, user.user_id, visitor)
        response = written(_session_document(signed).model_dump(), 201)
        if claim is not None:
            claim.team_id = user.team_id
            await claim.keep(session, response)
    return response


async def _registered_before(session: AsyncSession, claim: Claim | None, email: str) -> Response | None:
    """Return the answer that a registration with this key had; look only once nobody else holds the key."""
    if claim is None:
        return None
    await claim.take(session)
    known = await queries.find_user(session, email)
    if known is None:
        return None
    await set_team(session, known.team_id)
    return await claim.take(session)


@auth.post("/login", **public(), responses=raises(InvalidCredentials, problems.LoginRateLimited, SignInBusy))
async def login(
    body: LoginBody, request: Request, database: DatabaseDep, identity: ServiceDep, visitor: VisitorDep
) -> SessionDocument:
    """Sign in with an e-mail address or a username."""
    identifier = body.email or body.username or ""
    await check_address(request)
    async with database.begin() as session:
        user = await queries.find_user(session, identifier)
    async with identity.guard.guessing(request, user.id if user else f"name {identifier.lower()}"):
        return _session_document(await identity.sign_in(database, identifier, body.password, visitor))


@auth.post("/refresh", **public(), responses=raises(InvalidRefreshToken, RefreshTokenReused))
async def refresh(body: RefreshBody, request: Request, database: DatabaseDep, identity: ServiceDep) -> SessionDocument:
    """Spend a refresh token for a new pair of tokens; a second use ends the session.

    A retry with the same Idempotency-Key within 60 seconds gets the same pair.
    """
    key = request.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= 255:
        detail = "Must be 1 to 255 characters."
        raise problems.InvalidRequest([problems.field_error("/header/idempotency-key", detail, "invalid-key")])
    return _session_document(await identity.sessions.refresh(database, body.refresh_token, key))


@auth.get("/me", **signed_in())
async def me(caller: CallerDep, glance: GlanceDep) -> MeDocument:
    """Show who is signed in."""
    account = await queries.glance_at_account(glance, caller.user_id)
    return MeDocument(
        user=UserDocument(**vars(account)),
        team=TeamDocument(
            id=caller.team_id, name=caller.team_name, role=caller.role, permissions=sorted(caller.permissions)
        ),
        session=OwnSessionDocument(id=caller.session_id, expires_at=caller.token_expires_at)
        if caller.session_id is not None and caller.token_expires_at is not None
        else None,
    )


@auth.get("/sessions", **signed_in(person=True))
async def list_sessions(caller: CallerDep) -> SessionsDocument:
    """List the caller's open sessions, last used first."""
    found = await queries.open_sessions(caller.session, real_now())
    shown = [OpenSessionDocument(**vars(one), current=one.id == caller.session_id) for one in found]
    return SessionsDocument(sessions=shown, count=len(shown))


@auth.delete("/sessions/{session_id}", **signed_in(person=True), responses=raises(SessionNotFound))
async def end_session(session_id: str, caller: CallerDep) -> DoneDocument:
    """End one of the caller's sessions; its tokens fail from the next request on."""
    await service.end_session(caller.session, caller.user_id, session_id)
    return DoneDocument(message="The session was ended.")


@auth.post(
    "/password",
    **signed_in(person=True),
    responses=raises(InvalidCredentials, WeakPassword, problems.LoginRateLimited, SignInBusy),
)
async def change_password(
    body: PasswordBody, request: Request, caller: CallerDep, identity: ServiceDep
) -> DoneDocument:
    """Change the caller's password and end all his other sessions."""
    email, before = await queries.own_password(caller.session)
    async with apart(), identity.guard.guessing(request, caller.user_id):
        after = await identity.prepare_password(email, before, body.current_password, body.new_password)
    ended = await service.replace_password(caller.session, caller.session_id or "", before, after)
    return DoneDocument(message=f"The password was changed. Other sessions that were ended: {ended}.")


@auth.post("/logout", **signed_in(person=True))
async def logout(caller: CallerDep, body: LogoutBody | None = None) -> LogoutDocument:
    """End the session of this token, or all sessions of the user."""
    which = None if body is not None and body.all else caller.session_id
    ended = await service.sign_out(caller.session, caller.user_id, which)
    return LogoutDocument(success=True, message="You are signed out.", sessions_revoked=ended)


@ssh_keys.get("", **signed_in())
async def list_ssh_keys(caller: CallerDep) -> SshKeysDocument:
    """List the caller's public keys."""
    rows = await queries.own_ssh_keys(caller.session, caller.user_id)
    return SshKeysDocument(ssh_keys=[_key_document(row) for row in rows], count=len(rows))


@ssh_keys.post("", status_code=201, **signed_in(person=True), responses=raises(NameTaken))
async def add_ssh_key(body: SshKeyBody, caller: CallerDep, identity: ServiceDep) -> SshKeyDocument:
    """Store a public key; machines that the caller launches afterwards accept it, in whichever of his teams."""
    return _key_document(await identity.add_ssh_key(caller.session, caller.user_id, body.name, body.key()))


@ssh_keys.delete("/{key_id}", **signed_in(person=True), responses=raises(SshKeyNotFound))
async def delete_ssh_key(key_id: str, caller: CallerDep) -> SuccessDocument:
    """Forget a public key; machines that have it already keep it."""
    await service.remove_ssh_key(caller.session, caller.user_id, key_id)
    return SuccessDocument()


def _session_document(signed: SignedIn) -> SessionDocument:
    return SessionDocument(**vars(signed))


def _key_document(row: SshKey) -> SshKeyDocument:
    return SshKeyDocument(id=row.id, name=row.name, fingerprint=row.fingerprint, created_at=row.created_at)
