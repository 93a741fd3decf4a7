"""Make a snapshot of a plain tree: a row, a save by an agent on this machine, a verification, and the row again."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.agent import AgentLink, Progress
from dumont.core import Problem
from dumont.db import Database, set_sweep
from dumont.durable import live_of_instance
from dumont.http import problems
from dumont.snapshots.keeping_queries import named_ready
from dumont.snapshots.model import Snapshot, SnapshotFailed, SnapshotNotFound
from dumont.snapshots.service import Vaults, begin_snapshot, complete_snapshot, fail_snapshot, save, verify
from dumont.vault import Gate

_INSTANCE = text(
    "SELECT id, team_id, workspace_id FROM instance WHERE (id = :name OR id LIKE '%' || :name OR label = :name) "
    "AND status <> 'destroyed'"
)


async def find_ready(session: AsyncSession, name: str) -> Snapshot:
    """Find a verified snapshot of any team by its id or the end of it.

    Errors: SnapshotNotFound where none or several fit.
    """
    await set_sweep(session)
    found = await named_ready(session, name) if len(name) >= 6 else []
    if len(found) != 1:
        raise SnapshotNotFound(f"{len(found) or 'No'} snapshots have an id that ends so. Name one by its whole id.")
    return found[0]


async def begin_import(database: Database, instance_id: str, now: datetime) -> dict[str, Any]:
    """Write the row of a snapshot that is about to be imported.

    Errors: InvalidRequest where not exactly one instance fits; WrongState while an operation runs on it.
    """
    async with database.begin() as session:
        await set_sweep(session)
        rows = (await session.execute(_INSTANCE, {"name": instance_id})).all()
        if len(rows) != 1:
            detail = f"{len(rows) or 'No'} instances are called so. Name one by its whole id."
            raise problems.InvalidRequest([problems.field_error("/instance", detail, "unknown-instance")])
        instance_id, team_id, workspace_id = rows[0]
        if (running := await live_of_instance(session, instance_id)) is not None:
            raise problems.WrongState("busy", ["idle"], f"Operation {running.id} works on the instance. Wait for it.")
        begun = await begin_snapshot(
            session,
            team_id=team_id,
            workspace_id=workspace_id,
            instance_id=instance_id,
            operation_id="",
            kind="import",
            now=now,
        )
    return {**begun, "workspace_id": workspace_id, "now": now}


async def end_import(
    database: Database,
    vaults: Vaults,
    begun: dict[str, Any],
    link: AgentLink,
    gate: Gate,
    gate_url: str,
    on_progress: Callable[[Progress], None],
) -> dict[str, Any]:
    """Save the agent's folder, read it back, and make the row ready; return what was saved."""
    where = {"workspace_id": begun["workspace_id"], "parent": begun["parent"], "epoch": begun["epoch"]}
    saved = await save(vaults, link, gate, gate_url, host="import", on_progress=on_progress, **where)
    if saved.read_errors or saved.unstable:
        first = next((path for path, _ in saved.read_errors), None) or saved.unstable[0]
        number = len(saved.read_errors) + len(saved.unstable)
        raise SnapshotFailed(f"{number} files could not be read, or changed meanwhile, {first} for one.")
    proof = await verify(vaults, begun["workspace_id"], saved.name)
    document = {**asdict(saved), "read_errors": []}
    async with database.begin() as session:
        await set_sweep(session)
        await complete_snapshot(session, begun["snapshot_id"], document, proof._asdict(), begun["now"])
    counts = {"files": saved.files, "bytes": saved.bytes_total, "bytes_stored": saved.bytes_stored}
    return {"snapshot_id": begun["snapshot_id"], **counts}


async def fail_import(database: Database, begun: dict[str, Any], error: BaseException) -> None:
    """Write that nothing came of it."""
    problem = error if isinstance(error, Problem) else SnapshotFailed(f"The import ended early: {error}")
    async with database.begin() as session:
        await set_sweep(session)
        await fail_snapshot(session, begun["snapshot_id"], problem)
