"""Restore onto a running instance: all of a snapshot or parts of it, put in place together or not at all."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.agent import AgentFailed, AgentLost
from dumont.core import Problem
from dumont.durable import Operation, Result, Retry, Run, workflow
from dumont.hibernation.progress import telling
from dumont.http import problems
from dumont.instances import (
    Held,
    HostLost,
    Instance,
    SshUnreachable,
    Status,
    World,
    drop_link,
    expect,
    explain_remote,
    find_instance,
    get_rental,
    hold_link,
    start_operation,
)
from dumont.snapshots import Snapshot, SnapshotNotFound, choice_of, get_snapshot, restore

RESTORE_DEADLINE = timedelta(hours=6)
_AGAIN = Retry(on=(SshUnreachable, HostLost), for_seconds=600.0)
_HALF = "The files were being exchanged: the machine ends that by itself when it is next reached."


async def restore_onto(
    session: AsyncSession, instance: Instance, snapshot: Snapshot, wishes: dict[str, Any], *, user_id: str
) -> Operation:
    """Begin to restore a snapshot of the team onto a locked instance that runs; of whichever workspace it is.

    Shapes: `wishes` has `paths`, `target_path` and `replace`. Errors: PathNotAllowed, WrongState, OperationInProgress.
    """
    choice_of(**wishes)
    expect(instance, Status.RUNNING)
    expect_ready(snapshot)
    inputs = {"snapshot_id": snapshot.id, **wishes}
    return await start_operation(
        session, instance, "hibernation.restore", inputs, deadline=RESTORE_DEADLINE, requested_by=user_id
    )


def expect_ready(snapshot: Snapshot) -> None:
    """Refuse a snapshot that cannot be restored. Errors: WrongState."""
    if snapshot.status != "ready":
        raise problems.WrongState(snapshot.status, ["ready"], "Only a snapshot that is ready can be restored.")


async def nothing_changed(session: AsyncSession, run: Run, problem: Problem) -> None:
    """Leave the instance as it is: a restore that does not end well has changed nothing, or says that it may have."""


@workflow("hibernation.restore", kind="restore", steps=("restore",), on_failure=nothing_changed)
async def restore_running(run: Run, world: World) -> Result:
    """Write what was chosen beside the workspace's files, prove it, and exchange; the instance goes on running."""
    facts = await run.record("read snapshot", partial(_facts, run))
    done = await run.call("restore", partial(_restore, run, world, facts), retry=_AGAIN, checks_itself=True)
    run.settle()
    return partial(_restored, run, done)


async def _facts(run: Run, session: AsyncSession) -> dict[str, Any]:
    instance = await find_instance(session, run.instance_id or "")
    expect(instance, Status.RUNNING)
    snapshot = await get_snapshot(session, run.input["snapshot_id"])
    if snapshot is None or snapshot.status != "ready":
        raise SnapshotNotFound("The snapshot was deleted. Choose another one.")
    return {
        "rental_id": (await get_rental(session, instance.rental_id or "")).id,
        "workspace_id": snapshot.workspace_id,
        "manifest": snapshot.manifest,
    }


async def _restore(run: Run, world: World, facts: dict[str, Any]) -> dict[str, Any]:
    where = {"workspace_id": facts["workspace_id"], "manifest": facts["manifest"]}
    choice = _choice(run)
    async with telling(run, "restore") as told:
        if not told.turned:
            await run.check()
        try:
            async with linked(run, world, facts["rental_id"], facts["workspace_id"]) as held:
                done = await restore(
                    world.vaults,
                    held.link,
                    held.gate,
                    held.gate_url,
                    **where,
                    on_progress=told,
                    choice=choice,
                    still=True,
                    before_exchange=told.turn,
                )
        except (SshUnreachable, HostLost) as problem:
            if told.turned:
                problem.detail = f"{problem.detail} {_HALF}"
            raise
    names = ("files", "bytes_total", "bytes_fetched", "chunks_reused", "hashes_compared", "replaced", "merkle_root")
    return {**{name: getattr(done, name) for name in names}, "seconds": round(done.seconds, 3)}


async def _restored(run: Run, done: dict[str, Any], session: AsyncSession) -> dict[str, Any]:
    """Write the end; where the whole workspace is now the snapshot, a lost machine is woken from that one."""
    snapshot = await get_snapshot(session, run.input["snapshot_id"])
    if _choice(run).whole and snapshot is not None and snapshot.status == "ready":
        instance = await find_instance(session, run.instance_id or "", lock=True)
        instance.last_snapshot_id = snapshot.id
    return {"snapshot_id": run.input["snapshot_id"], **done}


def _choice(run: Run) -> Any:
    return choice_of(run.input["paths"], run.input["target_path"], replace=run.input["replace"])


@asynccontextmanager
async def linked(run: Run, world: World, rental_id: str, workspace_id: str) -> AsyncIterator[Held]:
    """Give the agent of a rental's machine, and its way to one workspace's objects.

    Errors: SshUnreachable, HostKeyMismatch, HostLost.
    """
    await drop_link(world, rental_id)
    async with world.session(run.team_id) as session:
        rental = await get_rental(session, rental_id)
    try:
        yield await hold_link(world, rental, workspace_id)
    except (AgentFailed, AgentLost) as error:
        raise explain_remote(error) from error
    finally:
        await drop_link(world, rental_id)
