"""The whole API in process: real database, real sandbox marketplace, no worker, so that operations stay queued."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg import sql
from tests.support.answers import Judge
from tests.support.api import SECRET, Api, Person
from tests.support.sandbox import SandboxProcess

from dumont.app.paying import build_desk
from dumont.app.wiring import build_api, build_providers
from dumont.core import Settings, load_settings, new_id
from dumont.db import Database, DatabaseUrls, Listener, psycopg_url
from dumont.durable import REGISTRY
from dumont.identity import Visitor, build_authenticator

_MADE: list[dict[str, Any]] = []
SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHmPxcSkFGrWzLbA8GzNfcoS8ZlT2JXyPpMRtHe7pxqk"


@dataclass(frozen=True)
class WholeApi(Api):
    """The API of all rooms; `document` is its OpenAPI, `urls` its database."""

    document: dict[str, Any]
    urls: DatabaseUrls

    def operations(self) -> Iterable["Op"]:
        """Return every operation of the OpenAPI document."""
        for path, methods in self.document["paths"].items():
            for method, described in methods.items():
                yield Op(method.upper(), path, described)

    async def member(self, team_id: str, role: str) -> Person:
        """Return somebody with a role in a team, signed in to it."""
        person = await self.person()
        await self.write(
            "INSERT INTO membership (team_id, user_id, role, created_at) VALUES (%s, %s, %s, now())",
            *(team_id, person.user_id, role),
        )
        await self.write("UPDATE user_account SET current_team_id = %s WHERE id = %s", team_id, person.user_id)
        async with self.database.begin() as session:
            return Person(vars(await self.identity.open_session(session, person.user_id, Visitor())))

    async def offer_id(self, person: Person) -> str:
        """Return the id of the cheapest offer."""
        answer = await self.http.get("/api/v1/offers", params={"limit": 1}, headers=person.headers)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["offers"][0]["id"])

    async def launch(self, person: Person, **wishes: Any) -> dict[str, Any]:
        """Launch an instance, whose operation stays queued."""
        body = {"offer_id": await self.offer_id(person), **wishes}
        answer = await self.http.post("/api/v1/instances", json=body, headers=person.headers)
        assert answer.status_code == 202, answer.text
        launched: dict[str, Any] = answer.json()
        return launched

    async def write(self, statement: str, *values: Any) -> None:
        """Change rows as the owner, who sees all teams."""
        await asyncio.to_thread(self._execute, statement, values)

    async def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Read rows as the owner."""
        return await asyncio.to_thread(self._execute, statement, values)

    def _execute(self, statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        with owner(self.urls) as connection:
            cursor = connection.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

    async def dump(self, *, without: Iterable[str] = ()) -> dict[str, list[str]]:
        """Return every row of every table as text, by table; the engine's queue included."""
        return await asyncio.to_thread(self._dump, frozenset(without))

    def _dump(self, without: frozenset[str]) -> dict[str, list[str]]:
        with owner(self.urls) as connection:
            named = connection.execute(
                "SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('public', 'dbos') ORDER BY 1, 2"
            ).fetchall()
            found = {}
            for schema, table in named:
                if table in without:
                    continue
                query = sql.SQL("SELECT t::text FROM {} t ORDER BY 1").format(sql.Identifier(schema, table))
                found[f"{schema}.{table}"] = [str(row[0]) for row in connection.execute(query)]
            return found


@dataclass(frozen=True)
class Op:
    """One operation of the OpenAPI document."""

    method: str
    path: str
    described: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def public(self) -> bool:
        return bool(self.described["x-access"]["public"])

    @property
    def permission(self) -> str | None:
        wanted: str | None = self.described["x-access"].get("permission")
        return wanted

    @property
    def path_parameters(self) -> list[str]:
        return [one["name"] for one in self.described.get("parameters", ()) if one["in"] == "path"]


def owner(urls: DatabaseUrls) -> "psycopg.Connection[tuple[Any, ...]]":
    """Connect as the owner, who sees the rows of all teams."""
    connection = psycopg.connect(psycopg_url(urls.owner), autocommit=True)
    connection.execute("SET dumont.sweep = 'on'")
    return connection


@asynccontextmanager
async def whole_api(urls: DatabaseUrls, sandbox: SandboxProcess, home: Path) -> AsyncIterator[WholeApi]:
    """Build the API as `app` does, as the application's role, without limits of speed and without a worker."""
    settings = unlimited(home)
    _list_workflows(urls)
    providers = build_providers(settings, (sandbox.url, sandbox.key))
    database = Database(urls.app, pool_size=6, application_name="test-whole-api")
    identity = build_authenticator(SECRET, settings)
    listener = Listener(urls.app)
    await listener.start()
    desk, payments = build_desk(settings, (sandbox.url, sandbox.key))
    assert payments is not None
    app = build_api(
        settings,
        SECRET,
        database=database,
        listener=listener,
        authenticator=identity,
        providers=providers,
        desk=desk,
    )
    try:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client:
            document = await _read_document(client, app)
            judge = Judge(document)
            client.event_hooks["response"].append(judge.hear)
            yield WholeApi(client, database, identity, app, document, urls)
            assert judge.wrong == [], "answers that the OpenAPI document does not describe"
    finally:
        identity.close()
        await listener.close()
        await database.close()
        await payments.close()
        for provider in providers.values():
            await provider.close()


async def _read_document(client: httpx.AsyncClient, app: Any) -> dict[str, Any]:
    """Read the OpenAPI document; made once per process, because that costs a second."""
    if _MADE:
        app.state.openapi._document = _MADE[0]
    else:
        _MADE.append((await client.get("/openapi.json")).json())
    return _MADE[0]


def unlimited(home: Path) -> Settings:
    """Return settings under which tests may ask as often as they like."""
    settings = load_settings({"DUMONT_HOME": str(home)})
    limits = {name: 0 for name in vars(settings) if name.startswith("limit_")}
    return replace(settings, **limits)


def _list_workflows(urls: DatabaseUrls) -> None:
    with owner(urls) as connection:
        for name in REGISTRY.definitions:
            connection.execute("INSERT INTO durable_workflow (name) VALUES (%s) ON CONFLICT DO NOTHING", [name])


@dataclass(frozen=True)
class Furnished:
    """A team that owns something of every kind; `word` is in every name that it gave."""

    person: Person
    word: str
    offer_id: str
    instance_id: str
    account_id: str


async def furnish(api: WholeApi) -> Furnished:
    """Make a team with instances, an operation, a snapshot and a key, all of whose names hold one secret word."""
    word = f"walnut{secrets.token_hex(5)}"
    person = await api.person(f"{word}@example.com")
    launched = await api.launch(person, label=f"{word} one", env={"SECRET": word}, onstart_cmd=f"echo {word}")
    await api.launch(person, label=f"{word} two")
    kept = await api.http.post(
        "/api/v1/ssh-keys", json={"name": f"{word} key", "public_key": SSH_KEY}, headers=person.headers
    )
    assert kept.status_code == 201, kept.text
    await _add_snapshot(api, person, launched)
    await _add_point(api, person, launched, word)
    account_id = await _keep_books(api, person, word)
    await _add_hold(api, person, word)
    return Furnished(person, word, await api.offer_id(person), str(launched["id"]), account_id)


async def _keep_books(api: WholeApi, person: Person, word: str) -> str:
    """Give a team accounts, categories, a transaction, a transfer and a hold; return its first account."""
    ids = []
    for path, body in (
        ("accounts", {"name": f"{word} everyday", "type": "checking", "opening_balance": "100.00"}),
        ("accounts", {"name": f"{word} reserve", "type": "savings"}),
        ("categories", {"name": f"{word} food", "type": "expense"}),
    ):
        ids.append(str((await _post(api, person, path, body))["id"]))
    spent = {"account_id": ids[0], "amount": "9.99", "description": f"{word} bread", "date": "2026-01-31"}
    await _post(api, person, "transactions", {**spent, "type": "expense", "category_id": ids[2], "tags": [word]})
    await _post(api, person, "wallet/topups", {"amount": "10.00"})
    moved = {"from_account_id": ids[0], "to_account_id": ids[1], "amount": "1.00", "description": f"{word} saved"}
    await _post(api, person, "transfers", moved)
    await api.write(
        "INSERT INTO notification (id, team_id, user_id, type, subject, period, title, metadata, created_at) "
        "VALUES (%s, %s, %s, 'spending_spike', 'x', '2026-01-01', %s, '{}', now())",
        *(new_id("ntf"), person.team_id, person.user_id, f"{word} spike"),
    )
    await _post(api, person, "holds", {"account_id": ids[0], "amount": "2.00", "reason": f"{word} hotel"})
    return ids[0]


async def _post(api: WholeApi, person: Person, path: str, body: dict[str, Any]) -> dict[str, Any]:
    headers = {**person.headers, "Idempotency-Key": secrets.token_hex(8)}
    answer = await api.http.post(f"/api/v1/{path}", json=body, headers=headers)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def _add_snapshot(api: WholeApi, person: Person, launched: dict[str, Any]) -> None:
    now = datetime.now(timezone.utc)
    await api.write(
        "INSERT INTO snapshot (id, team_id, workspace_id, instance_id, operation_id, kind, status, manifest, files, "
        "bytes_total, bytes_new, bytes_stored, seconds, created_at, completed_at, verified_at) "
        "VALUES (%s, %s, %s, %s, %s, 'manual', 'ready', 'm', 3, 300, 300, 100, 0.5, %s, %s, %s)",
        *(new_id("snp"), person.team_id, launched["workspace_id"], launched["id"], launched["operation_id"]),
        *(now, now, now),
    )


async def _add_point(api: WholeApi, person: Person, launched: dict[str, Any], word: str) -> None:
    """Give an instance a history of one point, in which a file's name holds the word."""
    now = datetime.now(timezone.utc)
    await api.write(
        "INSERT INTO sync_run (id, team_id, workspace_id, instance_id, kind, status, snapshot_id, paths, exclude, "
        "unreadable, started_at, finished_at) "
        "VALUES (%s, %s, %s, %s, 'sync', 'ready', %s, '[\".\"]', '[]', jsonb_build_array(%s::text), %s, %s)",
        *(new_id("syn"), person.team_id, launched["workspace_id"], launched["id"]),
        *(secrets.token_hex(32), f"{word} file", now, now),
    )


async def _add_hold(api: WholeApi, person: Person, word: str) -> None:
    wallet = (await api.http.get("/api/v1/wallet", headers=person.headers)).json()["account_id"]
    await api.write("SELECT ledger_change_account(%s, %s, NULL, NULL, -5000000, false)", person.team_id, wallet)
    await api.write(
        "SELECT * FROM ledger_hold(%s, gen_random_uuid(), '\\x00', %s, 1000000, %s, NULL, NULL)",
        *(person.team_id, wallet, f"{word} hold"),
    )
