"""What we do with one rented machine: see it up, log in, stop it and start it.

Every function may be called again after a crash and finds out what is already done. Absence is believed only when
seen twice through calls that worked; errors and time-outs mean unknown.
"""

import asyncio
import time
from contextlib import suppress
from typing import Any

import structlog

from dumont.durable import Cancelled, DeadlineExceeded, Run
from dumont.instances import queries, rental_rows
from dumont.instances.model import CreationTimeout, HostLost, Rental, Status
from dumont.instances.renting import too_dear
from dumont.instances.shell import knock
from dumont.instances.world import World
from dumont.market import NoCapacityNow, ProviderSaidNo, explain, offer_from_json
from dumont.providers import (
    Machine,
    MachineAbsent,
    MachineState,
    NoCapacity,
    Provider,
    ProviderError,
    ProviderUnreachable,
)

log = structlog.get_logger()
STANDS_STILL = frozenset(
    {
        *(MachineState.STOPPED, MachineState.PREEMPTED, MachineState.WAITING_FOR_GPU),
        *(MachineState.FAILED, MachineState.UNREACHABLE),
    }
)
"""States in which a machine's GPU costs nothing."""
_SHALL_RUN = frozenset({MachineState.RUNNING, MachineState.WAITING_FOR_GPU, MachineState.FAILED})
"""States of a machine that its provider means to run."""


async def boot(
    run: Run,
    world: World,
    rental_id: str,
    public_keys: list[str],
    *,
    minutes: float | None = None,
    highest_hour_nano: int | None = None,
) -> dict[str, Any]:
    """Wait until the machine answers on SSH, pin its host key, and write down how to reach it and what it costs.

    Units: `minutes` of real time, the installation's setting where not given.
    Errors: CreationTimeout, HostLost, ProviderSaidNo (the machine failed to start), PriceMoved where the machine says
    that it costs more than `highest_hour_nano`.
    """
    rental = await rental_rows.read_rental(world, run.team_id, rental_id)
    provider = world.provider(rental.provider)
    patience = world.patience_with(rental.provider)
    started = time.monotonic()
    watch = _Watch(patience.lost_seconds, patience.doubt_seconds, started)
    keys_given = False
    counted: bool | None = None
    most = world.settings.start_timeout_minutes if minutes is None else minutes
    while time.monotonic() - started < most * 60:
        await run.check()
        machine = await watch.look(provider, rental.provider_machine_id or "")
        if machine is not None:
            _check_price(machine, highest_hour_nano)
        counted = await _count(run, world, rental, watch.seen, counted)
        if machine is not None and machine.state is MachineState.RUNNING and machine.addresses:
            keys_given = keys_given or await _give_keys(provider, machine.id, [world.ssh.public_key, *public_keys])
            login = await knock(world, machine.addresses, rental.host_key)
            if login is not None:
                return await _up(run, world, rental, machine, login)
        await asyncio.sleep(patience.poll_seconds)
    raise CreationTimeout(f"The machine did not answer on SSH within {most:g} minutes.")


def _check_price(machine: Machine, highest_hour_nano: int | None) -> None:
    """Refuse a machine that costs more than its offer said. Errors: PriceMoved."""
    price = machine.price_hour_nano
    if price is not None and highest_hour_nano is not None and price > highest_hour_nano:
        raise too_dear(price, highest_hour_nano)


async def _count(run: Run, world: World, rental: Rental, machine: Machine | None, counted: bool | None) -> bool | None:
    """Count the GPU while the machine runs, whether it lets us in or not.

    Somebody may stop a machine that we wait for, or bid more for it: from then on its GPU costs nothing.
    Returns whether it is counted now; None while that is not known, as at the beginning.
    """
    if machine is None:
        return counted
    if machine.state is MachineState.RUNNING and machine.addresses and counted is not True:
        await count_gpu(world, rental, machine)
        return True
    if machine.state in STANDS_STILL and counted is not False:
        await run.check()  # a worker that thaws after another has taken over ends here
        async with world.session(rental.team_id) as session:
            await queries.close_spans(session, rental.id, ["gpu"], world.clock.now())
        return False
    return counted


async def count_gpu(world: World, rental: Rental, machine: Machine) -> None:
    """Begin the cost of a running machine's GPU, where it is not counted already."""
    rate = machine.gpu_hour_nano
    if rate is None:
        rate = offer_from_json(rental.offer).gpu_hour_nano
    await rental_rows.open_gpu(world, rental, rate, world.clock.now())


async def _give_keys(provider: Provider, machine_id: str, public_keys: list[str]) -> bool:
    try:
        for key in public_keys:
            await provider.attach_key(machine_id, key)
    except ProviderError as error:
        log.info("keys could not be attached yet", machine=machine_id, error=str(error))
        return False
    return True


class _Watch:
    """Looks at a machine again and again and decides when it is failed or lost; `seen` is what the last look showed."""

    def __init__(self, lost_seconds: float, doubt_seconds: float, started: float) -> None:
        self._lost, self._doubt, self._started = lost_seconds, doubt_seconds, started
        self._cut_since: float | None = None
        self._absent = 0
        self._failed = 0
        self.seen: Machine | None = None

    async def look(self, provider: Provider, machine_id: str) -> Machine | None:
        self.seen = None
        try:
            machine = self.seen = await provider.get(machine_id)
        except ProviderError as error:
            log.info("provider gave no certain answer", machine=machine_id, error=str(error))
            return None
        now = time.monotonic()
        if machine is None:
            self._absent += 1
            if self._absent > 1 and now - self._started > self._doubt:
                raise HostLost("The machine vanished from the provider before it was up.")
            return None
        self._absent = 0
        self._failed = self._failed + 1 if machine.state is MachineState.FAILED else 0
        if self._failed > 1:  # one look may still show how the container ended before this start
            raise ProviderSaidNo(f"The machine could not start: {machine.detail or machine.raw_status}")
        if machine.state in (MachineState.UNREACHABLE, MachineState.PREEMPTED):
            self._cut_since = self._cut_since or now
            if now - self._cut_since >= self._lost:
                raise HostLost("The machine's host is cut off.")
            return None
        self._cut_since = None
        return machine


async def _up(run: Run, world: World, rental: Rental, machine: Machine, login: dict[str, Any]) -> dict[str, Any]:
    stated = {name: getattr(machine, name) for name in ("price_hour_nano", "gpu_hour_nano", "disk_hour_nano")}
    facts = {
        "address": login["address"],
        "host_key": login["host_key"],
        **{name: getattr(machine, name) for name in ("workspace_root", "geolocation", "country", "public_ip")},
        "ports": {name: {"host": at.host, "port": at.port} for name, at in machine.ports.items()},
        "offer": {**rental.offer, **{name: nano for name, nano in stated.items() if nano is not None}},
    }
    if rental.address is None:
        await rental_rows.write_up(world, rental, facts, machine.disk_hour_nano)
        return _answer(rental, machine)
    async with world.session(run.team_id) as session:
        await queries.change_rental(session, rental.id, **facts)
        if machine.disk_hour_nano is not None:
            await queries.turn_span(session, rental, "disk", machine.disk_hour_nano, world.clock.now())
    return _answer(rental, machine)


def _answer(rental: Rental, machine: Machine) -> dict[str, Any]:
    return {"rental_id": rental.id, "price_hour_nano": machine.price_hour_nano or rental.offer["price_hour_nano"]}


async def stop(run: Run, world: World, rental_id: str) -> dict[str, Any]:
    """Ask for a stop, keep the disk, and see the machine stopped; GPU cost ends here.

    Guarantees: an accepted stop is seen through, whoever cancels, and is asked for again where the machine shall run by
    the provider's word; after a lost answer the machine is looked at before the order is given again. A host that is
    cut off meanwhile has its order, so nothing is left to wait for. Where somebody destroys the instance, the rest is
    left to him.
    Errors: HostLost where the provider has no such machine any more; `explain`'s problems.
    """
    rental = await rental_rows.read_rental(world, run.team_id, rental_id)
    provider = world.provider(rental.provider)
    machine_id = rental.provider_machine_id or ""
    try:
        machine = await _order_stop(provider, machine_id) or await _see_stopped(run, world, provider, machine_id)
    except MachineAbsent as error:
        raise HostLost("The provider does not know the machine any more.") from error
    except ProviderError as error:
        raise explain(error) from error
    if machine is None:
        return {"stopped": False}
    async with world.session(run.team_id) as session:
        now = world.clock.now()
        if machine.disk_hour_nano is not None:
            await queries.turn_span(session, rental, "disk", machine.disk_hour_nano, now)
        await queries.close_spans(session, rental_id, ["gpu"], now)
    return {"stopped": True}


async def stop_again(run: Run, world: World, rental_id: str) -> dict[str, Any]:
    """Undo a start: take it back, also where it only waits in a queue; a machine that is gone costs no GPU."""
    try:
        return await stop(run, world, rental_id)
    except HostLost as problem:
        async with world.session(run.team_id) as session:
            await queries.close_spans(session, rental_id, ["gpu"], world.clock.now())
        return {"stopped": False, "problem": problem.detail}


async def _order_stop(provider: Provider, machine_id: str) -> Machine | None:
    """Ask for a stop; returns the machine where the answer was lost and it has stopped, None where it is to be seen.

    Errors: the provider's; ProviderUnreachable where the answer was lost and the machine does not look stopped.
    """
    try:
        await provider.stop(machine_id)
    except ProviderUnreachable:
        machine = await provider.get(machine_id)
        if machine is None or machine.state is not MachineState.STOPPED:
            raise
        return machine
    return None


async def _see_stopped(run: Run, world: World, provider: Provider, machine_id: str) -> Machine | None:
    """Wait until a machine that was told to stop has stopped; None: somebody destroys its instance."""
    patience = world.patience_with(provider.name)
    cut_since: float | None = None
    absent = 0
    while True:
        machine = await provider.get(machine_id)
        absent = absent + 1 if machine is None else 0
        if absent > 2:
            raise HostLost("The machine vanished from the provider while it was stopped.")
        if machine is not None and machine.state in (MachineState.STOPPED, MachineState.PREEMPTED):
            return machine
        cut = machine is not None and machine.state is MachineState.UNREACHABLE
        cut_since = (cut_since or time.monotonic()) if cut else None
        if machine is not None and cut_since is not None and time.monotonic() - cut_since >= patience.lost_seconds:
            return machine
        if await _is_given_up(run, world):
            return None
        if machine is not None and machine.state in _SHALL_RUN:
            await provider.stop(machine_id)
        await asyncio.sleep(patience.poll_seconds)


async def _is_given_up(run: Run, world: World) -> bool:
    """Tell whether somebody destroys the instance, who waits for us; a mere wish to cancel comes too late."""
    with suppress(Cancelled, DeadlineExceeded):
        await run.check()
    async with world.session(run.team_id) as session:
        instance = await queries.get(session, run.instance_id or "")
        return instance is not None and instance.status == Status.DESTROYING


async def start(run: Run, world: World, rental_id: str) -> dict[str, Any]:
    """Ask a stopped machine to start.

    Errors: NoCapacityNow (and the queued start is cancelled, so that it never runs later); HostLost where the provider
    has no such machine any more; `explain`'s problems.
    """
    provider, machine_id = await _where(run, world, rental_id)
    try:
        if await _queued(provider, machine_id):
            await provider.cancel_start(machine_id)
            raise NoCapacityNow("The machine's GPU is rented by somebody else now. Wait, or wake elsewhere.")
    except MachineAbsent as error:
        raise HostLost("The provider does not know the machine any more.") from error
    except ProviderError as error:
        raise explain(error) from error
    return {"started": True}


async def start_patiently(run: Run, world: World, rental_id: str, step: str, *, minutes: float) -> dict[str, Any]:
    """Ask a stopped machine to start, and wait in the provider's queue while its GPU is somebody else's.

    Units: `minutes` of real time. Guarantees: whoever calls undoes it by `stop_again`, which leaves the queue.
    Errors: NoCapacityNow after the wait; HostLost where the provider has no such machine any more; Cancelled,
    DeadlineExceeded; `explain`'s problems.
    """
    provider, machine_id = await _where(run, world, rental_id)
    try:
        if await _queued(provider, machine_id):
            run.note(step, f"The GPU is rented by somebody else: waiting for it, for up to {minutes:g} minutes.")
            await _wait_for_gpu(run, world, provider, machine_id, minutes)
    except MachineAbsent as error:
        raise HostLost("The provider does not know the machine any more.") from error
    except ProviderError as error:
        raise explain(error) from error
    return {"started": True}


async def _where(run: Run, world: World, rental_id: str) -> tuple[Provider, str]:
    rental = await rental_rows.read_rental(world, run.team_id, rental_id)
    return world.provider(rental.provider), rental.provider_machine_id or ""


async def _queued(provider: Provider, machine_id: str) -> bool:
    """Ask for a start and tell whether it only waits in the provider's queue."""
    try:
        await provider.start(machine_id)
    except NoCapacity:
        return True
    return False


async def _wait_for_gpu(run: Run, world: World, provider: Provider, machine_id: str, minutes: float) -> None:
    """Wait until a queued start is served. A call that gives no certain answer is no answer: look again.

    Errors: NoCapacityNow; HostLost where the machine is gone, so that there is nothing to wait for.
    """
    until = time.monotonic() + 60 * minutes
    absent = 0
    while time.monotonic() < until:
        await run.check()
        await asyncio.sleep(world.patience_with(provider.name).poll_seconds)
        try:
            machine = await provider.get(machine_id)
        except ProviderUnreachable as error:
            log.info("provider gave no certain answer", machine=machine_id, error=str(error))
            continue
        absent = absent + 1 if machine is None else 0
        if absent > 2:
            raise HostLost("The machine vanished from the provider while it waited for its GPU.")
        if machine is not None and machine.state in (MachineState.RUNNING, MachineState.FAILED):
            return
    raise NoCapacityNow(
        f"The machine's GPU was somebody else's for {minutes:g} minutes. Its disk is kept: try again later."
    )
