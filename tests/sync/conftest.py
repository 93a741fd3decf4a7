"""A real restic, and for each module a database, a sandbox and one running instance with a worker's world around it."""

import asyncio
import shutil
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.support.postgres import clone_database, drop_database
from tests.support.sandbox import start_in
from tests.support.world import Stage, staged
from tests.workflows.engine import Trial

from dumont.durable import Operation
from dumont.instances import find_instance
from dumont.sync import queries, service
from dumont.sync.model import SyncRun
from dumont.sync.restic import find_restic

KEPT = Path(sys.prefix) / "share" / "dumont-restic"
"""Where a restic that had to be fetched is kept for the next run of the tests."""


@pytest.fixture(scope="session")
def restic() -> Path:
    """The restic of this machine, or Debian's package taken apart without root."""
    return find_restic(KEPT)


@dataclass
class Machine:
    """One running instance and its workspace, as a folder of this computer."""

    stage: Stage
    instance_id: str
    workspace_id: str
    workspace: Path

    def write(self, name: str, content: bytes | str) -> Path:
        """Write a file of the workspace."""
        path = self.workspace / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    async def configure(self, **values: Any) -> None:
        """Set the policy as the API does."""
        async with self.stage.world.session(self.stage.person.team_id) as session:
            instance = await find_instance(session, self.instance_id, lock=True)
            await service.configure(session, instance, self.stage.world.clock.now(), **values)

    async def begin(self, kind: str = "sync", **inputs: Any) -> SyncRun:
        """Begin a piece of work as the API does."""
        now = self.stage.world.clock.now()
        async with self.stage.world.session(self.stage.person.team_id) as session:
            instance = await find_instance(session, self.instance_id, lock=True)
            if kind == "sync":
                run, begun = await service.begin_sync(session, instance, now=now, requested_by=None, force=True)
                assert begun
                return run
            return await service.begin(session, instance, kind, inputs, now=now, requested_by=None)

    def trial(self, run: SyncRun) -> Trial:
        """Return what carries a run's operation out."""
        return Trial(self.stage, run.operation_id or "")

    async def ended(self, kind: str = "sync", **inputs: Any) -> tuple[SyncRun, Operation]:
        """Begin a piece of work, carry it out, and return its row and its operation."""
        run = await self.begin(kind, **inputs)
        done = await self.trial(run).run()
        return await self.run(run.id), done

    async def sync(self) -> SyncRun:
        """Sync, and see it become a point in time."""
        run, done = await self.ended()
        assert done.status == "succeeded", (done.problem or {}).get("detail")
        return run

    async def restore(self, point: SyncRun, *paths: str, to: str = ".") -> Operation:
        """Restore paths of a point, and return the ended operation."""
        _, done = await self.ended("restore", snapshot_id=point.snapshot_id, paths=list(paths), to=to)
        return done

    async def release(self) -> None:
        """Accept that files vanished."""
        async with self.stage.world.session(self.stage.person.team_id) as session:
            instance = await find_instance(session, self.instance_id, lock=True)
            await service.release_guard(session, instance, self.stage.world.clock.now())

    async def run(self, run_id: str) -> SyncRun:
        """Read a run as it is now."""
        async with self.stage.world.session(self.stage.person.team_id) as session:
            return await queries.get_run(session, run_id)

    def store(self) -> Path:
        """Where the repository lies."""
        return self.stage.world.vaults.root / "restic" / self.workspace_id


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, restic: Path) -> Iterator[Any]:
    """Start what a module needs; all of it ends with the module."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "home" / "restic").mkdir(parents=True)
    shutil.copy2(restic, folder / "home" / "restic" / "restic")
    urls = clone_database()
    sandbox = start_in(folder / "sandbox")
    yield urls, sandbox, folder / "home"
    sandbox.stop()
    left = sandbox.processes()
    sandbox.end_leftovers()
    drop_database(urls)
    assert left == [], "the sandbox left processes behind"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(place: Any) -> AsyncIterator[Stage]:
    """A team and a worker's world."""
    urls, sandbox, home = place
    async with staged(urls, sandbox, home) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def machine(stage: Stage) -> Machine:
    """A running instance with an empty history."""
    return await new_machine(stage)


async def new_machine(stage: Stage) -> Machine:
    """Launch an instance and see it run."""
    instance_id, operation_id = await stage.begin_launch(label=uuid.uuid4().hex[:8])
    done = await Trial(stage, operation_id).run()
    assert done.status == "succeeded", (done.problem or {}).get("detail")
    rental = await stage.rental(instance_id)
    workspace_id = (await stage.instance(instance_id)).workspace_id
    return Machine(stage, instance_id, workspace_id, Path(rental.workspace_root or ""))


async def poll(probe: Any, *, seconds: float = 60, what: str = "it") -> Any:
    """Ask until the answer is true and return it."""
    async with asyncio.timeout(seconds):
        while not (answer := probe()):
            await asyncio.sleep(0.05)
    assert answer, what
    return answer
