"""Hibernate: freeze, save, verify by reading back, commit, and only then stop paying.

A machine is given back only when every file was read and none changed under the reader; otherwise its disk is kept.
The machine's processes stay frozen from the first byte read until the stop was accepted. When the frozen link is lost
in between (a crash, a cut), they have been thawed and may have written: then the save is made again.
"""

import asyncio
from contextlib import suppress
from functools import partial
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.agent import AgentFailed, AgentLost
from dumont.core import Problem
from dumont.durable import Retry, Run, workflow
from dumont.hibernation.progress import telling
from dumont.instances import (
    PATIENT,
    HostLost,
    SshUnreachable,
    Status,
    World,
    drop_link,
    explain_remote,
    find_instance,
    get_rental,
    hold_link,
    move,
    named,
    release,
    stop,
)
from dumont.market import explain
from dumont.providers import MachineState, ProviderError
from dumont.snapshots import SnapshotFailed, begin_snapshot, complete_snapshot, cost_month, fail_snapshot, save, verify

ROUNDS = 5
_SILENT = frozenset({MachineState.STOPPED, MachineState.STOPPING, MachineState.PREEMPTED, MachineState.FAILED})
"""States of a machine that does not answer on SSH, however often it is asked."""
FOREVER = Retry(on=PATIENT.on, for_seconds=float("inf"), most_seconds=15.0)


async def hibernate_failed(session: AsyncSession, run: Run, problem: Problem) -> None:
    """Go back to running with the machine untouched; once the machine has stopped, stay asleep with its disk kept."""
    instance = await find_instance(session, run.instance_id or "", lock=True)
    if instance.status != Status.HIBERNATING:
        return
    if run.settled:
        await move(session, instance, Status.HIBERNATED, detail=problem.detail)
        instance.disk_newer = True
    else:
        await move(session, instance, Status.RUNNING, detail=problem.detail)


@workflow(
    "hibernation.hibernate",
    kind="hibernate",
    steps=("snapshot", "verify", "stop"),
    on_failure=hibernate_failed,
)
async def hibernate(run: Run, world: World) -> dict[str, Any]:
    """Save the workspace, prove the copy, stop the machine (or give it back)."""
    for number in range(1, ROUNDS + 1):
        begun = await run.record(named("begin snapshot", number), partial(_begin, run, world))
        try:
            done = await _round(run, world, begun, number)
        except Problem as problem:
            await run.record(named("snapshot failed", number), partial(_fail, begun["snapshot_id"], problem))
            raise
        if done is not None:
            return done
    raise SshUnreachable("The machine was lost again and again while its workspace was saved. Nothing was stopped.")


async def _round(run: Run, world: World, begun: dict[str, Any], number: int) -> dict[str, Any] | None:
    rental_id = begun["rental_id"]
    saved = await run.call(
        named("snapshot", number),
        partial(_save_while_it_runs, run, world, begun, named("snapshot", number)),
        retry=Retry(on=(SshUnreachable,), for_seconds=60.0),
        undo=partial(_thaw, world, rental_id),
    )
    verified = await run.call(named("verify", number), partial(_verify, world, begun, saved))
    await run.record(named("commit", number), partial(_commit, run, world, begun, saved, verified))
    stopped = await run.call(
        named("stop", number),
        partial(_stop, run, world, rental_id),
        retry=FOREVER,
        undo=partial(_admit_stop, run, world, rental_id),
        checks_itself=True,
    )
    if not stopped["stopped"]:
        return None
    run.settle()
    await run.record("hibernated", partial(_asleep, run, world, newer=not stopped["frozen_until_stop"]))
    whole = not saved["unstable"] and not saved["read_errors"]
    kept = run.input["then"] != "destroy" or not stopped["frozen_until_stop"] or not whole
    if not kept:
        give_back = partial(release, run, world, rental_id, "hibernated, verified copy " + begun["snapshot_id"])
        await run.call("give back", give_back, retry=FOREVER)
        await run.record("given back", partial(_given_back, run))
    cost = cost_month(saved["bytes_stored"], world.vaults.gb_month_nano)
    month = cost.model_dump() if cost is not None else None
    return {"snapshot_id": begun["snapshot_id"], "machine_kept": kept, "cost_month": month, **saved}


async def _begin(run: Run, world: World, session: AsyncSession) -> dict[str, Any]:
    instance = await find_instance(session, run.instance_id or "", lock=True)
    rental = await get_rental(session, instance.rental_id or "")
    begun = await begin_snapshot(
        session,
        team_id=run.team_id,
        workspace_id=instance.workspace_id,
        instance_id=instance.id,
        operation_id=run.operation_id,
        kind="hibernation",
        now=world.clock.now(),
    )
    return {**begun, "rental_id": rental.id, "workspace_id": instance.workspace_id, "host": rental.label}


async def _save_while_it_runs(run: Run, world: World, begun: dict[str, Any], step: str) -> dict[str, Any]:
    """Save; a machine that does not answer because it has stopped is not asked again, for it costs nothing more.

    Errors: HostLost where the machine does not run any more; SshUnreachable while it may answer the next time.
    """
    try:
        return await _save(run, world, begun, step)
    except SshUnreachable as problem:
        async with world.session(run.team_id) as session:
            rental = await get_rental(session, begun["rental_id"])
        with suppress(ProviderError):
            machine = await world.provider(rental.provider).get(rental.provider_machine_id or "")
            if machine is not None and machine.state in _SILENT:
                raise HostLost("The machine was stopped from outside, so its workspace was not saved.") from problem
        raise


async def _save(run: Run, world: World, begun: dict[str, Any], step: str) -> dict[str, Any]:
    await drop_link(world, begun["rental_id"])
    async with world.session(run.team_id) as session:
        rental = await get_rental(session, begun["rental_id"])
    held = await hold_link(world, rental, begun["workspace_id"])
    try:
        await held.link.freeze()
        async with telling(run, step) as on_progress:
            saved = await save(
                world.vaults,
                held.link,
                held.gate,
                held.gate_url,
                workspace_id=begun["workspace_id"],
                host=begun["host"],
                parent=begun["parent"],
                epoch=begun["epoch"],
                on_progress=on_progress,
            )
    except AgentFailed as error:
        await drop_link(world, begun["rental_id"])
        raise SnapshotFailed(f"The machine could not be frozen and saved: {error.detail}") from error
    except AgentLost as error:
        await drop_link(world, begun["rental_id"])
        raise explain_remote(error) from error
    except BaseException:
        await drop_link(world, begun["rental_id"])
        raise
    return saved_document(saved)


def saved_document(saved: Any) -> dict[str, Any]:
    """Show what a save did as plain JSON; sizes in bytes."""
    return {
        "name": saved.name,
        "merkle_root": saved.merkle_root,
        "files": saved.files,
        "bytes_total": saved.bytes_total,
        "bytes_new": saved.bytes_new,
        "bytes_stored": saved.bytes_stored,
        "seconds": saved.seconds,
        "unstable": list(saved.unstable),
        "read_errors": [f"{path}: {reason}" for path, reason in saved.read_errors],
    }


async def _verify(world: World, begun: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    verified = await verify(world.vaults, begun["workspace_id"], saved["name"])
    return {
        "bytes_checked": verified.bytes_checked,
        "chunks_checked": verified.chunks_checked,
        "packs_checked": verified.packs_checked,
    }


async def _commit(
    run: Run,
    world: World,
    begun: dict[str, Any],
    saved: dict[str, Any],
    verified: dict[str, Any],
    session: AsyncSession,
) -> None:
    await complete_snapshot(session, begun["snapshot_id"], saved, verified, world.clock.now())
    instance = await find_instance(session, run.instance_id or "", lock=True)
    instance.last_snapshot_id = begun["snapshot_id"]


async def _fail(snapshot_id: str, problem: Problem, session: AsyncSession) -> None:
    await fail_snapshot(session, snapshot_id, problem)


async def _stop(run: Run, world: World, rental_id: str) -> dict[str, Any]:
    """Stop the machine if its processes are still frozen; otherwise say that the save must be made again.

    Guarantees: the last chance to cancel is before the provider is asked.
    """
    already = await _stopped_already(run, world, rental_id)
    held = world.held.get(rental_id)
    frozen = held is not None and await _still_frozen(held.link)
    if not already:
        if frozen:
            await run.check()
            frozen = held is not None and await _hold_frozen(held.link)
        if not frozen:
            return {"stopped": False, "frozen_until_stop": False}
    await stop(run, world, rental_id)
    await drop_link(world, rental_id)
    return {"stopped": True, "frozen_until_stop": frozen}


async def _admit_stop(run: Run, world: World, rental_id: str) -> dict[str, Any]:
    """Call the instance hibernated where its machine stopped in spite of the failure: its snapshot is verified."""
    if not await _stopped_already(run, world, rental_id):
        return {"stopped": False}
    with suppress(HostLost):
        await stop(run, world, rental_id)
    async with world.session(run.team_id) as session:
        await _asleep(run, world, session, newer=True)
    return {"stopped": True}


async def _still_frozen(link: Any) -> bool:
    """Tell whether the link lives: while it does, what it froze is frozen; processes born since are frozen now."""
    try:
        await link.freeze()
    except (AgentFailed, AgentLost):
        return False
    return True


async def _hold_frozen(link: Any) -> bool:
    """Let nothing go on when the stop tears the link; a machine that does not stop goes on by itself after a while."""
    try:
        await link.hold()
    except (AgentFailed, AgentLost):
        return False
    return True


async def _stopped_already(run: Run, world: World, rental_id: str) -> bool:
    """Tell whether the machine runs no more: stopped, stopping, or not known to the provider in two looks."""
    async with world.session(run.team_id) as session:
        rental = await get_rental(session, rental_id)
    provider, machine_id = world.provider(rental.provider), rental.provider_machine_id or ""
    try:
        machine = await provider.get(machine_id)
        if machine is None:
            await asyncio.sleep(world.patience_with(rental.provider).absence_seconds)
            machine = await provider.get(machine_id)
    except ProviderError as error:
        raise explain(error) from error
    return machine is None or machine.state in (MachineState.STOPPED, MachineState.STOPPING)


async def _thaw(world: World, rental_id: str) -> dict[str, Any]:
    held = world.held.get(rental_id)
    if held is not None:
        with suppress(AgentFailed, AgentLost):
            await held.link.thaw()
    await drop_link(world, rental_id)
    return {"thawed": True}


async def _asleep(run: Run, world: World, session: AsyncSession, *, newer: bool) -> None:
    """Call the instance hibernated with its machine kept; `newer` where processes may have written since the save."""
    instance = await find_instance(session, run.instance_id or "", lock=True)
    if instance.status == Status.HIBERNATING:
        await move(session, instance, Status.HIBERNATED)
        instance.hibernated_at = world.clock.now()
        instance.disk_newer = newer


async def _given_back(run: Run, session: AsyncSession) -> None:
    instance = await find_instance(session, run.instance_id or "", lock=True)
    instance.rental_id = None
