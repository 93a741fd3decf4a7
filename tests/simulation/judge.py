"""What must hold when the faults are over: bills, machines, workspaces, operations and what is not ours."""

import asyncio
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.simulation.drive import Driver, Thing, files_of
from tests.support.world import SECRET

from dumont.core import derive_key
from dumont.sandbox import LedgerLine
from dumont.snapshots import Vaults
from dumont.vault import KeyRing

SETTLED = frozenset({"running", "interrupted", "offline", "paused", "hibernated", "destroyed", "failed"})
CHANGE_SECONDS = 2.0
"""How long our books may be behind the marketplace's at each change of a machine's state, when nothing else happens."""
DEATH_SECONDS = 3.0
"""How much longer for each death of a process: nobody looks, and a dead marketplace bills nothing."""
RATE_PART = 0.001
DEAF_LOOKS = 2
"""How many looks for late operations may pass one over, because somebody has its row locked."""


@dataclass(frozen=True)
class _Rental:
    label: str
    state: str
    machine: str | None
    instance_id: str
    released_at: float | None


@dataclass(frozen=True)
class _Span:
    label: str
    kind: str
    rate: int
    start: float
    end: float | None


class Judge:
    """Compares the marketplace's books and disks with ours; every complaint says what differs."""

    def __init__(self, driver: Driver, strangers: dict[int, str | None]) -> None:
        self._driver, self._strangers = driver, strangers
        self._arena = driver.arena

    async def complaints(self) -> list[str]:
        """Look at everything once."""
        self._now, self._lines, self._machines = await asyncio.to_thread(self._arena.patiently, _books)
        self._rentals = await self._read_rentals()
        self._spans = await self._read_spans()
        statuses = dict(await self._driver.rows("SELECT id, status FROM instance"))
        return [
            *self._bills(),
            *self._singles(),
            *self._releases(),
            *self._times(),
            *self._foreign(),
            *(f"{self._name(one)} is {status}" for one, status in sorted(statuses.items()) if status not in SETTLED),
            *await self._operations(),
            *await self._workspaces(),
        ]

    async def _read_rentals(self) -> list[_Rental]:
        return [
            _Rental(*row)
            for row in await self._driver.rows(
                "SELECT label, state, provider_machine_id, instance_id, extract(epoch FROM released_at)::float "
                "FROM rental ORDER BY id"
            )
        ]

    async def _read_spans(self) -> list[_Span]:
        return [
            _Span(*row)
            for row in await self._driver.rows(
                "SELECT r.label, s.kind, s.rate_hour_nano, extract(epoch FROM s.from_at)::float, "
                "extract(epoch FROM s.to_at)::float FROM rental_span s JOIN rental r ON r.id = s.rental_id"
            )
        ]

    def _name(self, instance_id: str) -> str:
        found = next((t for t in self._driver.things if t.instance_id == instance_id), None)
        return f"instance {found.number if found else '?'} ({instance_id})"

    def _ours(self) -> list[LedgerLine]:
        return [line for line in self._lines if line.instance_id not in self._strangers]

    def _bills(self) -> list[str]:
        """Machines that are billed == machines that our rows say are billed, with the same rates."""
        living = [line for line in self._ours() if line.destroyed_at is None]
        billed = {str(line.instance_id) for line in living}
        rented = {str(rental.machine) for rental in self._rentals if rental.state == "rented"}
        found = [f"machine {one} ({self._label(one)}) is billed and no row says so" for one in sorted(billed - rented)]
        found += [f"machine {one} stands in our rows and is not billed" for one in sorted(rented - billed)]
        found += [
            f"rental {r.label} is still {r.state}" for r in self._rentals if r.state not in ("rented", "released")
        ]
        theirs = {(str(x.label), kind): rate for x in living for kind, rate in _rates(x).items()}
        ours = {(span.label, span.kind): span.rate for span in self._spans if span.end is None}
        for key in sorted({*theirs, *ours}):
            a, b = theirs.get(key, 0), ours.get(key, 0)
            if abs(a - b) > RATE_PART * max(a, b) + 1:
                found.append(f"{key[1]} of {key[0]} costs {a} nanodollars an hour there and {b} in our books")
        return found

    def _label(self, machine: str) -> str | None:
        return next((line.label for line in self._lines if str(line.instance_id) == machine), None)

    def _singles(self) -> list[str]:
        """One machine at most was ever made under a label, and one at most lives for an instance."""
        made = Counter(line.label for line in self._ours())
        found = [f"{count} machines were made under {label}" for label, count in made.items() if count > 1]
        instance = {rental.label: rental.instance_id for rental in self._rentals}
        living = Counter(instance.get(str(x.label), "nobody") for x in self._ours() if x.destroyed_at is None)
        return found + [f"{self._name(one)} has {count} living machines" for one, count in living.items() if count > 1]

    def _releases(self) -> list[str]:
        """A machine was gone when it was called released; those that rose again are the sweep's."""
        risen = self._struck("zombie")
        lines = {str(line.instance_id): line for line in self._lines}
        found = []
        for rental in self._rentals:
            line = lines.get(rental.machine or "")
            if rental.state != "released" or line is None or f"instance:{self._count(line)}" in risen:
                continue
            if line.destroyed_at is None or line.destroyed_at > (rental.released_at or 0) + 0.05:
                found.append(f"{rental.label} was called released at {rental.released_at}, gone at {line.destroyed_at}")
        return found

    def _count(self, line: LedgerLine) -> int:
        return line.instance_id - min(one.instance_id for one in self._lines) + 1

    def _struck(self, fault: str) -> set[str]:
        return {parts[3].split()[0] for parts in _log(self._driver.log) if parts[1:3] == ["fault", fault]}

    def _times(self) -> list[str]:
        """Each machine cost as long in our books as in theirs, but for the time in which a change is seen."""
        deaths = sum(1 for parts in _log(self._driver.log) if parts[1] == "death")
        found = []
        for line in self._ours():
            for kind in ("gpu", "disk"):
                theirs = sum((s["to"] or self._now) - s["from"] for s in line.spans if s[f"{kind}_rate_nanousd_hour"])
                mine = [span for span in self._spans if (span.label, span.kind) == (line.label, kind)]
                ours = sum((span.end or self._now) - span.start for span in mine)
                most = CHANGE_SECONDS * max(2, len(line.spans)) + DEATH_SECONDS * deaths
                if abs(ours - theirs) > most:
                    books = f"{ours:.2f} s in our books and {theirs:.2f} s in theirs"
                    found.append(f"{kind} of {line.label} cost {books}, where {most:.0f} s may lie between")
        return found

    def _foreign(self) -> list[str]:
        """What is not ours is as it was: there, running, under its label."""
        found = []
        for number, label in self._strangers.items():
            machine = self._machines.get(number)
            if machine is None:
                found.append(f"the stranger {number} ({label}) is gone")
            elif (machine["label"], machine["intended"]) != (label, "running"):
                found.append(f"the stranger {number} ({label}) is {machine['label']}, {machine['intended']}")
        return found

    async def _operations(self) -> list[str]:
        rows = await self._driver.rows(
            "SELECT id, kind, status, instance_id, alarmed_at IS NOT NULL, "
            "extract(epoch FROM deadline_at)::float, "
            "extract(epoch FROM coalesce(finished_at, clock_timestamp()))::float FROM operation"
        )
        looks = [(float(parts[2]), float(parts[0])) for parts in _log(self._driver.log) if parts[1] == "alarms"]
        found = []
        for one, kind, status, instance_id, alarmed, due, ended in rows:
            if status in ("queued", "running", "cancelling"):
                found.append(f"{kind} {one} of {self._name(instance_id)} is still {status}")
            deaf = sum(due < begun and over < ended for begun, over in looks)
            if deaf > DEAF_LOOKS and not alarmed:
                found.append(f"{kind} {one} was {ended - due:.1f} s late, and {deaf} looks raised no alarm")
        return found

    async def _workspaces(self) -> list[str]:
        places = {
            row[0]: row[1:]
            for row in await self._driver.rows(
                "SELECT i.id, i.status, i.rental_id, r.workspace_root, i.workspace_id, s.status, s.manifest, "
                "s.bytes_verified FROM instance i LEFT JOIN rental r ON r.id = i.rental_id "
                "LEFT JOIN snapshot s ON s.id = i.last_snapshot_id"
            )
        }
        found = []
        for thing in self._driver.things:
            if thing.files is not None and places[thing.instance_id][0] not in ("destroyed", "destroying"):
                found += await asyncio.to_thread(self._workspace, thing, *places[thing.instance_id])
        return found

    def _workspace(
        self,
        thing: Thing,
        status: str,
        rental_id: str | None,
        root: str | None,
        workspace_id: str,
        state: str | None,
        manifest: str | None,
        verified: int | None,
    ) -> list[str]:
        """A workspace lies whole on its machine, or in a snapshot that was verified and can be read."""
        name = f"the workspace of {self._name(thing.instance_id)}, which is {status},"
        if rental_id is not None:
            held = files_of(Path(root or "/nowhere"))
            return [] if held == thing.files else [f"{name} is not as it was written on {root}: {held} {thing.files}"]
        if state != "ready" or not verified or not manifest:
            return [f"{name} has no machine and no verified snapshot ({state})"]
        keyring, gate = KeyRing(derive_key(SECRET, "vault")), derive_key(SECRET, "gate")
        repository = Vaults(self._arena.home / "vault", keyring, gate).repository(workspace_id)
        repository.verify(manifest)
        sizes = {
            entry.path.decode(): entry.size
            for entry in repository.manifest(manifest).entries
            if entry.path.decode() in (thing.files or {})
        }
        return [] if sizes == thing.sizes else [f"{name} is in a snapshot with {sizes} instead of {thing.sizes}"]


def _books(control: Any) -> tuple[float, list[LedgerLine], dict[int, dict[str, Any]]]:
    state = control.state()
    return state["now"], control.ledger(), {one["instance_id"]: one for one in state["machines"]}


def _rates(line: LedgerLine) -> dict[str, int]:
    """What a machine costs now, by kind."""
    open_spans = [span for span in line.spans if span["to"] is None]
    rates: dict[str, int] = defaultdict(int)
    for span in open_spans:
        for kind in ("gpu", "disk"):
            rates[kind] += span[f"{kind}_rate_nanousd_hour"]
    return {kind: rate for kind, rate in rates.items() if rate}


def _log(path: Path) -> list[list[str]]:
    return [[*line.split("\t"), "", "", ""] for line in path.read_text().splitlines()]
