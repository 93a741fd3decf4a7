"""Does what a plan's people do, in each team at once, as the API does it."""

import asyncio
import hashlib
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psycopg
from tests.simulation.arena import Arena
from tests.simulation.plan import Act, Life, Plan
from tests.simulation.script import tell

from dumont.core import Problem
from dumont.db import Database, psycopg_url, set_team
from dumont.durable import Operation, cancel_operation, get_operation
from dumont.hibernation import service as hibernation
from dumont.instances import Instance, find_instance
from dumont.instances import service as instances
from dumont.instances.moves import destroy_at_once

MINUTES = 0.05
WAIT_MINUTES = 0.03
END_SECONDS = 120.0
BUSY_SECONDS = 120.0
FINAL = ("succeeded", "failed", "cancelled")
Files = dict[str, str]


@dataclass
class Thing:
    """An instance of a plan: `files` is what its workspace must hold, by path and hash; None: nothing was written."""

    number: int
    life: Life
    instance_id: str = ""
    files: Files | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    operations: list[str] = field(default_factory=list)


class Driver:
    """The people of one seed."""

    def __init__(self, arena: Arena, plan: Plan, log: Path) -> None:
        self.arena, self.plan, self.log = arena, plan, log
        self.things = [Thing(number, life) for number, life in enumerate(plan.lives)]
        self.counts: Counter[str] = Counter()
        self._database = Database(arena.urls.worker, pool_size=3, application_name="people")
        self._reader: psycopg.AsyncConnection[Any] | None = None

    async def __aenter__(self) -> "Driver":
        url = psycopg_url(self.arena.urls.owner)
        self._reader = await psycopg.AsyncConnection.connect(url, autocommit=True)
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._reader is not None
        await self._reader.close()
        await self._database.close()

    async def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Read rows of all teams."""
        assert self._reader is not None
        found = await self._reader.execute(statement.encode(), values)
        return await found.fetchall() if found.description else []

    async def live(self) -> None:
        """Let every instance live its life."""
        await asyncio.gather(*(self._live(thing) for thing in self.things))

    async def _live(self, thing: Thing) -> None:
        for act in thing.life.acts:
            operation_id = await self.begin(thing, act)
            if operation_id is None:
                continue
            if act.late:
                await self.rows("UPDATE operation SET deadline_at = now() WHERE id = %s", operation_id)
            if act.cancel_at:
                await self._cancel(thing, operation_id, act.cancel_at)
            if not act.hasty:
                await self.end_of(thing, operation_id)
                await self.write(thing)

    async def begin(self, thing: Thing, act: Act) -> str | None:
        """Begin an act; None where the state of the instance does not allow it, or it has nothing to do."""
        until = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                operation = await self._ask(thing, act.verb)
                break
            except Problem as problem:
                if problem.code == "operation-in-progress" and time.monotonic() < until:
                    await asyncio.sleep(0.1)
                    continue
                self._tell(thing, f"{act.verb} refused: {problem.code}")
                self.counts[f"{act.verb} refused"] += 1
                return None
        if operation is None:
            return None
        self._tell(thing, f"{act} begun: {operation.id}")
        if operation.id not in thing.operations:
            thing.operations.append(operation.id)
        return operation.id

    async def _ask(self, thing: Thing, verb: str) -> Operation | None:
        person = self.arena.people[thing.life.team]
        async with self._database.begin() as session:
            await set_team(session, person.team_id)
            if verb == "launch":
                instance, operation = await instances.launch(
                    session,
                    team_id=person.team_id,
                    user_id=person.user_id,
                    offer=self.arena.offers[thing.number],
                    wishes=_terms(f"thing {thing.number}"),
                    start_timeout_minutes=MINUTES,
                    now=datetime.now(timezone.utc),
                )
                thing.instance_id = instance.id
                return operation
            instance = await find_instance(session, thing.instance_id, lock=True)
            return await _VERBS[verb](session, instance, person.user_id)

    async def _cancel(self, thing: Thing, operation_id: str, step: str) -> None:
        until = time.monotonic() + END_SECONDS
        while time.monotonic() < until:
            (found,) = await self.rows("SELECT status, current_step FROM operation WHERE id = %s", operation_id)
            if found[0] in FINAL:
                return
            if str(found[1]).partition(" (")[0] == step:
                break
            await asyncio.sleep(0.03)
        async with self._database.begin() as session:
            await set_team(session, self.arena.people[thing.life.team].team_id)
            operation = await get_operation(session, operation_id)
            assert operation is not None
            try:
                await cancel_operation(session, operation)
                self._tell(thing, f"cancelled {operation_id}")
            except Problem as problem:
                self._tell(thing, f"cancel refused: {problem.code}")

    async def end_of(self, thing: Thing, operation_id: str) -> str:
        """Wait for the end of an operation; the judge complains where it does not come."""
        until = time.monotonic() + END_SECONDS
        status = ""
        while time.monotonic() < until and status not in FINAL:
            await asyncio.sleep(0.15)
            ((status, code),) = await self.rows(
                "SELECT status, problem->>'code' FROM operation WHERE id = %s", operation_id
            )
        self._tell(thing, f"{operation_id} {status} {code or ''}")
        return str(status)

    async def write(self, thing: Thing) -> None:
        """Write new files into the workspace of a running machine, whose folder lies on this computer."""
        found = await self.rows(
            "SELECT r.workspace_root FROM instance i JOIN rental r ON r.id = i.rental_id "
            "WHERE i.id = %s AND i.status = 'running'",
            thing.instance_id,
        )
        if not found or not found[0][0]:
            return
        root = Path(found[0][0])
        version = len(thing.operations)
        for name in ("note", "deep/er/data.bin"):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{thing.instance_id} {version} {name}\n".encode() * (100 * version + 7))
        thing.files = files_of(root)
        thing.sizes = {name: (root / name).stat().st_size for name in thing.files}
        self._tell(thing, f"wrote version {version}")

    def _tell(self, thing: Thing, text: str) -> None:
        tell(str(self.log), f"people\tinstance {thing.number} of team {thing.life.team}\t{text}")


def files_of(root: Path) -> Files:
    """Hash the files of a workspace, but for our own."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if path.is_file() and not name.parts[0].startswith(".dumont"):
            found[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return found


def _terms(label: str) -> dict[str, Any]:
    return {
        "image": "ubuntu:22.04",
        "disk_gb": 10.0,
        "label": label,
        "env": {},
        "onstart_cmd": None,
        "max_price_hour_nano": None,
    }


async def _pause(session: Any, instance: Instance, user: str) -> Operation | None:
    return await instances.pause(session, instance, user_id=user)


async def _resume(session: Any, instance: Instance, user: str) -> Operation | None:
    return await instances.resume(
        session,
        instance,
        wait_minutes=WAIT_MINUTES,
        start_timeout_minutes=MINUTES,
        user_id=user,
        now=datetime.now(timezone.utc),
    )


async def _reboot(session: Any, instance: Instance, user: str) -> Operation | None:
    return await instances.reboot(session, instance, start_timeout_minutes=MINUTES, user_id=user)


async def _hibernate(session: Any, instance: Instance, user: str) -> Operation | None:
    return await hibernation.hibernate(session, instance, then="keep", user_id=user)


async def _hibernate_and_destroy(session: Any, instance: Instance, user: str) -> Operation | None:
    return await hibernation.hibernate(session, instance, then="destroy", user_id=user)


async def _wake(session: Any, instance: Instance, user: str, *, elsewhere: bool = False) -> Operation | None:
    return await hibernation.wake(
        session,
        instance,
        offer=None,
        elsewhere=elsewhere,
        accept_loss=False,
        max_price_hour_nano=None,
        start_timeout_minutes=MINUTES,
        user_id=user,
        now=datetime.now(timezone.utc),
    )


async def _wake_elsewhere(session: Any, instance: Instance, user: str) -> Operation | None:
    return await _wake(session, instance, user, elsewhere=True)


async def _destroy(session: Any, instance: Instance, user: str) -> Operation | None:
    at_once = await destroy_at_once(session, instance.team_id, instance.id, user_id=user)
    return at_once or await instances.destroy(session, instance, user_id=user)


_VERBS = {
    "pause": _pause,
    "resume": _resume,
    "reboot": _reboot,
    "hibernate": _hibernate,
    "hibernate and destroy": _hibernate_and_destroy,
    "wake": _wake,
    "wake elsewhere": _wake_elsewhere,
    "destroy": _destroy,
}
