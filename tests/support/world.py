"""A team, its instances and everything that a worker holds, over a real database, sandbox, agent and vault."""

import asyncio
import hashlib
import os
import stat
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from tests.support.api import Person, running_api
from tests.support.sandbox import SandboxProcess

from dumont.core import Settings, derive_key
from dumont.db import Database, DatabaseUrls, psycopg_url
from dumont.durable import REGISTRY
from dumont.instances import Held, Instance, Patience, Rental, World, find_instance, get_rental
from dumont.instances import service as instances
from dumont.providers import Address, Offer, OfferQuery, VastProvider
from dumont.remote import Hands, SshIdentity, connect
from dumont.snapshots import Leases, Vaults
from dumont.vault import KeyRing

SECRET = b"a secret for worlds of tests, 32"
IMPATIENT = Patience(poll_seconds=0.03, absence_seconds=0.06, doubt_seconds=0.6, lost_seconds=0.4)
DOUBT_DELAYS = (0.05, 0.15, 0.3)
Change = Callable[[World], None]


@dataclass
class Stage:
    """Where workflows are tried: `world` is the worker of now, `crash` replaces it as a restart would.

    `on_new_world` changes each new world, for faults in its parts.
    """

    urls: DatabaseUrls
    sandbox: SandboxProcess
    settings: Settings
    person: Person
    world: World
    on_new_world: Change = lambda world: None

    async def crash(self) -> None:
        """Let the worker die: its connections break without a word, what it held in memory is gone."""
        for held in self.world.held.values():
            await _break(held)
        await _close(self.world)
        self.world = _new_world(self.settings, self.urls, self.sandbox)
        self.on_new_world(self.world)

    async def close(self) -> None:
        """End the worker of now and give the marketplace its machines back."""
        for held in self.world.held.values():
            await _break(held)
        self.sandbox.control.clear_faults()
        for machine in await self.world.provider("sandbox").list():
            await self.world.provider("sandbox").destroy(machine.id)
        await _close(self.world)

    async def offers(self) -> list[Offer]:
        """Return the single-GPU offers of the kind that most machines have, cheapest first."""
        found = await self.world.provider("sandbox").offers(OfferQuery(num_gpus=1))
        machines = Counter(name for name, _ in {(offer.gpu_name, offer.machine_id) for offer in found})
        commonest = machines.most_common(1)[0][0]
        return sorted((o for o in found if o.gpu_name == commonest), key=lambda offer: offer.price_hour_nano)

    async def begin_launch(
        self, offer: Offer | None = None, *, attempts: int = 3, minutes: float | None = None, **wishes: Any
    ) -> tuple[str, str]:
        """Begin a launch as the API does and return the ids of instance and operation."""
        chosen = offer or (await self.offers())[0]
        terms: dict[str, Any] = {
            "image": "ubuntu:22.04",
            "disk_gb": 10.0,
            "label": None,
            "env": {},
            "onstart_cmd": None,
            "max_price_hour_nano": None,
            **wishes,
        }
        async with self.world.session(self.person.team_id) as session:
            instance, operation = await instances.launch(
                session,
                team_id=self.person.team_id,
                user_id=self.person.user_id,
                offer=chosen,
                wishes=terms,
                start_timeout_minutes=minutes or self.settings.start_timeout_minutes,
                now=self.world.clock.now(),
                attempts=attempts,
            )
            return instance.id, operation.id

    async def instance(self, instance_id: str) -> Instance:
        """Read an instance as it is now."""
        async with self.world.session(self.person.team_id) as session:
            return await find_instance(session, instance_id)

    async def rental(self, instance_id: str) -> Rental:
        """Read the rental that an instance holds."""
        async with self.world.session(self.person.team_id) as session:
            instance = await find_instance(session, instance_id)
            assert instance.rental_id is not None, f"the instance ({instance.status}) holds no machine"
            return await get_rental(session, instance.rental_id)

    async def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Read rows as the owner, who sees all teams."""
        return await asyncio.to_thread(self._rows, statement, values)

    def _rows(self, statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        with psycopg.connect(psycopg_url(self.urls.owner)) as connection:
            return connection.execute(statement.encode(), values).fetchall()

    async def write(self, statement: str, *values: Any) -> None:
        """Change rows as the owner."""

        def work() -> None:
            with psycopg.connect(psycopg_url(self.urls.owner)) as connection:
                connection.execute(statement.encode(), values)

        await asyncio.to_thread(work)

    @asynccontextmanager
    async def login(self, instance_id: str) -> AsyncIterator[Hands]:
        """Log in to an instance's machine over SSH."""
        rental = await self.rental(instance_id)
        assert rental.address is not None
        async with connect(Address(**rental.address), self.world.ssh, host_key=rental.host_key) as hands:
            yield hands

    async def bills(self, instance_id: str) -> "Bills":
        """Compare what the marketplace bills of an instance with what our rows say."""
        mine = await self.rows(
            "SELECT label, state, provider_machine_id FROM rental WHERE instance_id = %s", instance_id
        )
        spans = await self.rows(
            "SELECT r.label, s.kind FROM rental_span s JOIN rental r ON r.id = s.rental_id "
            "WHERE r.instance_id = %s AND s.to_at IS NULL",
            instance_id,
        )
        unlike = await self.rows(
            "SELECT s.id FROM rental_span s JOIN rental r ON r.id = s.rental_id LEFT JOIN meter m ON m.id = s.id "
            "AND (m.team_id, m.instance_id, m.rental_id, m.kind, m.rate_hour_nano, m.from_at) = "
            "(s.team_id, r.instance_id, s.rental_id, s.kind, s.rate_hour_nano, s.from_at) "
            "AND m.to_at IS NOT DISTINCT FROM s.to_at WHERE r.instance_id = %s AND m.id IS NULL",
            instance_id,
        )
        labels = {label for label, _, _ in mine}
        lines = [line for line in await asyncio.to_thread(self.sandbox.control.ledger) if line.label in labels]
        living = [line for line in lines if line.destroyed_at is None]
        return Bills(
            made=sorted(str(line.label) for line in lines),
            billed={str(line.instance_id) for line in living},
            running={str(line.instance_id) for line in living if line.running},
            rented={str(machine) for _, state, machine in mine if state == "rented"},
            unsure={label for label, state, _ in mine if state == "asked"},
            gpu_spans=sorted(label for label, kind in spans if kind == "gpu"),
            disk_spans=sorted(label for label, kind in spans if kind == "disk"),
            living_labels=sorted(str(line.label) for line in living),
            unmetered=[span for (span,) in unlike],
        )


@dataclass(frozen=True)
class Bills:
    """What is billed and what is written, of one instance. Machines by number, spans and `made` by label."""

    made: list[str]
    billed: set[str]
    running: set[str]
    rented: set[str]
    unsure: set[str]
    gpu_spans: list[str]
    disk_spans: list[str]
    living_labels: list[str]
    unmetered: list[str]

    def agree(self) -> None:
        """Fail unless the marketplace bills exactly what our rows say, and made one machine at most per label."""
        assert self.billed == self.rented, self
        assert self.unsure == set(), self
        assert len(self.made) == len(set(self.made)), f"rented twice under one label: {self}"
        assert self.disk_spans == self.living_labels, self
        assert len(self.gpu_spans) == len(self.running), self
        assert self.unmetered == [], self


@asynccontextmanager
async def staged(urls: DatabaseUrls, sandbox: SandboxProcess, home: Path) -> AsyncIterator[Stage]:
    """Make a team and the world of a worker over a sandbox; `home` may be shared by stages, which saves bundles."""
    settings = Settings(home=home, start_timeout_minutes=0.5)
    with psycopg.connect(psycopg_url(urls.owner)) as connection:
        for name in REGISTRY.definitions:
            connection.execute("INSERT INTO durable_workflow (name) VALUES (%s) ON CONFLICT DO NOTHING", [name])
    async with running_api(urls, settings=settings) as api:
        person = await api.person()
    stage = Stage(urls, sandbox, settings, person, _new_world(settings, urls, sandbox))
    try:
        yield stage
    finally:
        await stage.close()


def tree_digest(root: Path) -> str:
    """Hash a workspace: every path, kind, mode and content, but nothing of our own."""
    digest = hashlib.sha256()
    for here, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".dumont"))
        for name in sorted([*folders, *names]):
            path = Path(here) / name
            if name.startswith(".dumont"):
                continue
            facts = path.lstat()
            content = b""
            if stat.S_ISLNK(facts.st_mode):
                content = os.fsencode(path.readlink())
            elif stat.S_ISREG(facts.st_mode):
                content = path.read_bytes()
            digest.update(repr((str(path.relative_to(root)), facts.st_mode, content)).encode())
    return digest.hexdigest()


def worker_world(home: Path, worker_url: str, sandbox_url: str, sandbox_key: str) -> World:
    """Build what a worker holds, as the product does, with little patience."""
    settings = Settings(home=home, start_timeout_minutes=0.5)
    root = home / "vault"
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    provider = VastProvider("sandbox", sandbox_url, sandbox_key, doubt_delays=DOUBT_DELAYS, enforce_gaps=False)
    database = Database(worker_url, pool_size=4, application_name="test-worker")
    return World(
        database=database,
        clock=settings.clock,
        settings=settings,
        providers={"sandbox": provider},
        ssh=SshIdentity.load_or_create(home / "ssh" / "control_ed25519"),
        vaults=Vaults(root, KeyRing(derive_key(SECRET, "vault")), derive_key(SECRET, "gate"), leases=Leases(database)),
        agent_cache=home / "agent",
        patience={"sandbox": IMPATIENT},
    )


def _new_world(settings: Settings, urls: DatabaseUrls, sandbox: SandboxProcess) -> World:
    return worker_world(settings.home, urls.worker, sandbox.url, sandbox.key)


async def _break(held: Held) -> None:
    """Cut a held connection as a dying process does, then free what it holds on this side."""
    wire: Any = held.link._wire
    wire._process.get_extra_info("connection").abort()
    with suppress(Exception):
        await held.stack.aclose()


async def _close(world: World) -> None:
    for provider in world.providers.values():
        await provider.close()
    await world.database.close()
