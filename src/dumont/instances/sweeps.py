"""Compare what a provider lists with our rows: machines that no row owns, rentals that nobody finishes, late starts.

Only machines under a label of ours are ever touched. Those without a label, with another's, or with a label of our form
that no row of this installation knows are another's: they are written down and told of, and nothing else.
"""

from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import Problem
from dumont.db import publish, set_sweep
from dumont.durable import Operation, Retry, Run, workflow
from dumont.instances import machines, queries, service, watch_queries
from dumont.instances.acquire import PATIENT
from dumont.instances.model import Instance, OperationInProgress, Rental, Status
from dumont.instances.returns import take_back
from dumont.instances.sights import Absences, Sight, is_absent, see, unchanged
from dumont.instances.watch_queries import KnownLabel, OpenRental, Stray
from dumont.instances.world import World
from dumont.market import offer_from_json
from dumont.providers import Machine, MachineState, ProviderError

log = structlog.get_logger()
PREFIX = "dumont-"
_ASLEEP = frozenset({Status.PAUSED, Status.HIBERNATED})
_STARTED = frozenset({MachineState.RUNNING, MachineState.WAITING_FOR_GPU})


class Sweep:
    """The sweep of one worker; remembers between its rounds what was absent once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._absent = Absences()

    async def run(self) -> dict[str, Any]:
        """Sweep once over every provider; returns how many machines were listed, and what was found by kind."""
        found: dict[str, Any] = {"at": self._world.clock.now().isoformat(), "machines": {}, "strays": {}}
        found |= {"unknown": [], "released": 0}
        found["destroys_begun"] = await finish_destroying(self._world)
        for provider in self._world.providers:
            sight = await see(self._world, provider)
            if sight is None:
                found["unknown"].append(provider)
                continue
            async with self._world.database.begin() as session:
                await set_sweep(session)
                rows = [row for row in await watch_queries.open_rentals(session) if row.provider == provider]
            found["machines"][provider] = len(sight)
            for stray in await self._strays(provider, sight, rows):
                found["strays"][stray.kind] = found["strays"].get(stray.kind, 0) + 1
            for row in rows:
                found["released"] += await self._finish(row, sight)
                await self._stop_unasked(row, sight)
        return found

    async def _strays(self, provider: str, sight: Sight, rows: list[OpenRental]) -> list[Stray]:
        """Find machines that no row owns, deal with those under our labels, and write all of them down."""
        owned = {row.provider_machine_id for row in rows}
        strange = [machine for machine in sight.values() if machine.id not in owned]
        async with self._world.database.begin() as session:
            await set_sweep(session)
            known = await watch_queries.by_label(session, [m.label for m in strange if m.label])
        open_rows = {row.label: row for row in rows}
        found = []
        for machine in strange:
            label = known.get(machine.label or "")
            if label is not None and _is_missed(provider, machine, label):
                await take_back(self._world, label, machine)
                continue
            kind = _kind(provider, machine, label, open_rows.get(machine.label or ""))
            if kind is None:
                continue
            ours = kind in ("late", "unfinished") or (kind == "twin" and _beside_its_own(label, sight))
            action = await self._destroy(provider, machine) if ours else "left" if kind == "twin" else "reported"
            if action is not None:
                found.append(Stray(machine, provider, kind, action, label))
                await self._note(found[-1])
        return found

    async def _note(self, stray: Stray) -> None:
        """Write a stray down; whoever sees it first publishes it, so that nothing is done silently."""
        async with self._world.database.begin() as session:
            await set_sweep(session)
            if not await watch_queries.note_stray(session, stray, self._world.clock.now()):
                return
            data = {
                "provider": stray.provider,
                "label": stray.machine.label,
                "kind": stray.kind,
                "action": stray.action,
                "state": stray.machine.state.value,
            }
            team_id = stray.known.team_id if stray.known else None
            await publish(
                session,
                topic="machine.stray",
                resource_type="machine",
                resource_id=stray.machine.id,
                team_id=team_id,
                data=data,
            )
        log.error("a machine that no row owns", machine=stray.machine.id, **data)

    async def _destroy(self, provider: str, machine: Machine) -> str | None:
        """Destroy a machine that still carries the label by which it was found; returns what was done.

        None: it is gone, for the listing was older than its release.
        """
        try:
            again = await self._world.providers[provider].get(machine.id)
            if again is None:
                return None
            if again.label != machine.label:
                return "left"
            await self._world.providers[provider].destroy(machine.id)
        except ProviderError as error:
            log.warning("a stray machine could not be destroyed yet", machine=machine.id, error=str(error))
            return "left"
        return "destroyed"

    async def _finish(self, row: OpenRental, sight: Sight) -> bool:
        """Give back the machine of a rental that nobody works on any more; true once it is seen gone and released."""
        reason = _forsaken(row, self._world.patience_with(row.provider).doubt_seconds)
        if reason is None:
            self._absent.forget(row.rental_id)
            return False
        machine = _machine_of(row, sight)
        if machine is not None:
            self._absent.forget(row.rental_id)
            if row.provider_machine_id is not None:
                action = "destroyed" if await self._destroy_own(row, machine) else "left"
                known = KnownLabel(
                    row.rental_id, row.team_id, row.instance_id, row.provider, row.label, row.state, machine.id
                )
                await self._note(Stray(machine, row.provider, "superseded", action, known))
            return False
        if row.provider_machine_id and not await is_absent(self._world, row.provider, row.provider_machine_id):
            self._absent.forget(row.rental_id)
            return False
        patience = self._world.patience_with(row.provider)
        if row.state != "intended" and not self._absent.again(row.rental_id, patience.absence_seconds):
            return False
        await self._release(row, reason)
        return True

    async def _destroy_own(self, row: OpenRental, machine: Machine) -> bool:
        """Destroy a machine that we know by its number, whatever a person wrote into its label."""
        try:
            await self._world.providers[row.provider].destroy(machine.id)
        except ProviderError as error:
            log.warning("a machine could not be given back yet", machine=machine.id, error=str(error))
            return False
        return True

    async def _release(self, row: OpenRental, reason: str) -> None:
        self._absent.forget(row.rental_id)
        async with self._world.session(row.team_id) as session:
            await queries.release_rental(session, row.rental_id, reason, self._world.clock.now())
        log.warning("a rental that nobody worked on was released", label=row.label, reason=reason)

    async def _stop_unasked(self, row: OpenRental, sight: Sight) -> None:
        """Begin to stop a machine that was started behind our back while its instance is asleep: it costs."""
        machine = _machine_of(row, sight)
        if machine is None or machine.state not in _STARTED or row.status not in _ASLEEP or row.busy or not row.held:
            return
        if not await self._is_started(row):
            return
        with suppress(OperationInProgress):  # somebody has begun to work on it in this moment
            async with self._world.session(row.team_id) as session:
                instance = await unchanged(session, row)
                if instance is None:
                    return
                rental = await queries.get_rental(session, row.rental_id)
                await begin_stopping(session, instance, rental, self._world.clock.now())
        log.error("a machine runs though its instance is asleep", instance_id=row.instance_id, machine=machine.id)

    async def _is_started(self, row: OpenRental) -> bool:
        """Ask anew, for the listing is older than the row: its instance may have gone to sleep in between."""
        try:
            machine = await self._world.providers[row.provider].get(row.provider_machine_id or "")
        except ProviderError as error:
            log.info("provider gave no certain answer", machine=row.provider_machine_id, error=str(error))
            return False
        return machine is not None and machine.state in _STARTED


async def finish_destroying(world: World) -> int:
    """Begin again to destroy what is still destroying after its operation gave up: it may still cost money."""
    async with world.database.begin() as session:
        await set_sweep(session)
        left = await watch_queries.left_destroying(session)
    for team_id, instance_id in left:
        with suppress(OperationInProgress):  # somebody asked again in this moment
            async with world.session(team_id) as session:
                instance = await service.find_instance(session, instance_id, lock=True)
                if instance.status != Status.DESTROYING:
                    continue
                await service.start_destroying(session, instance, reason="sweep", user_id=None)
    return len(left)


async def begin_stopping(session: AsyncSession, instance: Instance, rental: Rental, now: datetime) -> Operation:
    """Begin to stop a machine that runs though its locked instance is asleep; it costs and writes from now on.

    Errors: OperationInProgress.
    """
    operation = await service.start(
        session,
        instance,
        "instances.stop_unasked",
        {"rental_id": rental.id},
        deadline=timedelta(minutes=30),
        requested_by=None,
        cancellable=False,
    )
    instance.disk_newer = True
    rate = offer_from_json(rental.offer).gpu_hour_nano
    await queries.open_span(
        session, team_id=instance.team_id, rental_id=rental.id, kind="gpu", rate_hour_nano=rate, at=now
    )
    await publish(
        session,
        topic="instance.changed_outside",
        resource_type="instance",
        resource_id=instance.id,
        team_id=instance.team_id,
        operation_id=operation.id,
        data={"provider": rental.provider, "provider_machine_id": rental.provider_machine_id, "what": "started"},
    )
    return operation


async def stop_unasked_failed(session: AsyncSession, run: Run, problem: Problem) -> None:
    """Leave the instance as it is; the next sweep begins again where the machine still runs."""


@workflow("instances.stop_unasked", kind="pause", steps=("stop",), on_failure=stop_unasked_failed)
async def stop_unasked(run: Run, world: World) -> dict[str, Any]:
    """Stop a machine that runs though its instance is asleep, and take back a start that waits for a GPU."""
    rental_id = str(run.input["rental_id"])
    patient = Retry(on=PATIENT.on, for_seconds=float("inf"), most_seconds=15.0)
    await run.call("stop", partial(machines.stop, run, world, rental_id), retry=patient)
    return {"rental_id": rental_id}


def _kind(provider: str, machine: Machine, known: KnownLabel | None, row: OpenRental | None) -> str | None:
    """Say what a machine is that no row holds by its number; None: it is going, or somebody works on it."""
    if known is None or known.provider != provider:
        return "other-installation" if (machine.label or "").startswith(PREFIX) else "foreign"
    if machine.state is MachineState.STOPPING:
        return None
    if known.state == "released":
        return "late"
    if row is None or row.busy:
        return None
    return "unfinished" if known.provider_machine_id is None else "twin"


def _is_missed(provider: str, machine: Machine, known: KnownLabel) -> bool:
    """Whether this is the very machine that an instance was believed to have lost."""
    return known.missed and (known.provider, known.provider_machine_id) == (provider, machine.id)


def _beside_its_own(known: KnownLabel | None, sight: Sight) -> bool:
    """Whether the machine that a rental holds is listed under its label, so that another one there is a second."""
    own = sight.get(known.provider_machine_id or "") if known is not None else None
    return own is not None and known is not None and own.label == known.label


def _forsaken(row: OpenRental, doubt_seconds: float) -> str | None:
    """Say why nobody will finish a rental; None where somebody does, or it is the instance's own machine."""
    if row.busy:
        return None
    if row.state in ("intended", "asked"):
        return "its operation ended without it" if row.quiet_seconds >= doubt_seconds else None
    return None if row.held else "the instance lives on another machine"


def _machine_of(row: OpenRental, sight: Sight) -> Machine | None:
    if row.provider_machine_id is not None:
        return sight.get(row.provider_machine_id)
    return next((machine for machine in sight.values() if machine.label == row.label), None)
