"""What snapshots do by themselves: forget by policy, collect, and read back; and the operations people begin."""

import asyncio
import time
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import Problem, new_id
from dumont.db import publish, set_sweep, set_team
from dumont.durable import Run, schedule, workflow
from dumont.snapshots import keeping, keeping_queries
from dumont.snapshots.keeping_queries import Due
from dumont.snapshots.model import (
    Check,
    CollectionRun,
    SnapshotNotFound,
    StorageUnreachable,
    VerificationProblem,
)
from dumont.snapshots.queries import get
from dumont.snapshots.service import Vaults, explain_vault
from dumont.vault import Repository, VaultError, Verification, VerificationFailed

log = structlog.get_logger()
AT_ONCE = 20
"""How many snapshots one turn of the schedule reads back at most."""
MOST_FILES = 1000
"""How many touched files of a snapshot a check names."""
DAMAGED = "snapshot.damaged"
"""The news that files of a snapshot cannot be had as they were saved."""
_FULL = 1 << 62


async def nothing_to_undo(session: AsyncSession, run: Run, problem: Problem) -> None:
    """Leave everything as it is: what was deleted was dead, what was read was only read."""


@schedule("snapshots.retain", cron="37 * * * *")
async def retain(world: Any, at: datetime) -> None:
    """Forget what the policies do not keep, a transaction for each team. Runs again harmlessly."""
    async with world.database.begin() as session:
        await set_sweep(session)
        teams = await keeping_queries.teams_that_forget(session)
    for team_id in teams:
        async with world.session(team_id) as session:
            gone = await keeping.prune(session, team_id, instance_id=None, rule=None, dry_run=False)
        if gone:
            log.info("snapshots are forgotten by policy", team=team_id, snapshots=len(gone))


@schedule("snapshots.collect", cron="13 2 * * *")
async def collect_by_night(world: Any, at: datetime) -> None:
    """Free what no snapshot needs, workspace by workspace; an error in one holds up no other. Runs again harmlessly."""
    async with world.database.begin() as session:
        await set_sweep(session)
        workspaces = await keeping_queries.to_collect(session, everything=False)
    for workspace_id, team_id in workspaces:
        try:
            await collect_workspace(world, workspace_id, team_id, dry_run=False)
        except Problem as problem:
            log.error("a repository could not be collected", workspace=workspace_id, problem=problem.detail)


@schedule("snapshots.verify", cron="*/10 * * * *")
async def verify_by_schedule(world: Any, at: datetime) -> None:
    """Read back the snapshots whose time it is. Runs again harmlessly."""
    async with world.database.begin() as session:
        await set_sweep(session)
        due = await keeping_queries.due_checks(
            session, quick=keeping.Terms.quick_hours, sample=keeping.Terms.sample_hours, most=AT_ONCE
        )
    for one in due:
        try:
            await check(world, one)
        except SnapshotNotFound:
            continue  # it was deleted meanwhile


@workflow("snapshots.verify", kind="verify", steps=("read back",), on_failure=nothing_to_undo)
async def verify_operation(run: Run, world: Any) -> dict[str, Any]:
    """Read one snapshot back, as deeply as was asked for."""
    found = await run.record("find", partial(_find, run))
    done: dict[str, Any] = await run.call("read back", lambda: check(world, Due(**found)))
    return done


@workflow("snapshots.collect", kind="collect", steps=("collect",), on_failure=nothing_to_undo)
async def collect_operation(run: Run, world: Any) -> dict[str, Any]:
    """Free what no snapshot of a team, or of one instance, needs; or say what would be freed."""
    done: dict[str, Any] = await run.call("collect", partial(_collect_all, run, world))
    return done


async def check(world: Any, due: Due) -> dict[str, Any]:
    """Read a snapshot back and write down what was found; damage becomes news.

    Errors: SnapshotNotFound when it was forgotten meanwhile.
    """
    started = time.monotonic()
    vaults: Vaults = world.vaults
    proof: Verification | None = None
    damage: VerificationFailed | None = None
    touched: dict[str, list[bytes]] = {}
    detail: str | None = None
    async with vaults.reading(due.workspace_id, due.manifest):
        try:
            repository = await asyncio.to_thread(vaults.repository, due.workspace_id)
            proof = await asyncio.to_thread(_read_back, repository, due)
        except VerificationFailed as error:
            damage, detail = error, str(error)
            touched = await _touched(world, repository, due, error)
        except VaultError as error:
            detail = explain_vault(error).detail
        except VerificationProblem as problem:
            damage, detail, touched = VerificationFailed([], ["config"]), problem.detail, {due.id: [b""]}
        except StorageUnreachable as problem:
            detail = problem.detail
    outcome = "whole" if proof else "damaged" if damage else "unknown"
    row = Check(
        id=new_id("chk"),
        team_id=due.team_id,
        workspace_id=due.workspace_id,
        snapshot_id=due.id,
        depth=due.depth,
        outcome=outcome,
        bytes_checked=proof.bytes_checked if proof else None,
        chunks_checked=proof.chunks_checked if proof else None,
        packs_checked=proof.packs_checked if proof else None,
        missing=damage.missing if damage else [],
        damaged=damage.damaged if damage else [],
        touched=[_shown(snapshot_id, paths) for snapshot_id, paths in sorted(touched.items())],
        detail=detail,
        seconds=time.monotonic() - started,
    )
    async with world.session(due.team_id) as session:
        return await _write(session, row)


def _read_back(repository: Repository, due: Due) -> Verification:
    if due.depth == "quick":
        return repository.verify(due.manifest, quick=True)
    if due.depth == "sample":
        return repository.verify(due.manifest, all_below=0)
    return repository.verify(due.manifest, all_below=_FULL)


async def _touched(world: Any, repository: Repository, due: Due, damage: VerificationFailed) -> dict[str, list[bytes]]:
    """Find the files of all the workspace's snapshots that need what is damaged, by the snapshots' ids."""
    from dumont.vault import touched_files

    async with world.session(due.team_id) as session:
        ids = await keeping_queries.ready_of(session, due.workspace_id)
    found = await asyncio.to_thread(touched_files, repository, damage.chunks, list(ids))
    return {ids[name]: paths for name, paths in found.items()}


def _shown(snapshot_id: str, paths: list[bytes]) -> dict[str, Any]:
    """Name files of a snapshot; no number stands for all of them, where not even their list can be read."""
    if paths == [b""]:
        return {"snapshot_id": snapshot_id, "files": None, "paths": []}
    files = [path.decode("utf-8", "backslashreplace") for path in paths[:MOST_FILES]]
    return {"snapshot_id": snapshot_id, "files": len(paths), "paths": files}


async def _write(session: AsyncSession, row: Check) -> dict[str, Any]:
    """Write a check, mark what it touches, and tell of damage."""
    touched = [str(one["snapshot_id"]) for one in row.touched]
    if row.outcome == "whole" and row.depth != "quick":
        await keeping_queries.set_damaged(session, [row.snapshot_id], damaged=False)
    if row.outcome == "damaged":
        await keeping_queries.set_damaged(session, sorted({row.snapshot_id, *touched}), damaged=True)
        data = {"check_id": row.id, "missing": row.missing, "damaged": row.damaged, "touched": row.touched}
        about = {"resource_type": "snapshot", "resource_id": row.snapshot_id, "team_id": row.team_id}
        await publish(session, topic=DAMAGED, data=data, **about)
        log.error("a snapshot is damaged", snapshot=row.snapshot_id, missing=row.missing, damaged=row.damaged)
    session.add(row)
    await session.flush()
    names = ("depth", "outcome", "bytes_checked", "chunks_checked", "packs_checked", "missing", "damaged", "touched")
    return {"check_id": row.id, **{name: getattr(row, name) for name in names}, "detail": row.detail}


async def _find(run: Run, session: AsyncSession) -> dict[str, Any]:
    snapshot = await get(session, run.input["snapshot_id"])
    if snapshot is None or snapshot.status != "ready":
        raise SnapshotNotFound("The snapshot was deleted. Choose another one.")
    names = ("id", "team_id", "workspace_id", "manifest")
    return {**{name: getattr(snapshot, name) for name in names}, "depth": run.input["depth"]}


async def _collect_all(run: Run, world: Any) -> dict[str, Any]:
    async with world.session(run.team_id) as session:
        workspaces = await keeping_queries.to_collect(
            session, team_id=run.team_id, instance_id=run.input["instance_id"]
        )
    total: dict[str, Any] = {"dry_run": run.input["dry_run"], "workspaces": len(workspaces)}
    for number, (workspace_id, team_id) in enumerate(workspaces):
        await run.check()
        done = await collect_workspace(world, workspace_id, team_id, dry_run=run.input["dry_run"])
        for name, value in done.items():
            total[name] = total.get(name, type(value)()) + value
        detail = f"{number + 1} of {len(workspaces)} workspaces, {total['bytes_freed']} bytes freed"
        await run.progress("collect", done=number + 1, total=len(workspaces), detail=detail)
    return total


async def collect_workspace(world: Any, workspace_id: str, team_id: str, *, dry_run: bool) -> dict[str, Any]:
    """Delete the manifests of forgotten snapshots, and collect; an empty answer where somebody else does it already.

    Errors: StorageUnreachable; VerificationProblem where what is needed cannot be known, so nothing is deleted.
    """
    from dumont.vault import Limits, collect

    vaults: Vaults = world.vaults
    if vaults.leases is None:
        raise RuntimeError("collecting needs leases")
    async with vaults.leases.collecting(workspace_id) as alone:
        if not alone:
            return {"busy": [workspace_id]}
        repository = await asyncio.to_thread(vaults.repository, workspace_id)
        try:
            if not dry_run:
                await _delete_manifests(world, repository, workspace_id, team_id)
            authority = vaults.leases.authority(workspace_id)
            done = await asyncio.to_thread(collect, repository, authority, Limits(), dry_run=dry_run)
        except VaultError as error:
            problem = explain_vault(error)
            await _write_run(world, workspace_id, team_id, {}, problem.detail)
            raise problem from error
    found = {name: value for name, value in asdict(done).items() if name != "dry_run"}
    if not dry_run:
        await _write_run(world, workspace_id, team_id, found, None)
    return found


async def _delete_manifests(world: Any, repository: Repository, workspace_id: str, team_id: str) -> None:
    async with world.session(team_id) as session:
        rows = await keeping_queries.deleting(session, workspace_id)
    for _, manifest in rows:
        if manifest is not None:
            await asyncio.to_thread(repository.store.delete, f"snap/{manifest}")
    async with world.session(team_id) as session:
        await keeping_queries.mark_deleted(session, [snapshot_id for snapshot_id, _ in rows])


async def _write_run(world: Any, workspace_id: str, team_id: str, found: dict[str, Any], problem: str | None) -> None:
    names = ("packs_marked", "bytes_marked", "packs_deleted", "bytes_freed", "packs_repacked")
    counts = {name: int(found.get(name, 0)) for name in names}
    async with world.database.begin() as session:
        await set_team(session, team_id)
        session.add(
            CollectionRun(id=new_id("col"), team_id=team_id, workspace_id=workspace_id, problem=problem, **counts)
        )
