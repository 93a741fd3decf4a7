"""Who is at work on a workspace's repository, by the database's clock: what a collector must wait for, or fence off."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import new_id
from dumont.db import Database, DatabaseUnavailable, set_sweep
from dumont.snapshots.model import SnapshotFailed, SnapshotNotFound

if TYPE_CHECKING:
    from dumont.vault import Named

log = structlog.get_logger()
WRITE_SECONDS = 86_400
"""How long a save may take at most; one that takes longer is fenced off and made again."""
BEAT_SECONDS = 60.0
_BEATEN_SECONDS = 900
"""How long a reader or a collector counts as alive without a sign of life."""
T = TypeVar("T")

_TAKE = text(
    "INSERT INTO workspace_lease (id, team_id, workspace_id, kind, subject, epoch, expires_at) "
    "SELECT :id, team_id, id, :kind, :subject, :epoch, clock_timestamp() + :seconds * interval '1 second' "
    "FROM workspace WHERE id = :workspace_id ON CONFLICT DO NOTHING"
)
_BEAT = text(
    "UPDATE workspace_lease SET expires_at = clock_timestamp() + :seconds * interval '1 second' WHERE id = :id"
)
_END = text("DELETE FROM workspace_lease WHERE id = :id")
_END_OF = text("DELETE FROM workspace_lease WHERE kind = 'write' AND subject = :subject")
_LOCK = text("SELECT epoch FROM workspace WHERE id = :workspace_id FOR UPDATE")
_OVERDUE = text(
    "DELETE FROM workspace_lease WHERE workspace_id = :workspace_id AND expires_at < clock_timestamp() "
    "RETURNING kind, subject"
)
_FENCE = text("UPDATE workspace SET epoch = epoch + 1 WHERE id = :workspace_id")
_OPEN = text(
    "SELECT kind || ' ' || subject FROM workspace_lease WHERE workspace_id = :workspace_id "
    "AND (kind = 'read' OR (kind = 'write' AND taken_at < :before)) ORDER BY 1"
)
_READABLE = text("SELECT status FROM snapshot WHERE workspace_id = :workspace_id AND manifest = :manifest FOR SHARE")
_NAMED = text(
    "SELECT manifest, status, epoch, begun_at FROM snapshot WHERE workspace_id = :workspace_id AND status <> 'creating'"
)


async def begin_writing(session: AsyncSession, workspace_id: str, snapshot_id: str, epoch: int) -> None:
    """Write down that a save has begun, in the transaction that begins it."""
    values = {"kind": "write", "subject": snapshot_id, "epoch": epoch, "seconds": WRITE_SECONDS}
    await session.execute(_TAKE, {"id": new_id("lse"), "workspace_id": workspace_id, **values})


async def end_writing(session: AsyncSession, snapshot_id: str) -> None:
    """Write down that a save has ended, in the transaction that ends its row."""
    await session.execute(_END_OF, {"subject": snapshot_id})


async def refuse_fenced(session: AsyncSession, workspace_id: str, epoch: int | None) -> None:
    """Refuse a save that somebody else has taken over from, and let nobody do so before this transaction ends.

    Errors: SnapshotFailed.
    """
    found = (await session.execute(_LOCK, {"workspace_id": workspace_id})).scalar_one()
    if epoch is not None and found != epoch:
        raise SnapshotFailed("The save took too long and was given up, or another one has begun since. Save again.")


class Leases:
    """Leases that live outside of a transaction, as one worker holds them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def reading(self, workspace_id: str, manifest: str) -> AsyncIterator[None]:
        """Keep what a snapshot needs while it is read.

        Errors: SnapshotNotFound when it was forgotten.
        """
        async with self._sweeping() as session:
            status = (
                await session.execute(_READABLE, {"workspace_id": workspace_id, "manifest": manifest})
            ).scalar_one_or_none()
            if status in ("deleting", "deleted"):
                raise SnapshotNotFound("The snapshot was deleted. Choose another one.")
            lease_id = await self._take(session, workspace_id, "read", manifest)
        async with self._held(lease_id or ""):
            yield

    @asynccontextmanager
    async def collecting(self, workspace_id: str) -> AsyncIterator[bool]:
        """Be the only collector of a workspace; False where another one is at work."""
        async with self._sweeping() as session:
            await session.execute(_LOCK, {"workspace_id": workspace_id})
            await _fence_overdue(session, workspace_id)
            lease_id = await self._take(session, workspace_id, "collect", "collector")
        if lease_id is None:
            yield False
            return
        async with self._held(lease_id):
            yield True

    def authority(self, workspace_id: str) -> "DatabaseAuthority":
        """Return the database as a collector in a thread asks it; call it in the event loop."""
        return DatabaseAuthority(self._database, workspace_id, asyncio.get_running_loop())

    @asynccontextmanager
    async def _held(self, lease_id: str) -> AsyncIterator[None]:
        beating = asyncio.create_task(self._beat(lease_id))
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            async with self._sweeping() as session:
                await session.execute(_END, {"id": lease_id})

    async def _beat(self, lease_id: str) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            try:
                async with self._sweeping() as session:
                    await session.execute(_BEAT, {"id": lease_id, "seconds": _BEATEN_SECONDS})
            except DatabaseUnavailable as error:
                log.warning("a lease could not be renewed and will be tried again", error=repr(error))

    async def _take(self, session: AsyncSession, workspace_id: str, kind: str, subject: str) -> str | None:
        lease_id = new_id("lse")
        values = {"kind": kind, "subject": subject, "epoch": None, "seconds": _BEATEN_SECONDS}
        taken = await session.execute(_TAKE, {"id": lease_id, "workspace_id": workspace_id, **values})
        return lease_id if taken.rowcount else None  # type: ignore[attr-defined]

    @asynccontextmanager
    async def _sweeping(self) -> AsyncIterator[AsyncSession]:
        async with self._database.begin() as session:
            await set_sweep(session)
            yield session


async def _fence_overdue(session: AsyncSession, workspace_id: str) -> None:
    """End leases that are over; what an overdue writer brings is refused from here on. The workspace is locked."""
    overdue = (await session.execute(_OVERDUE, {"workspace_id": workspace_id})).all()
    if any(kind == "write" for kind, _ in overdue):
        await session.execute(_FENCE, {"workspace_id": workspace_id})
    for kind, subject in overdue:
        log.warning("a lease was over and has been taken away", workspace=workspace_id, kind=kind, subject=subject)


@dataclass(frozen=True)
class DatabaseAuthority:
    """The database of one workspace's snapshots, asked from a collector's thread."""

    database: Database
    workspace_id: str
    loop: asyncio.AbstractEventLoop

    def now(self) -> datetime:
        """Return the database's time."""
        return self._ask(self._now())

    def open_work(self, before: datetime) -> list[str]:
        """Return who reads, and who began to write before that time; who is overdue is fenced off first."""
        return self._ask(self._open_work(before))

    def named(self) -> "Named":
        """Return which snapshots there are, and which saves have ended."""
        return self._ask(self._named())

    def _ask(self, question: "Coroutine[Any, Any, T]") -> T:
        return asyncio.run_coroutine_threadsafe(question, self.loop).result()

    async def _now(self) -> datetime:
        async with self.database.begin() as session:
            found: datetime = (await session.execute(text("SELECT clock_timestamp()"))).scalar_one()
            return found

    async def _open_work(self, before: datetime) -> list[str]:
        about = {"workspace_id": self.workspace_id}
        async with self.database.begin() as session:
            await set_sweep(session)
            await session.execute(_LOCK, about)
            await _fence_overdue(session, self.workspace_id)
            return [str(one) for one in (await session.execute(_OPEN, {**about, "before": before})).scalars()]

    async def _named(self) -> "Named":
        from dumont.vault import Named

        async with self.database.begin() as session:
            await set_sweep(session)
            rows = (await session.execute(_NAMED, {"workspace_id": self.workspace_id})).all()
        live = frozenset(manifest for manifest, status, _, _ in rows if manifest and status == "ready")
        forgotten = frozenset(manifest for manifest, _, _, _ in rows if manifest) - live
        ended = {epoch: begun_at for _, _, epoch, begun_at in rows if epoch is not None and begun_at is not None}
        return Named(live, forgotten, ended)
