"""Routes of the user's profile, his teams, their members, and API tokens."""

import re
from datetime import datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from fastapi import Depends, Request
from pydantic import AfterValidator, BaseModel, Field, StringConstraints

from dumont.db import set_team
from dumont.http import CallerDep, Line, Page, Router, list_document, page_params, permit, problems, raises, signed_in
from dumont.identity import api_tokens, queries, teams
from dumont.identity.addresses import EmailText
from dumont.identity.api import DoneDocument, NameText, ServiceDep, SessionDocument, SuccessDocument
from dumont.identity.guard import searching
from dumont.identity.model import (
    PERMISSIONS,
    ROLE_PERMISSIONS,
    ApiToken,
    LastAdmin,
    Member,
    MemberNotFound,
    NameTaken,
    OwnTeam,
    Role,
    TeamNotFound,
    TokenNotFound,
    UserNotFound,
)

users = Router(prefix="/api/v1/users/me", tags=["users"])
team_routes = Router(prefix="/api/v1/teams", tags=["teams"])
token_routes = Router(prefix="/api/v1/tokens", tags=["tokens"])
_LOCALE = re.compile(r"[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|[0-9]{3}))?")


def _timezone(text: str) -> str:
    try:
        ZoneInfo(text)
    except (ValueError, OSError, KeyError) as error:
        raise ValueError("Must be a time zone such as America/Sao_Paulo.") from error
    return text


def _locale(text: str) -> str:
    if not _LOCALE.fullmatch(text):
        raise ValueError("Must be a language such as en or pt-BR.")
    return text


def _scope(text: str) -> str:
    if text not in PERMISSIONS:
        raise ValueError("Must be the name of a permission.")
    return text


class ProfileBody(BaseModel):
    """Changes to a profile; what is absent stays, and a name of null is taken away."""

    name: NameText | None = None
    locale: Annotated[str, StringConstraints(max_length=20), AfterValidator(_locale)] | None = None
    timezone: Annotated[Line, StringConstraints(max_length=64), AfterValidator(_timezone)] | None = None
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] | None = None

    def changes(self) -> dict[str, Any]:
        """Return what the caller asked to change."""
        sent = {name: getattr(self, name) for name in self.model_fields_set}
        return {name: value for name, value in sent.items() if value is not None or name == "name"}


class SwitchBody(BaseModel):
    """The team to work in."""

    team_id: str = Field(max_length=64)


class TeamBody(BaseModel):
    """A team's name."""

    name: NameText


class MemberBody(BaseModel):
    """Somebody with an account, and what he shall be."""

    email: EmailText
    role: Role = "developer"


class RoleBody(BaseModel):
    """What a member shall be."""

    role: Role


class TokenBody(BaseModel):
    """A token for programs."""

    name: NameText
    scopes: list[Annotated[str, StringConstraints(max_length=64), AfterValidator(_scope)]] | None = Field(
        default=None, max_length=len(PERMISSIONS)
    )
    expires_in_days: int | None = Field(default=None, ge=1, le=3650)


class ProfileDocument(BaseModel):
    """The caller, and where he works."""

    id: str
    email: str
    name: str | None
    locale: str
    timezone: str
    currency: str
    current_team_id: str
    current_team_name: str
    current_role: str


class UserTeamDocument(BaseModel):
    """A team that the caller may switch to."""

    id: str
    name: str
    role: str
    is_current: bool


class UserTeamsDocument(BaseModel):
    """The teams that the caller may switch to."""

    teams: list[UserTeamDocument]
    count: int


class SwitchDocument(SessionDocument):
    """The session in its new team."""

    team_name: str
    permissions: list[str]


class TeamShown(BaseModel):
    """A team; `role` is the caller's."""

    id: str
    name: str
    role: str
    member_count: int
    created_at: datetime


class TeamsDocument(BaseModel):
    """The caller's teams."""

    teams: list[TeamShown]
    count: int


class MemberDocument(BaseModel):
    """Somebody in a team."""

    user_id: str
    email: str
    name: str | None
    role: str
    joined_at: datetime


class MembersDocument(BaseModel):
    """Everybody in a team."""

    members: list[MemberDocument]
    count: int


class TokenDocument(BaseModel):
    """An API token without its text, of which only the beginning is kept."""

    id: str
    name: str
    prefix: str
    scopes: list[str]
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    user_id: str


class NewTokenDocument(TokenDocument):
    """An API token with its text, shown this once."""

    token: str


class TokensDocument(BaseModel):
    """A page of tokens."""

    tokens: list[TokenDocument]
    count: int
    total: int | None
    next_cursor: str | None


@users.get("", **signed_in())
async def show_profile(caller: CallerDep) -> ProfileDocument:
    """Show the caller's profile and his present team."""
    profile = await queries.read_profile(caller.session)
    return ProfileDocument(
        **vars(profile),
        current_team_id=caller.team_id,
        current_team_name=caller.team_name,
        current_role=caller.role,
    )


@users.patch("", **signed_in(person=True))
async def change_profile(body: ProfileBody, caller: CallerDep) -> ProfileDocument:
    """Change the caller's name, language, time zone or currency."""
    await queries.change_profile(caller.session, body.changes())
    return await show_profile(caller)


@users.get("/teams", **signed_in())
async def list_own_teams(caller: CallerDep) -> UserTeamsDocument:
    """List the teams that the caller may switch to."""
    found = await queries.teams_of_caller(caller.session)
    shown = [
        UserTeamDocument(id=team.id, name=team.name, role=team.role, is_current=team.id == caller.team_id)
        for team in found
    ]
    return UserTeamsDocument(teams=shown, count=len(shown))


@users.post("/switch-team", **signed_in(person=True, secret=True), responses=raises(TeamNotFound))
async def switch_team(body: SwitchBody, caller: CallerDep, identity: ServiceDep) -> SwitchDocument:
    """Move this session to another team of the caller, with a new pair of tokens; its refresh token is spent."""
    session_id = caller.session_id or ""
    signed, place = await identity.sessions.switch(caller.session, session_id, caller.user_id, body.team_id)
    permissions = sorted(ROLE_PERMISSIONS[place.role])
    return SwitchDocument(**vars(signed), team_name=place.team_name, permissions=permissions)


@team_routes.get("", **signed_in())
async def list_teams(caller: CallerDep) -> TeamsDocument:
    """List the caller's teams, oldest first."""
    found = await queries.teams_of_caller(caller.session)
    return TeamsDocument(teams=[_team(team) for team in found], count=len(found))


@team_routes.post("", status_code=201, **signed_in(person=True), responses=raises(NameTaken))
async def create_team(body: TeamBody, caller: CallerDep, identity: ServiceDep) -> TeamShown:
    """Make a team of which the caller is the admin; his session stays in the team that it is in."""
    await teams.check_free(caller.session, body.name)
    team_id = await identity.create_team(caller.session, caller.user_id, body.name)
    await set_team(caller.session, caller.team_id)
    return _team(await teams.own_team(caller.session, team_id))


@team_routes.get("/{team_id}", **signed_in(path_team=True))
async def show_team(team_id: str, caller: CallerDep) -> TeamShown:
    """Show one of the caller's teams."""
    return _team(await teams.own_team(caller.session, team_id))


@team_routes.put("/{team_id}", **permit("team.manage", path_team=True), responses=raises(NameTaken))
async def rename_team(team_id: str, body: TeamBody, caller: CallerDep) -> TeamShown:
    """Give a team another name."""
    return _team(await teams.rename_team(caller.session, team_id, body.name))


@team_routes.delete(
    "/{team_id}", **permit("team.manage", path_team=True, person=True), responses=raises(problems.WrongState)
)
async def delete_team(team_id: str, caller: CallerDep, identity: ServiceDep) -> DoneDocument:
    """Close a team that nothing runs in any more; the sessions and tokens of its members there end at once."""
    await identity.close_team(caller.session, team_id)
    return DoneDocument(message="The team was deleted. Whoever works in it signs in again.")


@team_routes.get("/{team_id}/members", **signed_in(path_team=True))
async def list_members(team_id: str, caller: CallerDep) -> MembersDocument:
    """List everybody in a team."""
    found = await queries.members(caller.session)
    return MembersDocument(members=[_member(member) for member in found], count=len(found))


@team_routes.post(
    "/{team_id}/members",
    status_code=201,
    **permit("team.invite", path_team=True),
    responses=raises(UserNotFound, problems.LoginRateLimited),
)
async def add_member(
    team_id: str, body: MemberBody, request: Request, caller: CallerDep, identity: ServiceDep
) -> MemberDocument:
    """Put somebody who has an account into a team, with a role whose permissions the caller holds all himself.

    An address without an account is answered with 404 and counts as a failed sign-in of the caller's address.
    """
    teams.check_grant(caller.permissions, body.role)
    async with searching(request):
        found = await teams.add_member(caller.session, team_id, body.email, body.role, identity.clock)
    return _member(found)


@team_routes.put(
    "/{team_id}/members/{user_id}/role",
    **permit("team.manage", path_team=True),
    responses=raises(MemberNotFound, LastAdmin),
)
async def change_role(team_id: str, user_id: str, body: RoleBody, caller: CallerDep) -> MemberDocument:
    """Give a member another role whose permissions the caller holds all himself; a team keeps at least one admin."""
    teams.check_grant(caller.permissions, body.role)
    return _member(await teams.change_role(caller.session, team_id, user_id, body.role))


@team_routes.delete(
    "/{team_id}/members/{user_id}", **permit("team.remove", path_team=True), responses=raises(MemberNotFound, LastAdmin)
)
async def remove_member(team_id: str, user_id: str, caller: CallerDep) -> SuccessDocument:
    """Take a member out of a team; his sessions and tokens there end at once."""
    await teams.remove_member(caller.session, team_id, user_id)
    return SuccessDocument()


@team_routes.post(
    "/{team_id}/leave", **signed_in(path_team=True, person=True), responses=raises(MemberNotFound, LastAdmin)
)
async def leave_team(team_id: str, caller: CallerDep) -> SuccessDocument:
    """Leave a team; the caller's sessions and tokens there end at once."""
    await teams.remove_member(caller.session, team_id, caller.user_id)
    return SuccessDocument()


@token_routes.get("", response_model=TokensDocument, **signed_in())
async def list_tokens(
    caller: CallerDep, page: Annotated[Page, Depends(page_params("created_at", "name"))]
) -> dict[str, Any]:
    """List the caller's tokens in his present team, or everybody's for who may manage them."""
    return list_document("tokens", await api_tokens.list_tokens(caller, page), page, _token)


@token_routes.post("", status_code=201, **signed_in(person=True, secret=True), responses=raises(problems.Forbidden))
async def create_token(body: TokenBody, caller: CallerDep) -> NewTokenDocument:
    """Make a token for programs, with all of the caller's permissions or some of them; its text is shown this once."""
    row, text = await api_tokens.create_token(caller, body.name, body.scopes, body.expires_in_days)
    return NewTokenDocument(**_token(row).model_dump(), token=text)


@token_routes.delete("/{token_id}", **signed_in(), responses=raises(TokenNotFound))
async def revoke_token(token_id: str, caller: CallerDep) -> SuccessDocument:
    """End a token; the next request with it is refused."""
    await api_tokens.revoke_token(caller, token_id)
    return SuccessDocument()


def _team(team: OwnTeam) -> TeamShown:
    return TeamShown(**vars(team))


def _member(member: Member) -> MemberDocument:
    return MemberDocument(**vars(member))


def _token(row: ApiToken) -> TokenDocument:
    return TokenDocument(**{name: getattr(row, name) for name in TokenDocument.model_fields})
