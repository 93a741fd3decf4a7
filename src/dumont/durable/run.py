"""What a workflow holds while it runs: steps that are recorded, undo that is certain, progress that people see.

Outcomes of steps are recorded as plain JSON envelopes (`{"ok": …}` or `{"problem": …}`), never as pickled
exceptions, so that a replay raises the same problem on any version of the code.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import Problem
from dumont.db import Database, DatabaseUnavailable, is_wait, set_team
from dumont.durable import queries
from dumont.durable.engine import Engine, Json, Refused
from dumont.durable.model import Cancelled, DeadlineExceeded, OperationStatus, StepFailed
from dumont.durable.registry import Ending, Refusal
from dumont.durable.waiting import patiently

log = structlog.get_logger()


@dataclass(frozen=True)
class Retry:
    """How often a call step may try again, from its first failure on. Units: seconds of real time."""

    on: tuple[type[Exception], ...] = ()
    for_seconds: float = 30.0
    first_seconds: float = 0.25
    most_seconds: float = 5.0


@dataclass
class _Undo:
    name: str
    body: Callable[[], Awaitable[Json]]


@dataclass
class Run:
    """One execution of one workflow for one operation. `input` never changes; steps are recorded by name and order."""

    operation_id: str
    team_id: str
    instance_id: str | None
    input: dict[str, Any]
    steps: list[dict[str, Any]]
    database: Database
    engine: Engine
    _undo: list[_Undo] = field(default_factory=list)
    _undoing: bool = False
    _settled: bool = False
    _told_at: float = 0.0
    _percent: int = 0
    _news: list[dict[str, Any]] = field(default_factory=list)

    async def call(
        self,
        name: str,
        body: Callable[[], Awaitable[Json]],
        *,
        retry: Retry | None = None,
        undo: Callable[[], Awaitable[Json]] | None = None,
        checks_itself: bool = False,
    ) -> Json:
        """Run a step that talks to the world, outside any transaction, at least once.

        Guarantees: its result is recorded before the next step; `undo` is remembered before the first try, because
        after a lost answer the effect may exist. A body that `checks_itself` calls `check` where it can still turn
        back; elsewhere nobody interrupts it. Errors: the step's Problem, Cancelled, DeadlineExceeded.
        """
        if undo is not None:
            self._undo.append(_Undo(f"undo {name}", undo))
        guarded = partial(self._guard, name, body, retry or Retry(), checks_itself)
        return _open(await self.engine.step(name, guarded))

    async def record(self, name: str, body: Callable[[AsyncSession], Awaitable[Json]]) -> Json:
        """Run a step that only reads and writes our own rows; its commit and its record are one.

        Errors: the body's Problem, after everything that it wrote is undone; StepFailed for any other error, so that a
        replay goes the same way.
        """
        return _open(await self.engine.transaction(name, partial(self._outcome, name, body)))

    async def read(self, name: str, body: Callable[[], Awaitable[Json]]) -> Json:
        """Run a step that only reads our own rows, once, and record what it read: a `record` of two round trips."""

        async def read() -> Json:
            return {"ok": await patiently(self.operation_id, body)}

        return _open(await self.engine.step(name, read))

    async def write(
        self, name: str, parts: str, values: Mapping[str, Any], result: Json, refuse: Callable[[AsyncSession], Refusal]
    ) -> Json:
        """Run a step that is one statement of our own rows and holds its own record: a `record` of one round trip.

        Shapes: `parts` are those of `queries.recorded_write`. Where they wrote nothing, `refuse` raises the problem.
        """
        known = {"id": self.operation_id, "team": self.team_id, "instance": self.instance_id}
        refused = partial(self._outcome, name, refuse)
        return _open(await self.engine.write(name, parts, {**known, **values}, {"ok": result}, refused))

    async def close(self, name: str, ending: Ending) -> None:
        """Write the last rows, the success and its record by one statement."""
        end = {"status": "succeeded", "problem": None, "result": ending.result}
        values = queries.ending(
            self.operation_id,
            OperationStatus.SUCCEEDED,
            problem=None,
            steps=self.steps,
            result=ending.result,
            news=[*self.untold(), {**ending.news, "moved": True}, {"topic": "operation.succeeded", "data": end}],
            about=(self.team_id, self.instance_id or ""),
        )
        await self.write(name, queries.closing(ending.moved), {**values, **ending.values}, None, ending.refuse)

    async def _outcome(self, name: str, body: Callable[[AsyncSession], Awaitable[Json]], session: AsyncSession) -> Json:
        await set_team(session, self.team_id)
        try:
            return {"ok": await body(session)}
        except Problem as problem:
            raise Refused({"problem": problem.document(self.operation_id)}) from problem
        except Exception as error:
            if is_the_engines(error) or is_wait(error):
                raise
            log.error("step failed", step=name, operation_id=self.operation_id, exc_info=error)
            raise Refused({"problem": self._broken(name).document(self.operation_id)}) from error

    async def sleep(self, seconds: float) -> None:
        """Wait in real time, also across restarts."""
        await self.engine.sleep(seconds)

    def settle(self) -> None:
        """Forget what could be undone: from here on the workflow only goes forward, cancelled or late or not."""
        self._undo.clear()
        self._settled = True

    @property
    def settled(self) -> bool:
        """Whether the point of no return is behind: what was begun is done, and a failure only ends the rest."""
        return self._settled

    async def check(self) -> None:
        """Raise when somebody cancelled or the deadline passed; long steps call it while they wait.

        Errors: Cancelled, DeadlineExceeded.
        """
        self._heed(await self._write())

    def _heed(self, wishes: queries.Wishes) -> None:
        if self._undoing or self._settled:
            return
        if wishes.cancelled:
            raise Cancelled()
        if wishes.late:
            raise DeadlineExceeded()

    async def progress(
        self,
        step: str,
        *,
        done: int,
        total: int | None,
        detail: str | None = None,
        figures: dict[str, Any] | None = None,
    ) -> None:
        """Show how far a step is, at most about three times a second, with further `figures`. Units: bytes."""
        entry = self._entry(step)
        entry.update(bytes_done=done, bytes_total=total, detail=detail, **(figures or {}))
        if time.monotonic() - self._told_at < 0.3:
            return
        self._told_at = time.monotonic()
        self._tell("operation.progress", entry)
        await self._write()

    async def mark(self, step: str, **marks: Any) -> None:
        """Write marks into a step, for later tries of it, also by another worker; `marked` reads them."""
        self._entry(step).update(marks)
        await self._write()

    def marked(self, step: str, mark: str) -> bool:
        """Tell whether a try of the step has written this mark."""
        return bool(self._entry(step).get(mark))

    def note(self, step: str, detail: str) -> None:
        """Say something to people about a step; it is shown when the step next changes."""
        self._entry(step).update(detail=detail)

    def skip(self, step: str) -> None:
        """Show that a planned step is not needed."""
        self._entry(step).update(status="skipped")

    def percent(self) -> int:
        """How much of the planned work is done, 0..99, never falling; 100 is said only by success."""
        parts = [_share(entry) for entry in self.steps if not entry["name"].startswith("undo ")]
        self._percent = max(self._percent, min(99, int(100 * sum(parts) / len(parts))) if parts else 0)
        return self._percent

    async def roll_back(self) -> None:
        """Undo, newest first, whatever was begun; each undo is tried until it works, and is itself a recorded step."""
        self._undoing = True
        retry = Retry(on=(Exception,), for_seconds=float("inf"), most_seconds=15.0)
        while self._undo:
            undo = self._undo.pop()
            _open(await self.engine.step(undo.name, partial(self._guard, undo.name, undo.body, retry, True)))

    async def _guard(self, name: str, body: Callable[[], Awaitable[Json]], retry: Retry, checks_itself: bool) -> Json:
        entry = self._entry(name)
        entry.update(status="running", started_at=entry.get("started_at") or _now())
        failing_since: float | None = None
        pause = retry.first_seconds
        while True:
            try:
                entry["attempts"] = entry.get("attempts", 0) + 1
                self._tell("operation.step", entry)
                await self._begin_try(checks_itself)
                outcome = {"ok": await body()}
                entry.update(status="done", finished_at=_now())
                self._tell("operation.step", entry)
                return outcome
            except Exception as error:
                if is_the_engines(error):
                    raise
                again = isinstance(error, (*retry.on, DatabaseUnavailable))
                final = isinstance(error, (Cancelled, DeadlineExceeded)) and not self._undoing
                failing_since = failing_since or time.monotonic()
                if again and not final and time.monotonic() - failing_since < retry.for_seconds:
                    log.info("step will be tried again", step=name, operation_id=self.operation_id, error=repr(error))
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, retry.most_seconds)
                    continue
                return await self._failed(entry, error)

    async def _begin_try(self, checks_itself: bool) -> None:
        """Show that a try begins, and heed what is wished; what cannot be shown keeps no undo from its work."""
        try:
            wishes = await self._write()
        except Exception as error:
            if not self._undoing or isinstance(error, DatabaseUnavailable) or is_the_engines(error):
                raise
            log.error("the progress of an undo cannot be written", operation_id=self.operation_id, exc_info=error)
            return
        if not checks_itself:
            self._heed(wishes)

    async def _failed(self, entry: dict[str, Any], error: Exception) -> Json:
        problem = error if isinstance(error, Problem) else None
        if problem is None:
            log.error("step failed", step=entry["name"], operation_id=self.operation_id, exc_info=error)
            problem = self._broken(entry["name"])
        entry.update(status="failed", finished_at=_now(), detail=problem.detail)
        self._tell("operation.step", entry)
        await self._write()
        return {"problem": problem.document(self.operation_id)}

    def _broken(self, name: str) -> StepFailed:
        return StepFailed(f"Step “{name}” failed on our side. Report it with operation {self.operation_id}.")

    def _entry(self, name: str) -> dict[str, Any]:
        for entry in self.steps:
            if entry["name"] == name:
                return entry
        self.steps.append({"name": name, "status": "pending", "attempts": 0})
        return self.steps[-1]

    def take_news(self) -> list[dict[str, Any]]:
        """Return what is still to be told, once: whoever takes it publishes it in the transaction that he writes."""
        news, self._news = self._news, []
        return news

    def untold(self) -> list[dict[str, Any]]:
        """Return what is still to be told, for the write that ends the operation and may have to be made again."""
        return list(self._news)

    def _tell(self, topic: str, entry: dict[str, Any]) -> None:
        """Remember news of a step; the next write carries it, so that a step costs one transaction of ours."""
        self._news.append({"topic": topic, "data": {"step": dict(entry), "percent": self.percent()}})

    async def _write(self) -> queries.Wishes:
        """Write the steps and the news, and read what somebody wishes and who owns the workflow: one transaction."""
        running = next((entry["name"] for entry in self.steps if entry["status"] == "running"), None)
        news = self.take_news()
        try:
            wishes = await queries.note(
                self.database,
                self.operation_id,
                steps=self.steps,
                current_step=running,
                percent=self.percent(),
                news=news,
                about=(self.team_id, self.instance_id or ""),
            )
        except DatabaseUnavailable:
            self._news = news + self._news
            raise
        self.engine.own(wishes.owner)
        return wishes


def is_the_engines(error: BaseException) -> bool:
    """Whether an error is the durable engine's own, such as that the workflow was given to another worker."""
    return type(error).__module__.startswith("dbos")


def final_status(problem: Problem | None) -> OperationStatus:
    """Name the end of an operation by its problem."""
    if problem is None:
        return OperationStatus.SUCCEEDED
    return OperationStatus.CANCELLED if problem.code == Cancelled.code else OperationStatus.FAILED


def new_run(operation: queries.Begun, database: Database, engine: Engine) -> Run:
    """Make the run of an operation as it stands in the database.

    Errors: the engine's conflict, where the workflow was given to another worker meanwhile.
    """
    engine.own(operation.owner)
    engine.remember(operation.recorded or ())
    return Run(
        operation_id=operation.id,
        team_id=operation.team_id,
        instance_id=operation.instance_id,
        input=operation.input,
        steps=[dict(entry) for entry in operation.steps],
        database=database,
        engine=engine,
        _percent=operation.percent or 0,
    )


def revive(document: dict[str, Any]) -> Problem:
    """Turn a recorded problem document back into its class, as far as this version knows it."""
    members = {"type", "title", "status", "detail", "code", "act", "instance"}
    extra = {key: value for key, value in document.items() if key not in members}
    kind = Problem.registry.get(document["code"], StepFailed)
    problem = Problem.__new__(kind)
    Problem.__init__(problem, document["detail"], **extra)
    return problem


def _open(envelope: Json) -> Json:
    if "problem" in envelope:
        raise revive(envelope["problem"])
    return envelope["ok"]


def _share(entry: dict[str, Any]) -> float:
    if entry["status"] in ("done", "skipped"):
        return 1.0
    if entry["status"] == "running" and entry.get("bytes_total"):
        return min(1.0, float(entry.get("bytes_done") or 0) / float(entry["bytes_total"]))
    return 0.0


def _now() -> str:
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")
