"""A database for each module, a team with a workspace of its own for each test, and real repositories in a folder."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.support.postgres import clone_database, drop_database
from tests.vault.making import draft, file_entry, store_pack

from dumont.core import new_id
from dumont.db import Database, DatabaseUrls, psycopg_url, set_team
from dumont.snapshots import Leases, Vaults, begin_snapshot, complete_snapshot, create_workspace, fail_snapshot
from dumont.snapshots.model import SnapshotFailed
from dumont.vault import KeyRing, Repository

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


@dataclass
class Shelf:
    """What the verbs and workflows of snapshots need of a worker's world, and one team with a workspace."""

    database: Database
    vaults: Vaults
    urls: DatabaseUrls
    team_id: str
    workspace_id: str = ""
    instance_id: str = ""

    def session(self, team_id: str | None = None) -> Any:
        """Open one transaction that sees the team's rows."""
        return _session(self.database, team_id or self.team_id)

    @property
    def repository(self) -> Repository:
        return self.vaults.repository(self.workspace_id)

    async def begin(self, at: datetime = NOON) -> dict[str, Any]:
        """Begin a save, as the workflows do."""
        async with self.session() as session:
            return await begin_snapshot(
                session,
                team_id=self.team_id,
                workspace_id=self.workspace_id,
                instance_id=self.instance_id,
                operation_id=new_id("op"),
                kind="manual",
                now=at,
            )

    async def save(self, files: dict[bytes, bytes], at: datetime = NOON) -> str:
        """Save files as a verified snapshot and return its id."""
        begun = await self.begin(at)
        name = await asyncio.to_thread(self.store, files, begun["epoch"])
        await self.complete(begun, name, at)
        return str(begun["snapshot_id"])

    def store(self, files: dict[bytes, bytes], epoch: int) -> str:
        """Put files and a manifest into the repository."""
        repository = self.repository
        known, new = repository.reusable_chunks(), {}
        ids = {path: repository.sealer.chunk_id(raw) for path, raw in files.items()}
        for path, raw in files.items():
            if ids[path] not in known:
                new[ids[path]] = raw
        if new:
            store_pack(repository, new_id("pak").encode()[-16:], list(new.values()))
        entries = [file_entry(path, len(raw), [ids[path]]) for path, raw in sorted(files.items())]
        return repository.commit(draft(entries, epoch=epoch)).name

    async def complete(self, begun: dict[str, Any], name: str, at: datetime = NOON) -> None:
        """Verify a save and make its row ready."""
        proof = await asyncio.to_thread(self.repository.verify, name)
        saved = {"name": name, "merkle_root": proof.merkle_root, "files": proof.files, "bytes_total": 1, "bytes_new": 1}
        saved |= {"bytes_stored": 1, "seconds": 0.1, "unstable": [], "read_errors": []}
        async with self.session() as session:
            await complete_snapshot(session, begun["snapshot_id"], saved, proof._asdict(), at)

    async def fail(self, begun: dict[str, Any]) -> None:
        async with self.session() as session:
            await fail_snapshot(session, begun["snapshot_id"], SnapshotFailed("Tried and failed."))

    async def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Read or change rows as the owner, who sees all teams."""

        def work() -> list[tuple[Any, ...]]:
            with psycopg.connect(psycopg_url(self.urls.owner)) as connection:
                connection.execute("SET dumont.sweep = 'on'")
                cursor = connection.execute(statement.encode(), values)
                return cursor.fetchall() if cursor.description else []

        return await asyncio.to_thread(work)

    async def manifest(self, snapshot_id: str) -> str:
        return str((await self.rows("SELECT manifest FROM snapshot WHERE id = %s", snapshot_id))[0][0])

    def pack_bytes(self) -> int:
        return sum(size for _, size in self.repository.store.list("data/"))


def _session(database: Database, team_id: str) -> Any:
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        async with database.begin() as session:
            await set_team(session, team_id)
            yield session

    return opened()


@pytest.fixture(scope="module")
def urls() -> Iterator[DatabaseUrls]:
    found = clone_database()
    yield found
    drop_database(found)


@pytest.fixture
async def shelf(urls: DatabaseUrls, tmp_path: Path) -> AsyncIterator[Shelf]:
    database = Database(urls.worker, pool_size=6, application_name="test-snapshots")
    vaults = Vaults(tmp_path, KeyRing(b"k" * 32), b"g" * 32, leases=Leases(database))
    made = Shelf(database, vaults, urls, new_id("tm"))
    await made.rows("INSERT INTO team (id, name, created_at) VALUES (%s, 'x', now())", made.team_id)
    async with made.session() as session:
        made.workspace_id = (await create_workspace(session, made.team_id, NOON)).id
    made.instance_id = new_id("ins")
    yield made
    await database.close()


def days_ago(number: float) -> datetime:
    return NOON - timedelta(days=number)
