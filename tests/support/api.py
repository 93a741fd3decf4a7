"""An API over a real database, and people who use it: for tests of every room that has routes."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from dumont.core import Settings, new_id
from dumont.db import Database, DatabaseUrls
from dumont.http import Limits, Router, create_app
from dumont.identity import IdentityService, Visitor, build_authenticator, queries
from dumont.identity import routers as identity_routers

SECRET = b"a secret for tests only, 32 bytes"
PASSWORD = "correct horse battery"


@dataclass(frozen=True)
class Person:
    """Somebody with an account: his session document and the headers that he sends."""

    session: dict[str, Any]

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.session['access_token']}"}

    @property
    def team_id(self) -> str:
        return str(self.session["team_id"])

    @property
    def user_id(self) -> str:
        return str(self.session["user_id"])


@dataclass(frozen=True)
class Api:
    """A running API: `http` speaks to it in process, `database` is its own pool."""

    http: httpx.AsyncClient
    database: Database
    identity: IdentityService
    app: Any

    async def person(self, email: str | None = None) -> Person:
        """Return somebody with an account, made as registration makes it but with one password hash for all."""
        email = email or f"{uuid.uuid4().hex[:12]}@example.com"
        account = queries.NewAccount(
            user_id=new_id("usr"),
            email=email,
            username=None,
            name=None,
            password_hash=_shared_hash(),
            team_id=new_id("team"),
            team_name=email,
            is_operator=False,
            now=datetime.now(timezone.utc),
        )
        async with self.database.begin() as session:
            await queries.insert_account(session, account)
            return Person(vars(await self.identity.open_session(session, account.user_id, Visitor())))

    async def register(self, email: str | None = None, **more: Any) -> Person:
        """Make an account and return the person who is signed in to it."""
        body = {"email": email or f"{uuid.uuid4().hex[:12]}@example.com", "password": PASSWORD, **more}
        answer = await self.http.post("/api/v1/auth/register", json=body)
        assert answer.status_code == 201, answer.text
        return Person(answer.json())


@cache
def _shared_hash() -> str:
    """Hash the password of all persons with little work, which is what each check of it then takes."""
    return PasswordHash((Argon2Hasher(time_cost=1, memory_cost=1024, parallelism=1),)).hash(PASSWORD)


@asynccontextmanager
async def running_api(urls: DatabaseUrls, *routers: Router, settings: Settings | None = None) -> AsyncIterator[Api]:
    """Build the API as the application's role, with the routes of identity and those given."""
    database = Database(urls.app, pool_size=5, application_name="test-api")
    chosen = settings or Settings(home=Path("/nonexistent"))
    identity, limits = build_authenticator(SECRET, chosen), Limits(chosen)
    every = [*identity_routers, *routers]
    app = create_app(database=database, authenticator=identity, secret=SECRET, limits=limits, routers=every)
    try:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client:
            yield Api(client, database, identity, app)
    finally:
        identity.close()
        await limits.close()
        await database.close()
