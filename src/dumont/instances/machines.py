"""What we do with one rented machine: see it up, log in, stop it and start it.

Every function may be called again after a crash and finds out what is already done. Absence is believed only when
seen twice through calls that worked; errors and time-outs mean unknown.
"""

import asyncio
import time
from typing import Any

import structlog

from dumont.durable import Run
from dumont.instances import queries
from dumont.instances.model import CreationTimeout, HostLost, Rental
from dumont.instances.shell import knock
from dumont.instances.world import Patience, World
from dumont.market import ProviderSaidNo, explain, offer_from_json
from dumont.providers import Machine, MachineAbsent, MachineState, NoCapacity, Provider, ProviderError

log = structlog.get_logger()


async def boot(run: Run, world: World, rental_id: str, public_keys: list[str]) -> dict[str, Any]:
    """Wait until the machine answers on SSH, pin its host key, and write down how to reach it.

    Errors: CreationTimeout, HostLost, ProviderSaidNo (the machine failed to start).
    """
    async with world.session(run.team_id) as session:
        rental = await queries.get_rental(session, rental_id)
    provider = world.provider(rental.provider)
    patience = world.patience_with(rental.provider)
    started = time.monotonic()
    watch = _Watch(patience.lost_seconds, patience.doubt_seconds, started)
    keys_given = False
    while time.monotonic() - started < world.settings.start_timeout_minutes * 60:
        await run.check()
        machine = await watch.look(provider, rental.provider_machine_id or "")
        if machine is not None and machine.state is MachineState.RUNNING and machine.addresses:
            keys_given = keys_given or await _give_keys(provider, machine.id, [world.ssh.public_key, *public_keys])
            login = await knock(world, machine.addresses, rental.host_key)
            if login is not None:
                return await _up(run, world, rental, machine, login)
        await asyncio.sleep(patience.poll_seconds)
    minutes = world.settings.start_timeout_minutes
    raise CreationTimeout(f"The machine did not answer on SSH within {minutes:g} minutes and was given back.")


async def _give_keys(provider: Provider, machine_id: str, public_keys: list[str]) -> bool:
    try:
        for key in public_keys:
            await provider.attach_key(machine_id, key)
    except ProviderError as error:
        log.info("keys could not be attached yet", machine=machine_id, error=str(error))
        return False
    return True


class _Watch:
    """Looks at a machine again and again and decides when it is failed or lost."""

    def __init__(self, lost_seconds: float, doubt_seconds: float, started: float) -> None:
        self._lost, self._doubt, self._started = lost_seconds, doubt_seconds, started
        self._cut_since: float | None = None
        self._absent = 0
        self._failed = 0

    async def look(self, provider: Provider, machine_id: str) -> Machine | None:
        try:
            machine = await provider.get(machine_id)
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
    offer = offer_from_json(rental.offer)
    async with world.session(run.team_id) as session:
        await queries.change_rental(
            session,
            rental.id,
            address=login["address"],
            host_key=login["host_key"],
            workspace_root=machine.workspace_root,
            geolocation=machine.geolocation,
            country=machine.country,
        )
        await queries.open_span(
            session,
            team_id=run.team_id,
            rental_id=rental.id,
            kind="gpu",
            rate_hour_nano=machine.gpu_hour_nano if machine.gpu_hour_nano is not None else offer.gpu_hour_nano,
            at=world.clock.now(),
        )
    return {"rental_id": rental.id, "price_hour_nano": machine.price_hour_nano or offer.price_hour_nano}


async def stop(run: Run, world: World, rental_id: str) -> dict[str, Any]:
    """Ask for a stop, keep the disk, and see the machine stopped; GPU cost ends here.

    Guarantees: an accepted stop is seen through, whoever cancels. A host that is cut off meanwhile has its order, so
    nothing is left to wait for. Errors: HostLost where the provider has no such machine any more; `explain`'s problems.
    """
    async with world.session(run.team_id) as session:
        rental = await queries.get_rental(session, rental_id)
    provider = world.provider(rental.provider)
    patience = world.patience_with(rental.provider)
    machine_id = rental.provider_machine_id or ""
    try:
        await provider.stop(machine_id)
        await _see_stopped(provider, machine_id, patience)
    except MachineAbsent as error:
        raise HostLost("The provider does not know the machine any more.") from error
    except ProviderError as error:
        raise explain(error) from error
    async with world.session(run.team_id) as session:
        await queries.close_spans(session, rental_id, ["gpu"], world.clock.now())
    return {"stopped": True}


async def _see_stopped(provider: Provider, machine_id: str, patience: Patience) -> None:
    cut_since: float | None = None
    absent = 0
    while True:
        machine = await provider.get(machine_id)
        if machine is not None and machine.state in (MachineState.STOPPED, MachineState.PREEMPTED):
            return
        cut = machine is not None and machine.state is MachineState.UNREACHABLE
        cut_since = (cut_since or time.monotonic()) if cut else None
        if cut_since is not None and time.monotonic() - cut_since >= patience.lost_seconds:
            return
        absent = absent + 1 if machine is None else 0
        if absent > 2:
            raise HostLost("The machine vanished from the provider while it was stopped.")
        await asyncio.sleep(patience.poll_seconds)


async def start(run: Run, world: World, rental_id: str) -> dict[str, Any]:
    """Ask a stopped machine to start.

    Errors: NoCapacityNow (and the queued start is cancelled, so that it never runs later); HostLost where the provider
    has no such machine any more; `explain`'s problems.
    """
    async with world.session(run.team_id) as session:
        rental = await queries.get_rental(session, rental_id)
    provider = world.provider(rental.provider)
    machine_id = rental.provider_machine_id or ""
    try:
        try:
            await provider.start(machine_id)
        except NoCapacity:
            await provider.cancel_start(machine_id)
            raise
    except MachineAbsent as error:
        raise HostLost("The provider does not know the machine any more.") from error
    except ProviderError as error:
        raise explain(error) from error
    async with world.session(run.team_id) as session:
        await queries.open_span(
            session,
            team_id=run.team_id,
            rental_id=rental_id,
            kind="gpu",
            rate_hour_nano=offer_from_json(rental.offer).gpu_hour_nano,
            at=world.clock.now(),
        )
    return {"started": True}
