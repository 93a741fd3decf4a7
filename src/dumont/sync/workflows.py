"""What takes longer than a request: syncs that come due, restores, listings, checks, pruning.

What works with restic is imported when it is needed, so that an installation that syncs nothing does not carry it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import Problem
from dumont.db import set_sweep
from dumont.durable import Result, Retry, Run, schedule, workflow
from dumont.instances import OperationInProgress, SshUnreachable, Status, World, expect, find_instance, get_rental
from dumont.sync import queries, service

log = structlog.get_logger()
PATIENT = Retry(on=(SshUnreachable,), for_seconds=60.0)
PRUNE_EVERY = timedelta(hours=24)


@schedule("sync.due", cron="*/30 * * * * *")
async def begin_due(world: Any, at: datetime) -> None:
    """Begin the syncs that are due, and prune what was forgotten a day ago. Runs again harmlessly."""
    now = world.clock.now()
    async with world.database.begin() as session:
        await set_sweep(session)
        due = await queries.due(session, now)
        stale = await queries.due_for_pruning(session, now - PRUNE_EVERY)
    for team_id, instance_id in due:
        with suppress(Problem):  # somebody has begun, stopped or guarded it in this moment; the next round looks again
            async with world.session(team_id) as session:
                instance = await find_instance(session, instance_id, lock=True)
                await service.begin_sync(session, instance, now=now, requested_by=None, force=True)
    for team_id, instance_id in stale:
        with suppress(OperationInProgress):
            async with world.session(team_id) as session:
                instance = await find_instance(session, instance_id)
                await service.begin(session, instance, "prune", {}, now=now, requested_by=None)


async def failed(session: AsyncSession, run: Run, problem: Problem) -> None:
    """Write a failure that the workflow itself did not foresee into the history."""
    row = await queries.get_run(session, run.input["run_id"])
    if row.finished_at is None:
        await service.fail(session, row.id, run.operation_id, problem, datetime.now(timezone.utc))


@asynccontextmanager
async def noting(run: Run, world: World) -> AsyncIterator[None]:
    """Write a problem into the history at the product's time, and let it go on."""
    try:
        yield
    except Problem as problem:
        now = world.clock.now().isoformat()
        await run.record("note failure", partial(_fail, run, problem, now))
        raise


async def _fail(run: Run, problem: Problem, now: str, session: AsyncSession) -> None:
    await service.fail(session, run.input["run_id"], run.operation_id, problem, datetime.fromisoformat(now))


@workflow("sync.sync", kind="sync", steps=("prepare", "upload"), on_failure=failed)
async def sync(run: Run, world: World) -> Result:
    """Make the repository ready for a host, let restic on the machine send what is new, and write the point down."""
    from dumont.sync import syncing

    async with noting(run, world):
        facts = await run.record("read policy", partial(_facts, run))
        await run.call("prepare", partial(syncing.prepare, world, facts))
        upload = partial(syncing.upload, run, world, facts)
        done = await run.call("upload", upload, retry=PATIENT, checks_itself=True)

    async def finish(session: AsyncSession) -> dict[str, Any]:
        row = await queries.get_run(session, facts["run_id"])
        return await service.end_sync(session, row, done, world.clock.now())

    return finish


async def _facts(run: Run, session: AsyncSession) -> dict[str, Any]:
    """Read what a sync needs; `repository_bytes` is what the packs took up when they were last counted."""
    instance = await find_instance(session, run.input["instance_id"])
    expect(instance, Status.RUNNING)
    row = await queries.get_run(session, run.input["run_id"])
    policy = await service.policy(session, instance)
    parent = await queries.newest(session, instance.workspace_id, "ready")
    row.parent_id = parent.snapshot_id if parent else None
    rental = await get_rental(session, instance.rental_id or "")
    return {
        "run_id": row.id,
        "instance_id": instance.id,
        "workspace_id": instance.workspace_id,
        "rental_id": rental.id,
        "disk_bytes": round(instance.disk_gb * 1e9),
        "parent": row.parent_id,
        "repository_bytes": await queries.repository_bytes(session, instance.workspace_id),
        "paths": row.paths,
        "exclude": row.exclude,
        "bandwidth_mbps_max": policy.bandwidth_mbps_max,
    }


@workflow("sync.restore", kind="sync-restore", steps=("fetch", "place"), on_failure=failed)
async def restore(run: Run, world: World) -> Result:
    """Fetch chosen paths of a point beside the workspace on its machine, then put them in place, all or none."""
    from dumont.sync import restoring

    async with noting(run, world):
        where = await run.record("read point", partial(_where, run))
        fetch = partial(restoring.fetch, run, world, where)
        done = await run.call("fetch", fetch, retry=PATIENT, checks_itself=True)
        await run.call("place", partial(restoring.place, world, where), retry=PATIENT)
    return partial(_restored, run, world, {**done, "paths": where["paths"], "to": where["to"]})


async def _where(run: Run, session: AsyncSession) -> dict[str, Any]:
    instance = await find_instance(session, run.instance_id or "")
    expect(instance, Status.RUNNING)
    names = ("run_id", "snapshot_id", "paths", "to")
    rental_id = (await get_rental(session, instance.rental_id or "")).id
    known = {name: run.input[name] for name in names}
    return {**known, "team_id": run.team_id, "workspace_id": instance.workspace_id, "rental_id": rental_id}


async def _restored(run: Run, world: World, done: dict[str, Any], session: AsyncSession) -> dict[str, Any]:
    await service.end_work(session, run.input["run_id"], world.clock.now(), snapshot_id=run.input["snapshot_id"])
    return done


@workflow("sync.list", kind="sync-list", steps=("read",), on_failure=failed)
async def show_tree(run: Run, world: World) -> Result:
    """Read what lies below a path at a point in time."""
    from dumont.sync import keeping

    async with noting(run, world):
        found = await run.call("read", partial(keeping.read_tree, world, run.input))
    return partial(_ended, run, world, found, {})


@workflow("sync.check", kind="sync-check", steps=("check",), on_failure=failed)
async def check(run: Run, world: World) -> Result:
    """Let restic prove the repository, with a share of its data read back."""
    from dumont.sync import keeping

    async with noting(run, world):
        found = await run.call("check", partial(keeping.check, world, run.input))
    return partial(_ended, run, world, found, {"repository_bytes": found["bytes"]})


@workflow("sync.prune", kind="sync-prune", steps=("prune",), on_failure=failed)
async def prune(run: Run, world: World) -> Result:
    """Take forgotten points out of the repository and give the room of what only they had back."""
    from dumont.sync import keeping

    async with noting(run, world):
        old = await run.record("read forgotten", partial(_forgotten, run))
        found = await run.call("prune", partial(keeping.prune, world, run.input, old["kept"]))

    async def finish(session: AsyncSession) -> dict[str, Any]:
        now = world.clock.now()
        if run.input.get("dry_run"):
            await service.end_work(session, run.input["run_id"], now)
            return {**found, "forgotten": len(old["runs"]), "dry_run": True}
        await queries.mark_pruned(session, old["runs"], now)
        row = await service.end_work(session, run.input["run_id"], now, repository_bytes=found["bytes_after"])
        policy = await queries.policy_of(session, row.instance_id, lock=True)
        if policy is not None:
            policy.pruned_at = now
        return {**found, "forgotten": len(old["runs"]), "dry_run": False}

    return finish


async def _forgotten(run: Run, session: AsyncSession) -> dict[str, Any]:
    rows = await queries.forgotten(session, run.input["instance_id"])
    return {"runs": [row.id for row in rows], "kept": await queries.kept(session, run.input["instance_id"])}


async def _ended(
    run: Run, world: World, found: dict[str, Any], values: dict[str, Any], session: AsyncSession
) -> dict[str, Any]:
    await service.end_work(session, run.input["run_id"], world.clock.now(), **values)
    return found
