"""See what became of machines that nobody works on: interrupted, offline, gone, stopped by others, or back again.

One listing for each provider tells; a verdict counts when the next listing, a moment later, says the same. A machine
that is missing is asked for by its number as well, and believed gone only when both said so twice. Nothing is ever
started here: a person's stop is respected, and an outbid machine comes back by itself.
"""

import asyncio
from collections.abc import Sequence
from enum import Enum
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import Problem
from dumont.db import publish, set_sweep
from dumont.instances import queries, service, watch_queries
from dumont.instances.model import GONE, Status
from dumont.instances.shell import knock
from dumont.instances.sights import Absences, Sight, is_absent, see, unchanged
from dumont.instances.watch_queries import OpenRental
from dumont.instances.world import World
from dumont.market import offer_from_json
from dumont.providers import Machine, MachineState

log = structlog.get_logger()


class Verdict(str, Enum):
    """What a listing says about a machine that should be otherwise."""

    INTERRUPTED = "interrupted"
    STOPPED = "stopped"
    ENDED = "ended"
    WAITING = "waiting"
    STARTING = "starting"
    OFFLINE = "offline"
    ABSENT = "absent"
    BACK = "back"


_TOLD = {
    Verdict.INTERRUPTED: "The provider gave the GPU of this bid to another. It comes back when the bid wins again.",
    Verdict.STOPPED: "The machine was stopped outside of Dumont. Resume it when you want it again.",
    Verdict.ENDED: "The machine's container ended by itself. Its disk is kept and costs on.",
    Verdict.WAITING: "The machine was stopped and waits for a free GPU at its provider.",
    Verdict.STARTING: "The machine is being started anew by its provider.",
    Verdict.OFFLINE: "The provider has no contact with the machine's host. It may come back with its disk.",
}
_LEADS_TO = {
    Verdict.INTERRUPTED: Status.INTERRUPTED,
    Verdict.STOPPED: Status.PAUSED,
    Verdict.ENDED: Status.INTERRUPTED,
    Verdict.WAITING: Status.INTERRUPTED,
    Verdict.STARTING: Status.INTERRUPTED,
    Verdict.OFFLINE: Status.OFFLINE,
}
_UP = frozenset({Status.RUNNING, Status.INTERRUPTED, Status.OFFLINE})
_WATCHED = _UP | {Status.PAUSED, Status.HIBERNATED, Status.FAILED}
_OF_STATE = {
    MachineState.PREEMPTED: Verdict.INTERRUPTED,
    MachineState.WAITING_FOR_GPU: Verdict.WAITING,
    MachineState.FAILED: Verdict.ENDED,
    MachineState.UNREACHABLE: Verdict.OFFLINE,
    MachineState.PROVISIONING: Verdict.STARTING,
}


def judge(row: OpenRental, machine: Machine | None) -> Verdict | None:
    """Compare what one listing says of a machine with what its instance says; None: nothing to be done."""
    if machine is None:
        return Verdict.ABSENT
    if row.status not in _UP:
        return None
    if machine.state is MachineState.RUNNING:
        return Verdict.BACK if row.status != Status.RUNNING or not row.gpu_costs else None
    if machine.state is MachineState.STOPPED:
        verdict = Verdict.INTERRUPTED if row.interruptible or machine.interruptible else Verdict.STOPPED
    else:
        found = _OF_STATE.get(machine.state)
        if found is None:
            return None
        verdict = found
    if row.status != Status.RUNNING and verdict is Verdict.STARTING:
        return None
    return verdict if _LEADS_TO[verdict].value != row.status or row.gpu_costs else None


class Losses:
    """The eyes of one worker; remembers between its looks what it has seen once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._absent = Absences()
        self._starting = Absences()

    async def look(self) -> dict[str, Any]:
        """Look once at every provider that has machines of ours; returns what changed, by verdict."""
        async with self._world.database.begin() as session:
            await set_sweep(session)
            rows = [row for row in await watch_queries.open_rentals(session) if _is_watched(row)]
        changed: dict[str, int] = {}
        for provider in sorted({row.provider for row in rows}):
            for verdict in await self._look_at(provider, [row for row in rows if row.provider == provider]):
                changed[verdict.value] = changed.get(verdict.value, 0) + 1
        return {"machines": len(rows), **changed}

    async def _look_at(self, provider: str, rows: Sequence[OpenRental]) -> list[Verdict]:
        first = await see(self._world, provider)
        if first is None:
            return []
        suspects = self._suspects(rows, first)
        if not suspects:
            return []
        await asyncio.sleep(self._world.patience_with(provider).poll_seconds)
        second = await see(self._world, provider)
        if second is None:
            return []
        again = [(row, verdict) for row, verdict in suspects if judge(row, _of(row, second)) is verdict]
        done = await asyncio.gather(*(self._act(row, verdict, _of(row, second)) for row, verdict in again))
        return [verdict for (_, verdict), acted in zip(again, done, strict=True) if acted]

    def _suspects(self, rows: Sequence[OpenRental], sight: Sight) -> list[tuple[OpenRental, Verdict]]:
        found = []
        for row in rows:
            verdict = judge(row, _of(row, sight))
            if verdict is not Verdict.ABSENT:
                self._absent.forget(row.rental_id)
            if verdict is not Verdict.STARTING:
                self._starting.forget(row.rental_id)
            if verdict is not None:
                found.append((row, verdict))
        return found

    async def _act(self, row: OpenRental, verdict: Verdict, machine: Machine | None) -> bool:
        patience = self._world.patience_with(row.provider)
        if verdict is Verdict.ABSENT or machine is None:
            absent = await is_absent(self._world, row.provider, row.provider_machine_id or "")
            if not absent:
                self._absent.forget(row.rental_id)
                return False
            return self._absent.again(row.rental_id, patience.absence_seconds) and await self._gone(row)
        if verdict is Verdict.STARTING and not self._starting.again(row.rental_id, patience.lost_seconds):
            return False
        if verdict is Verdict.BACK:
            return await self._back(row, machine)
        return await self._lost(row, verdict, machine)

    async def _lost(self, row: OpenRental, verdict: Verdict, machine: Machine) -> bool:
        """Say what became of the machine and end its GPU's cost; the disk may be newer than any snapshot."""
        async with self._world.session(row.team_id) as session:
            instance = await unchanged(session, row)
            if instance is None:
                return False
            now = self._world.clock.now()
            await queries.close_spans(session, row.rental_id, ["gpu"], now)
            instance.disk_newer = True
            target = _LEADS_TO[verdict]
            if target.value == instance.status:  # it ran, and nobody could log in before it went again
                return True
            if target is Status.PAUSED:
                instance.paused_at = now
            await service.move(session, instance, target, detail=_TOLD[verdict])
            if verdict is Verdict.STOPPED:
                await _tell(session, row, "instance.changed_outside", {"what": "stopped"})
        log.warning("a machine was lost", instance_id=row.instance_id, verdict=verdict.value, said=machine.detail)
        return True

    async def _gone(self, row: OpenRental) -> bool:
        """Release a machine that is gone; the instance keeps its snapshot and can be woken elsewhere."""
        self._absent.forget(row.rental_id)
        async with self._world.session(row.team_id) as session:
            instance = await unchanged(session, row)
            if instance is None:
                return False
            await queries.release_rental(session, row.rental_id, GONE, self._world.clock.now())
            instance.rental_id = None
            detail = "The machine is gone at its provider. " + (
                "Wake the instance to restore its last snapshot elsewhere; what was written after it is lost."
                if row.saved
                else "There is no snapshot of its workspace."
            )
            instance.status_detail = detail
            if instance.status in _UP - {Status.OFFLINE} | {Status.PAUSED}:
                await service.move(session, instance, Status.OFFLINE, detail=detail)
            else:
                instance.version += 1
            await _tell(session, row, "instance.machine_gone", {"label": row.label, "saved": row.saved})
        log.error("a machine is gone at its provider", instance_id=row.instance_id, label=row.label)
        return True

    async def _back(self, row: OpenRental, machine: Machine) -> bool:
        """Write down that a machine costs again, and call its instance running once it has answered on SSH."""
        login, distrust = None, None
        try:
            login = await knock(self._world, machine.addresses, row.host_key) if machine.addresses else None
        except Problem as problem:
            distrust = problem.detail
        async with self._world.session(row.team_id) as session:
            instance = await unchanged(session, row)
            if instance is None:
                return False
            await self._costs_again(session, row, machine)
            if instance.status == Status.RUNNING:  # only its cost had been lost sight of
                return True
            if distrust is not None and instance.status_detail != distrust:
                log.error("a machine came back and is not trusted", instance_id=row.instance_id, problem=distrust)
                instance.status_detail = distrust
                instance.version += 1
            if login is None:
                return False
            await queries.change_rental(session, row.rental_id, address=login["address"], host_key=login["host_key"])
            instance.disk_newer = False
            instance.started_at = self._world.clock.now()
            await service.move(session, instance, Status.RUNNING, detail=None)
        log.info("a machine came back", instance_id=row.instance_id)
        return True

    async def _costs_again(self, session: AsyncSession, row: OpenRental, machine: Machine) -> None:
        rate = machine.gpu_hour_nano
        if rate is None:
            rate = offer_from_json((await queries.get_rental(session, row.rental_id)).offer).gpu_hour_nano
        await queries.open_span(
            session,
            team_id=row.team_id,
            rental_id=row.rental_id,
            kind="gpu",
            rate_hour_nano=rate,
            at=self._world.clock.now(),
        )


def _is_watched(row: OpenRental) -> bool:
    return row.held and not row.busy and row.state == "rented" and row.status in _WATCHED


def _of(row: OpenRental, sight: Sight) -> Machine | None:
    return sight.get(row.provider_machine_id or "")


async def _tell(session: AsyncSession, row: OpenRental, topic: str, data: dict[str, Any]) -> None:
    await publish(
        session,
        topic=topic,
        resource_type="instance",
        resource_id=row.instance_id,
        team_id=row.team_id,
        data={"provider": row.provider, "provider_machine_id": row.provider_machine_id, **data},
    )
