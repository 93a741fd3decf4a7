"""`work`: a step of a workflow beside one commit, and how soon another worker goes on after a kill -9."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import workload
from benchmarks.installation import BenchmarkError, Home, Laboratory, Process, deadline
from benchmarks.metrics import Metric, median
from benchmarks.rows import Person, make_person
from dumont.core import new_id
from dumont.db import Database, DatabaseUrls, psycopg_url, set_team
from dumont.durable import OperationStatus, begin_operation, get_operation


@dataclass(frozen=True)
class _Stage:
    """A database, whose work it is, and the worker's pool of this process."""

    laboratory: Laboratory
    home: Home
    urls: DatabaseUrls
    person: Person
    database: Database

    async def begin(self, name: str, inputs: dict[str, Any]) -> str:
        """Begin an operation as the product does and return its id."""
        async with self.database.begin() as session:
            await set_team(session, self.person.team_id)
            operation = await begin_operation(
                session,
                name,
                team_id=self.person.team_id,
                resource=("bench", new_id("op")),
                instance_id=None,
                inputs=inputs,
                deadline=timedelta(minutes=10),
                requested_by=None,
            )
            return operation.id

    async def ended(self, operation_id: str) -> dict[str, Any] | None:
        """Return the result of an operation, None while it goes on.

        Errors: BenchmarkError where it failed.
        """
        async with self.database.begin() as session:
            await set_team(session, self.person.team_id)
            found = await get_operation(session, operation_id)
        if found is None or not OperationStatus(found.status).final:
            return None
        if found.status != OperationStatus.SUCCEEDED:
            raise BenchmarkError(f"the operation ended as {found.status}: {found.problem}")
        return found.result or {}


def measure(laboratory: Laboratory, quick: bool) -> Iterator[Metric]:
    """Measure steps with one worker, and take-over with two."""
    _list_workflows(laboratory.database()[1])
    yield asyncio.run(_with_stage(laboratory, partial(_steps, count=10 if quick else 100)))
    yield asyncio.run(_with_stage(laboratory, partial(_takeovers, count=1 if quick else 5)))


async def _with_stage(laboratory: Laboratory, body: Callable[[_Stage], Awaitable[Metric]]) -> Metric:
    home, urls, _ = laboratory.database()
    application = Database(urls.app, pool_size=1)
    database = Database(urls.worker, pool_size=2, application_name="bench")
    try:
        person = await make_person(application, home.secret, home.path)
        return await body(_Stage(laboratory, home, urls, person, database))
    finally:
        await application.close()
        await database.close()


async def _steps(stage: _Stage, count: int) -> Metric:
    calls: list[float] = []
    records: list[float] = []
    commits: list[float] = []
    with _worker(stage) as worker:
        await asyncio.to_thread(worker.line_with, "worker is ready")
        for _ in range(3):
            operation = await stage.begin("bench.steps", {"count": count})
            result = await _until(partial(stage.ended, operation), "the steps to end")
            calls += result["calls"]
            records += result["records"]
            commits += await asyncio.to_thread(_commits, stage, count)
    more: dict[str, float | str] = {"record_ms": median(records), "peer_is": "one commit"}
    return Metric("step_ms", median(calls), "ms", peer=median(commits), more=more)


async def _takeovers(stage: _Stage, count: int) -> Metric:
    found = [await _takeover(stage, number) for number in range(count)]
    return Metric("takeover_s", median(found), "s", more={"worst_s": max(found)})


async def _takeover(stage: _Stage, number: int) -> float:
    """Kill the one of two workers that holds an operation; returns how long until the other holds it."""
    folder = stage.home.path / f"hold-{number}"
    folder.mkdir()
    with ExitStack() as stack:
        workers = [stack.enter_context(_worker(stage)) for _ in range(2)]
        for worker in workers:
            await asyncio.to_thread(worker.line_with, "worker is ready")
        operation = await stage.begin("bench.hold", {"path": str(folder / "let-go")})
        holder = (await _until(lambda: _holders(folder, 1), "a worker to hold the operation"))[0]
        victim = next(worker for worker in workers if f"held-by-{worker.pid}" == holder)
        victim.popen.kill()
        begun = time.monotonic()
        await _until(lambda: _holders(folder, 2), "the other worker to go on")
        seconds = time.monotonic() - begun
        (folder / "let-go").touch()
        await _until(lambda: stage.ended(operation), "the operation to end")
    return seconds


async def _holders(folder: Path, wanted: int) -> list[str] | None:
    return await asyncio.to_thread(_names, folder, wanted)


def _names(folder: Path, wanted: int) -> list[str] | None:
    found = sorted(path.name for path in folder.glob("held-by-*"))
    return found if len(found) >= wanted else None


def _worker(stage: _Stage) -> AbstractContextManager[Process]:
    return stage.laboratory.run("benchmarks.workload")


def _list_workflows(urls: DatabaseUrls) -> None:
    with psycopg.connect(psycopg_url(urls.owner)) as connection:
        for name in (workload.steps.__name__, workload.hold.__name__):
            connection.execute("INSERT INTO durable_workflow VALUES (%s) ON CONFLICT DO NOTHING", [f"bench.{name}"])


def _commits(stage: _Stage, count: int) -> list[float]:
    """Time commits of one changed row. Units: milliseconds."""
    times = []
    with psycopg.connect(psycopg_url(stage.urls.owner)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS bench_commit (n bigint)")
        connection.commit()
        for number in range(count):
            begun = time.perf_counter()
            connection.execute("INSERT INTO bench_commit VALUES (%s)", [number])
            connection.commit()
            times.append((time.perf_counter() - begun) * 1000)
    return times


async def _until(look: Callable[[], Awaitable[Any]], what: str) -> Any:
    until = deadline()
    while time.monotonic() < until:
        found = await look()
        if found is not None:
            return found
        await asyncio.sleep(0.01)
    raise BenchmarkError(f"waited in vain for {what}")
