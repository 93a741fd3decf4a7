"""Pause, resume and reboot: the machine stays ours and keeps its disk; only its GPU stops and starts costing."""

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import Problem
from dumont.durable import Retry, Run, workflow
from dumont.identity import ssh_keys_of
from dumont.instances import queries, service
from dumont.instances.acquire import PATIENT
from dumont.instances.machines import boot, count_gpu, start_patiently, stop, stop_again
from dumont.instances.model import HostLost, Rental, Status
from dumont.instances.shell import knock
from dumont.instances.workflows import take_machine
from dumont.instances.world import World
from dumont.market import ProviderSaidNo, explain
from dumont.providers import Address, Machine, MachineAbsent, MachineState, ProviderError
from dumont.remote import Hands, RemoteError, connect

FOREVER = Retry(on=PATIENT.on, for_seconds=float("inf"), most_seconds=15.0)
_DOWN = frozenset({MachineState.STOPPED, MachineState.STOPPING, MachineState.PREEMPTED})


async def pause_failed(session: AsyncSession, run: Run, problem: Problem) -> None:
    """Go back to running, or be paused where the machine has stopped."""
    instance = await service.find_instance(session, run.instance_id or "", lock=True)
    if instance.status == Status.PAUSING:
        await service.move(session, instance, Status.PAUSED if run.settled else Status.RUNNING, detail=problem.detail)


@workflow("instances.pause", kind="pause", steps=("stop",), on_failure=pause_failed)
async def pause(run: Run, world: World) -> dict[str, Any]:
    """Stop the machine and keep its disk, which goes on costing; what runs on it ends."""
    facts = await run.record("read instance", partial(_facts, run))
    rental_id = facts["rental_id"]
    await run.call(
        "stop",
        partial(stop, run, world, rental_id),
        retry=FOREVER,
        undo=partial(_admit_stop, run, world, rental_id),
    )
    run.settle()
    await run.record("paused", partial(_paused, run, world))
    return {"rental_id": rental_id}


async def resume_failed(session: AsyncSession, run: Run, problem: Problem) -> None:
    """Be paused again: the start was taken back."""
    instance = await service.find_instance(session, run.instance_id or "", lock=True)
    if instance.status == Status.RESUMING:
        await service.move(session, instance, Status.PAUSED, detail=problem.detail)


@workflow("instances.resume", kind="resume", steps=("start", "boot", "ready"), on_failure=resume_failed)
async def resume(run: Run, world: World) -> dict[str, Any]:
    """Start a paused machine, waiting for its GPU where somebody else has it, and see it answer on SSH."""
    facts = await run.record("read instance", partial(_facts, run))
    rental_id = facts["rental_id"]
    await run.call(
        "start",
        partial(start_patiently, run, world, rental_id, "start", minutes=run.input["wait_minutes"]),
        retry=PATIENT,
        undo=partial(stop_again, run, world, rental_id),
    )
    await run.call("boot", partial(boot, run, world, rental_id, facts["public_keys"]))
    return await run.record("ready", partial(take_machine, run, world, rental_id))  # type: ignore[no-any-return]


async def reboot_failed(session: AsyncSession, run: Run, problem: Problem) -> None:
    """Say running where nothing was asked of the machine yet; else the undo has said what is true."""
    instance = await service.find_instance(session, run.instance_id or "", lock=True)
    if instance.status == Status.RESUMING:
        await service.move(session, instance, Status.RUNNING, detail=problem.detail)
    else:
        instance.status_detail = problem.detail


@workflow("instances.reboot", kind="reboot", steps=("reboot", "boot", "ready"), on_failure=reboot_failed)
async def reboot(run: Run, world: World) -> dict[str, Any]:
    """Let the machine go down and come up again, and see it answer; one that does not come up is paused."""
    facts = await run.record("read instance", partial(_facts, run))
    rental_id = facts["rental_id"]
    await run.call(
        "reboot",
        partial(_reboot, run, world, rental_id),
        retry=PATIENT,
        undo=partial(_running_or_paused, run, world, rental_id),
    )
    await run.call("boot", partial(boot, run, world, rental_id, facts["public_keys"]))
    return await run.record("ready", partial(take_machine, run, world, rental_id))  # type: ignore[no-any-return]


async def _facts(run: Run, session: AsyncSession) -> dict[str, Any]:
    instance = await service.find_instance(session, run.instance_id or "")
    keys = await ssh_keys_of(session, run.input["requested_by"])
    return {"rental_id": instance.rental_id, "public_keys": list(keys)}


async def _rental(run: Run, world: World, rental_id: str) -> Rental:
    async with world.session(run.team_id) as session:
        return await queries.get_rental(session, rental_id)


async def _paused(run: Run, world: World, session: AsyncSession) -> None:
    instance = await service.find_instance(session, run.instance_id or "", lock=True)
    if instance.status in (Status.PAUSING, Status.RESUMING):
        await service.move(session, instance, Status.PAUSED)
        instance.paused_at, instance.disk_newer = world.clock.now(), True


async def _admit_stop(run: Run, world: World, rental_id: str) -> dict[str, Any]:
    """Call the instance paused where its machine stopped in spite of the failure."""
    rental = await _rental(run, world, rental_id)
    try:
        machine = await world.provider(rental.provider).get(rental.provider_machine_id or "")
    except ProviderError as error:
        raise explain(error) from error
    if machine is None or machine.state not in _DOWN:
        return {"stopped": False}
    await stop(run, world, rental_id)
    async with world.session(run.team_id) as session:
        await _paused(run, world, session)
    return {"stopped": True}


async def _reboot(run: Run, world: World, rental_id: str) -> dict[str, Any]:
    """Order the reboot and see the machine go down: a login that was open before must end.

    Where nobody could log in before, an answer afterwards is proof enough.
    Errors: ProviderSaidNo where the order was taken and nothing happened; HostLost; `explain`'s problems.
    """
    rental = await _rental(run, world, rental_id)
    provider = world.provider(rental.provider)
    seconds = world.patience_with(rental.provider).lost_seconds
    async with AsyncExitStack() as stack:
        hands = await _login(world, rental, stack)
        try:
            await provider.reboot(rental.provider_machine_id or "")
        except MachineAbsent as error:
            raise HostLost("The provider does not know the machine any more.") from error
        except ProviderError as error:
            raise explain(error) from error
        if hands is not None and not await _falls(hands, seconds):
            raise ProviderSaidNo("The provider took the order to reboot, and the machine did not go down.")
    return {"rebooted": True}


async def _login(world: World, rental: Rental, stack: AsyncExitStack) -> Hands | None:
    if rental.address is None:
        return None
    try:
        login = connect(Address(**rental.address), world.ssh, host_key=rental.host_key)
        return await stack.enter_async_context(login)
    except RemoteError:
        return None


async def _falls(hands: Hands, seconds: float) -> bool:
    """Tell whether a login ends within this time."""
    try:
        waited = await hands.run(f"sleep {max(1, round(seconds))}", timeout=seconds + 5)
    except RemoteError:
        return True
    return waited.exit_status != 0


async def _running_or_paused(run: Run, world: World, rental_id: str) -> dict[str, Any]:
    """Say running where the machine answers, within the patience with a lost host; else stop it, and say paused."""
    rental = await _rental(run, world, rental_id)
    patience = world.patience_with(rental.provider)
    until = time.monotonic() + patience.lost_seconds
    machine = None
    while machine is None and time.monotonic() < until:
        machine = await _answering(world, rental)
        await asyncio.sleep(patience.poll_seconds if machine is None else 0)
    if machine is None:
        await stop_again(run, world, rental_id)
    else:
        await count_gpu(world, rental, machine)
    async with world.session(run.team_id) as session:
        if machine is None:
            await _paused(run, world, session)
        else:
            instance = await service.find_instance(session, run.instance_id or "", lock=True)
            if instance.status == Status.RESUMING:
                await service.move(session, instance, Status.RUNNING)
    return {"running": machine is not None}


async def _answering(world: World, rental: Rental) -> Machine | None:
    """Return the machine where it runs and lets us in."""
    with suppress(ProviderError, Problem):
        machine = await world.provider(rental.provider).get(rental.provider_machine_id or "")
        if machine is not None and machine.state is MachineState.RUNNING:
            return machine if await knock(world, machine.addresses, rental.host_key) is not None else None
    return None
