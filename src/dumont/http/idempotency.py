"""Idempotency-Key: the same request asked twice has its effect once and gets the same answer (api.md 1.4).

The key's record commits with the effect, in the request's own transaction; a crash leaves both or neither. An
advisory lock, held to the end of that transaction, makes a second request with the key see the first one running.
"""

import hashlib
import hmac
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qsl

from sqlalchemy import Boolean, DateTime, LargeBinary, SmallInteger, Text, and_, delete, func, or_, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column
from starlette.requests import Request
from starlette.responses import Response

from dumont.core import derive_key
from dumont.db import Base
from dumont.http import problems
from dumont.http.body import Body
from dumont.http.caller import Caller
from dumont.http.seal import seal, unseal

SEALED_HOURS = 24
_OWN_HEADERS = frozenset({"content-length", "x-request-id", "date", "server"})

_LOCK = text("SELECT pg_try_advisory_xact_lock(:number)")
_FIND = text("SELECT fingerprint, status, headers, body, sealed, created_at FROM idempotency_key WHERE scope = :scope")
_FORGET = text("DELETE FROM idempotency_key WHERE scope = :scope")
_KEEP = text(
    "INSERT INTO idempotency_key (scope, team_id, fingerprint, status, headers, body, sealed) "
    "VALUES (:scope, :team_id, :fingerprint, :status, CAST(:headers AS jsonb), :body, :sealed)"
)
"""Every request that writes asks these: as texts they cost a third of what they cost as objects."""


class IdempotencyRecord(Base):
    """The first answer under a key; `scope` is a digest of (user, team, method, path, key)."""

    __tablename__ = "idempotency_key"

    scope: Mapped[str] = mapped_column(Text, primary_key=True)
    team_id: Mapped[str] = mapped_column(Text)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    status: Mapped[int] = mapped_column(SmallInteger)
    headers: Mapped[dict[str, str]] = mapped_column(JSONB)
    body: Mapped[bytes] = mapped_column(LargeBinary)
    sealed: Mapped[bool] = mapped_column(Boolean)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.clock_timestamp())


@dataclass
class Claim:
    """A request's claim on its key. `sealing_key` is set where the answer holds a secret."""

    scope: str
    team_id: str
    fingerprint: bytes
    sealing_key: bytes | None = field(default=None, repr=False)
    taken: bool = field(default=False)

    async def take(self, session: AsyncSession) -> Response | None:
        """Lock the key until the transaction ends; return the stored answer where there is one.

        Errors: IdempotencyInProgress while another request holds the key, IdempotencyKeyReused for another body.
        """
        self.taken = False
        number = int.from_bytes(bytes.fromhex(self.scope)[:8], "big", signed=True)
        if not (await session.execute(_LOCK, {"number": number})).scalar_one():
            raise problems.IdempotencyInProgress(retry_after=1)
        record = (await session.execute(_FIND, {"scope": self.scope})).one_or_none()
        if record is not None and record.sealed and record.created_at < _sealed_until_now():
            await session.execute(_FORGET, {"scope": self.scope})
            record = None
        if record is None:
            self.taken = True
            return None
        if not hmac.compare_digest(record.fingerprint, self.fingerprint):
            raise problems.IdempotencyKeyReused("Use a fresh Idempotency-Key for a request that says something else.")
        body = unseal(self.sealing_key, record.body, self.scope) if record.sealed and self.sealing_key else record.body
        return Response(body, record.status, {**record.headers, "Idempotency-Replayed": "true"})

    async def keep(self, session: AsyncSession, response: Response) -> None:
        """Store a 2xx answer with the effect that it reports; other answers free the key."""
        body = getattr(response, "body", None)
        if not self.taken or not 200 <= response.status_code < 300 or body is None:
            return
        headers = {name: value for name, value in response.headers.items() if name not in _OWN_HEADERS}
        values = {
            "scope": self.scope,
            "team_id": self.team_id,
            "fingerprint": self.fingerprint,
            "status": response.status_code,
            "headers": json.dumps(headers),
            "body": seal(self.sealing_key, bytes(body), self.scope) if self.sealing_key else bytes(body),
            "sealed": self.sealing_key is not None,
        }
        await session.execute(_KEEP, values)


def read_claim(request: Request, caller: Caller, body: Body, hmac_key: bytes, *, secret: bool = False) -> Claim | None:
    """Read the claim of a request, or None where it carries no Idempotency-Key.

    Errors: InvalidRequest for a key that is not 1..255 visible ASCII characters.
    """
    key = read_key(request)
    if key is None:
        return None
    scope = _digest(caller.user_id, caller.team_id, request.method, request.scope["path"], key)
    sealing_key = derive_key(hmac_key, "idempotency-seal") if secret else None
    return Claim(scope, caller.team_id, _fingerprint(request, body, hmac_key), sealing_key)


async def read_open_claim(request: Request, who: str) -> Claim | None:
    """Read the claim of a request that has no caller, `who` being the one it concerns; its answer is kept sealed.

    The route takes it in its own transaction, names the team once that is known, and keeps the answer.
    Errors: InvalidRequest for a key that is not 1..255 visible ASCII characters.
    """
    key = read_key(request)
    if key is None:
        return None
    hmac_key: bytes = request.app.state.idempotency_key
    body = Body(await request.body(), await request.json())
    scope = _digest("nobody", who, request.method, request.scope["path"], key)
    return Claim(scope, "", _fingerprint(request, body, hmac_key), derive_key(hmac_key, "idempotency-seal"))


def read_key(request: Request) -> str | None:
    """Return the Idempotency-Key of a request, None where it carries none.

    Errors: InvalidRequest for a key that is not 1..255 visible ASCII characters.
    """
    key = request.headers.get("idempotency-key")
    if key is not None and not (1 <= len(key) <= 255 and all(0x21 <= ord(char) <= 0x7E for char in key)):
        detail = "Must be 1 to 255 visible ASCII characters."
        raise problems.InvalidRequest([problems.field_error("/header/idempotency-key", detail, "invalid-key")])
    return key


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


async def forget_keys(session: AsyncSession, before: datetime) -> int:
    """Delete the keys that were stored before a time, in the team or sweep of the session; return how many.

    Guarantees: sealed answers go after 24 hours, whatever the time.
    """
    stored = IdempotencyRecord.created_at
    old = or_(stored < before, and_(IdempotencyRecord.sealed, stored < _sealed_until_now()))
    gone = await session.execute(delete(IdempotencyRecord).where(old).returning(IdempotencyRecord.scope))
    return len(gone.all())


def _sealed_until_now() -> datetime:
    return datetime.now(timezone.utc) - timedelta(hours=SEALED_HOURS)


def _fingerprint(request: Request, body: Body, hmac_key: bytes) -> bytes:
    """Digest what the request says: its query in order of names and its JSON in one canonical form."""
    query = sorted(parse_qsl(request.url.query, keep_blank_values=True))
    said: dict[str, Any] = {"query": query}
    if body.value is not None or not body.raw:
        said["json"] = body.value
    else:
        said["raw"] = hashlib.sha256(body.raw).hexdigest()
    text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hmac.new(hmac_key, text.encode(), hashlib.sha256).digest()
