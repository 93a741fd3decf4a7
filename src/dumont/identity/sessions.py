"""Login sessions: opened with a pair of tokens, refreshed with rotation, moved between teams."""

import json
import secrets
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import Settings, is_id, new_id
from dumont.db import Database
from dumont.http import seal, unseal
from dumont.identity import queries
from dumont.identity.model import InvalidCredentials, InvalidRefreshToken, RefreshTokenReused, TeamNotFound
from dumont.identity.opaque import digest, new_refresh_token, retry_key_of, retry_seal_key
from dumont.identity.tokens import TokenClaims, Tokens

_SEAL_PLACE = "refresh-retry"


@dataclass(frozen=True)
class SignedIn:
    """A session with the pair of tokens that was just issued for it."""

    user_id: str
    email: str
    team_id: str
    role: str
    access_token: str
    expires_in: int
    refresh_token: str
    refresh_expires_in: int


@dataclass(frozen=True)
class Visitor:
    """From where somebody signs in."""

    ip: str | None = None
    agent: str | None = None


@dataclass(frozen=True)
class _Pair:
    """A refresh token and the rotation that brings it into the database."""

    refresh_token: str
    rotation: queries.Rotation


class Sessions:
    """Open, refresh and move sessions."""

    def __init__(self, secret: bytes, settings: Settings) -> None:
        self.tokens = Tokens(secret)
        self._secret = secret
        self._access_seconds = settings.access_token_seconds
        self._refresh_seconds = settings.refresh_token_seconds

    async def open(self, session: AsyncSession, user_id: str, visitor: Visitor) -> SignedIn | None:
        """Open a session in the user's present team, else in the oldest of his others; None where he has none.

        Errors: InvalidCredentials for a disabled user.
        """
        pair = self._new_pair()
        turn = pair.rotation
        new = queries.NewSession(
            new_id("ses"), user_id, turn.jti, turn.now, turn.expires, turn.hash, visitor.ip, visitor.agent
        )
        opened = await queries.insert_session(session, new)
        if opened.outcome == "disabled":
            raise InvalidCredentials("This account cannot sign in any more.")
        if opened.outcome == "teamless":
            return None
        return self._signed_in(pair, new.session_id, user_id, opened)

    async def refresh(self, database: Database, token: str, idempotency_key: str | None) -> SignedIn:
        """Spend a refresh token for a new pair.

        Guarantees: one use; the same Idempotency-Key gets the same pair again within 60 seconds; any other second use
        ends the session, and that is committed before the refusal is told.
        Errors: InvalidRefreshToken, RefreshTokenReused.
        """
        spent = digest(token)
        retry_key = retry_key_of(token, idempotency_key) if idempotency_key is not None else None
        pair = self._new_pair()
        async with database.begin() as session:
            found = await queries.refresh(session, spent, pair.rotation, retry_key)
            if found.outcome == "welcome":
                signed = self._signed_in(pair, found.session_id, found.user_id, found)
                if retry_key is not None:
                    content = json.dumps(asdict(signed)).encode()
                    sealed = seal(retry_seal_key(self._secret, token), content, _SEAL_PLACE)
                    await queries.keep_refresh(session, spent, retry_key, sealed)
                return signed
        if found.outcome == "again" and found.answer is not None:
            return SignedIn(**json.loads(unseal(retry_seal_key(self._secret, token), found.answer, _SEAL_PLACE)))
        if found.outcome == "reused":
            raise RefreshTokenReused("This refresh token was used before. Its session was ended; sign in again.")
        raise InvalidRefreshToken("The refresh token is unknown or its session is over. Sign in again.")

    async def switch(
        self, session: AsyncSession, session_id: str, user_id: str, team_id: str
    ) -> tuple[SignedIn, queries.Switched]:
        """Move a session to another team of its user, with a new pair; the refresh token of before is spent.

        Errors: TeamNotFound where he is not in that team.
        """
        pair = self._new_pair()
        found = None
        if is_id(team_id, "team"):
            found = await queries.switch_team(session, session_id, team_id, pair.rotation)
        if found is None:
            raise TeamNotFound()
        return self._signed_in(pair, session_id, user_id, found), found

    def _new_pair(self) -> _Pair:
        now = real_now()
        token = new_refresh_token()
        expires = now + timedelta(seconds=self._refresh_seconds)
        return _Pair(token, queries.Rotation(secrets.token_urlsafe(16), digest(token), now, expires))

    def _signed_in(
        self, pair: _Pair, session_id: str, user_id: str, place: queries.Opened | queries.Refreshed | queries.Switched
    ) -> SignedIn:
        turn = pair.rotation
        ends = min(turn.now + timedelta(seconds=self._access_seconds), turn.expires)
        claims = TokenClaims(user_id, session_id, turn.jti, ends)
        token = self.tokens.issue(claims, email=place.email, team_id=place.team_id, role=place.role, issued_at=turn.now)
        return SignedIn(
            user_id=user_id,
            email=place.email,
            team_id=place.team_id,
            role=place.role,
            access_token=token,
            expires_in=min(self._access_seconds, self._refresh_seconds),
            refresh_token=pair.refresh_token,
            refresh_expires_in=self._refresh_seconds,
        )


def real_now() -> datetime:
    """Return real time: how long a token is good does not follow the product's clock."""
    return datetime.fromtimestamp(time.time(), tz=timezone.utc)
