"""What we do with one rented machine: rent it by its label, see it up, log in, stop it, see it gone.

Every function may be called again after a crash and finds out what is already done. Absence is believed only when
seen twice through calls that worked; errors and time-outs mean unknown.
"""

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import func

from dumont.core import money_document
from dumont.durable import Run
from dumont.instances import queries
from dumont.instances.model import CreationTimeout, HostLost, Rental, RentInDoubt
from dumont.instances.shell import knock
from dumont.instances.world import Patience, World
from dumont.market import OfferTaken, PriceMoved, ProviderSaidNo, explain, offer_from_json, offer_to_json
from dumont.providers import (
    Machine,
    MachineAbsent,
    MachineState,
    NoCapacity,
    Offer,
    OfferQuery,
    Provider,
    ProviderError,
    ProviderUnreachable,
    RentRequest,
)

log = structlog.get_logger()
UNASKED_RISE = 1.02
"""How much dearer an offer may have become since it was chosen where no limit was set: rounding, not a rise."""


async def rent(run: Run, world: World, rental_id: str, wish: dict[str, Any]) -> dict[str, Any]:
    """Rent the machine that a rental row intends, at most once per label, and write down which one it is.

    Errors: OfferTaken, PriceMoved, RentInDoubt (release the rental and try under a new label), `explain`'s problems.
    """
    async with world.session(run.team_id) as session:
        rental = await queries.get_rental(session, rental_id)
        already_asked = rental.state == "asked"
    if rental.provider_machine_id is not None:
        return {"machine": rental.provider_machine_id}
    provider = world.provider(rental.provider)
    try:
        machine_id = await _found_by_label(run, world, provider, rental, patient=already_asked)
        if machine_id is None and already_asked:
            raise RentInDoubt("The rent was interrupted, and no machine of its label appeared. A new try is safe.")
        if machine_id is None:
            machine_id = await _ask(run, world, provider, rental, wish)
    except ProviderError as error:
        raise explain(error) from error
    await _rented(run, world, rental, machine_id)
    return {"machine": machine_id}


async def _ask(run: Run, world: World, provider: Provider, rental: Rental, wish: dict[str, Any]) -> str:
    await provider.ensure_key(world.ssh.public_key)
    offer = await _fresh(provider, offer_from_json(rental.offer), wish)
    async with world.session(run.team_id) as session:
        await queries.change_rental(session, rental.id, state="asked", offer=offer_to_json(offer))
    request = RentRequest(
        label=rental.label,
        offer=offer,
        image=wish["image"],
        disk_gb=wish["disk_gb"],
        env=wish["env"],
        onstart=wish["onstart_cmd"],
    )
    try:
        return await provider.rent(request)
    except ProviderUnreachable as error:
        raise RentInDoubt(f"The provider's answer was lost: {error}") from error


async def _fresh(provider: Provider, offer: Offer, wish: dict[str, Any]) -> Offer:
    query = OfferQuery(
        num_gpus=offer.num_gpus,
        machine_id=offer.machine_id,
        machine_type=offer.machine_type,
        disk_gb=wish["disk_gb"],
    )
    found = [candidate for candidate in await provider.offers(query) if candidate.machine_id == offer.machine_id]
    if not found:
        raise OfferTaken("The offer was rented by somebody else. Search again and choose another one.")
    _check_price(found[0], offer, wish["max_price_hour_nano"])
    return found[0]


def _check_price(fresh: Offer, chosen: Offer, limit: int | None) -> None:
    """Refuse a price above the limit; without a limit, one that has risen since the offer was chosen.

    The disk's part follows the wanted size and is not a rise. Errors: PriceMoved.
    """
    highest = round(chosen.gpu_hour_nano * UNASKED_RISE) + fresh.disk_hour_nano if limit is None else limit
    if fresh.price_hour_nano > highest:
        raise PriceMoved(
            "The offer costs more now than when it was chosen. Choose again, or set the most that you would pay.",
            price_hour=money_document(fresh.price_hour_nano),
            price_hour_max=money_document(highest),
        )


async def _found_by_label(run: Run, world: World, provider: Provider, rental: Rental, *, patient: bool) -> str | None:
    patience = world.patience_with(rental.provider)
    until = time.monotonic() + (patience.doubt_seconds if patient else 0.0)
    while True:
        machines = sorted(await provider.find_by_label(rental.label), key=lambda machine: machine.id)
        if machines:
            await _destroy_twins(provider, rental, machines[1:])
            return machines[0].id
        if time.monotonic() >= until:
            return None
        await run.check()
        await asyncio.sleep(patience.poll_seconds)


async def _rented(run: Run, world: World, rental: Rental, machine_id: str) -> None:
    now = world.clock.now()
    async with world.session(run.team_id) as session:
        offer = offer_from_json((await queries.get_rental(session, rental.id)).offer)
        await queries.change_rental(session, rental.id, state="rented", provider_machine_id=machine_id, rented_at=now)
        await queries.open_span(
            session,
            team_id=run.team_id,
            rental_id=rental.id,
            kind="disk",
            rate_hour_nano=offer.disk_hour_nano,
            at=now,
        )


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


async def release(run: Run, world: World, rental_id: str, reason: str) -> dict[str, Any]:
    """Give a machine back and see it gone twice; then, and only then, the rental is released.

    Errors: the problems of `explain` while the provider gives no certain answer; call again.
    """
    async with world.session(run.team_id) as session:
        rental = await queries.get_rental(session, rental_id)
    if rental.state == "released":
        return {"released": True}
    provider = world.provider(rental.provider)
    ended = world.clock.now()
    try:
        machine_id = rental.provider_machine_id
        if machine_id is None and rental.state == "asked":
            machine_id = await _found_by_label(run, world, provider, rental, patient=True)
        if machine_id is not None:
            ended = await _destroy_and_see(run, world, provider, rental, machine_id)
    except ProviderError as error:
        raise explain(error) from error
    async with world.session(run.team_id) as session:
        await queries.close_spans(session, rental_id, ["gpu", "disk"], ended)
        await queries.change_rental(
            session,
            rental_id,
            state="released",
            released_at=ended,
            released_real_at=func.clock_timestamp(),
            reason=reason,
        )
    return {"released": True}


async def _destroy_twins(provider: Provider, rental: Rental, twins: Sequence[Machine]) -> None:
    """Destroy machines that share a label with one that we hold or have given up: a rent was answered twice."""
    for twin in twins:
        log.error("a second machine has the label of a rental", label=rental.label, machine=twin.id)
        await provider.destroy(twin.id)


async def _destroy_and_see(run: Run, world: World, provider: Provider, rental: Rental, machine_id: str) -> datetime:
    """Destroy until the machine is seen gone twice; returns the product time at which it stopped costing."""
    patience = world.patience_with(rental.provider)
    await provider.destroy(machine_id)
    ended = world.clock.now()
    absent_since: float | None = None
    while True:
        machine = await provider.get(machine_id)
        now = time.monotonic()
        if machine is not None:
            absent_since = None
            await provider.destroy(machine_id)
            ended = world.clock.now()
        elif absent_since is None:
            absent_since = now
        elif now - absent_since >= patience.absence_seconds:
            twins = await provider.find_by_label(rental.label)
            if not twins:
                return ended
            absent_since = None
            await _destroy_twins(provider, rental, twins)
        await run.check()
        await asyncio.sleep(min(patience.poll_seconds, patience.absence_seconds))
