"""Tokens for programs: made by a person for one team, never more than his own rights, revoked at once."""

from datetime import timedelta

from sqlalchemy import select

from dumont.core import is_id, new_id
from dumont.http import Caller, Page, problems
from dumont.identity import queries
from dumont.identity.model import ApiToken, TokenNotFound
from dumont.identity.opaque import SHOWN_LENGTH, digest, new_api_token
from dumont.identity.sessions import real_now

SEE_ALL = "tokens.manage"


async def create_token(
    caller: Caller, name: str, scopes: list[str] | None, expires_in_days: int | None
) -> tuple[ApiToken, str]:
    """Make a token for the caller in his present team; return its row and its text, which is kept nowhere.

    `scopes` None means all that he may do now. What a token may do later is what both it and his role hold.
    Errors: Forbidden for a scope that he does not hold himself.
    """
    wanted = sorted(caller.permissions if scopes is None else set(scopes))
    for scope in wanted:
        if scope not in caller.permissions:
            raise problems.Forbidden(scope)
    now, text = real_now(), new_api_token()
    row = ApiToken(
        id=new_id("tok"),
        team_id=caller.team_id,
        user_id=caller.user_id,
        name=name,
        prefix=text[:SHOWN_LENGTH],
        hash=digest(text),
        scopes=wanted,
        created_at=now,
        expires_at=None if expires_in_days is None else now + timedelta(days=expires_in_days),
    )
    caller.session.add(row)
    await caller.session.flush()
    return row, text


async def list_tokens(caller: Caller, page: Page) -> list[ApiToken]:
    """Read the caller's tokens in his present team, or everybody's for who may manage them; none that is revoked."""
    statement = select(ApiToken).where(ApiToken.revoked_at.is_(None))
    if SEE_ALL not in caller.permissions:
        statement = statement.where(ApiToken.user_id == caller.user_id)
    statement = page.select(statement, {"created_at": ApiToken.created_at, "name": ApiToken.name, "id": ApiToken.id})
    return list((await caller.session.scalars(statement)).all())


async def revoke_token(caller: Caller, token_id: str) -> None:
    """End a token: the next request with it is refused.

    A person may end his own, whoever holds `tokens.manage` those of the team, and a token itself.
    Errors: TokenNotFound.
    """
    row = await queries.find_token(caller.session, token_id) if is_id(token_id, "tok") else None
    if row is None or not _may_revoke(caller, row):
        raise TokenNotFound()
    row.revoked_at = real_now()
    await caller.session.flush()


def _may_revoke(caller: Caller, row: ApiToken) -> bool:
    own = row.user_id == caller.user_id and caller.session_id is not None
    return own or row.id == caller.api_token_id or SEE_ALL in caller.permissions
