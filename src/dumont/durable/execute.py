"""How any workflow runs: start, body, success; or the problem, every undo, and what the failure writes."""

from typing import Any

import structlog
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import Problem
from dumont.db import Database, publish, set_sweep, set_team
from dumont.durable import queries
from dumont.durable.model import OperationStatus, StepFailed
from dumont.durable.registry import Definition
from dumont.durable.run import Engine, Run, final_status, new_run

log = structlog.get_logger()


async def execute(definition: Definition, operation_id: str, *, world: Any, database: Database, engine: Engine) -> None:
    """Run one operation to its end: succeeded, or undone and failed or cancelled.

    Guarantees: called again after a crash it goes on behind the last recorded step. An error of the durable engine
    itself passes through, so that the engine can hand the workflow to another worker.
    """
    run = await _load(operation_id, database, engine)
    await run.record("start", lambda session: _started(session, run))
    try:
        result = await definition.body(run, world)
    except Problem as problem:
        await _undo_and_fail(definition, run, problem)
        return
    except Exception as error:
        if type(error).__module__.startswith("dbos"):
            raise
        log.error("workflow broke", workflow=definition.name, operation_id=operation_id, exc_info=error)
        await _undo_and_fail(definition, run, StepFailed(f"Report this with operation {operation_id}."))
        return
    await run.record("finish", lambda session: _finished(session, run, None, result))


async def _undo_and_fail(definition: Definition, run: Run, problem: Problem) -> None:
    await run.roll_back()

    async def fail(session: AsyncSession) -> None:
        await definition.on_failure(session, run, problem)
        await _finished(session, run, problem, None)

    await run.record("fail", fail)


async def _load(operation_id: str, database: Database, engine: Engine) -> Run:
    async with database.begin() as session:
        await set_sweep(session)
        operation = await queries.get(session, operation_id)
        if operation is None:
            raise LookupError(f"operation {operation_id} is queued but has no row")
        return new_run(operation, database, engine)


async def _started(session: AsyncSession, run: Run) -> None:
    await queries.mark(session, run.operation_id, started_at=func.clock_timestamp())
    operation = await queries.get(session, run.operation_id)
    if operation is not None and operation.status == OperationStatus.QUEUED:
        await queries.mark(session, run.operation_id, status=OperationStatus.RUNNING.value)


async def _finished(session: AsyncSession, run: Run, problem: Problem | None, result: dict[str, Any] | None) -> None:
    status = final_status(problem)
    await set_team(session, run.team_id)
    values: dict[str, Any] = {
        "status": status.value,
        "current_step": None,
        "steps": run.steps,
        "finished_at": func.clock_timestamp(),
        "result": result,
        "problem": problem.document(run.operation_id) if problem else None,
    }
    if status is OperationStatus.SUCCEEDED:
        values["percent"] = 100
    await queries.mark(session, run.operation_id, **values)
    for news in run.take_news():
        await _publish(session, run, news["topic"], news["data"])
    await _publish(
        session,
        run,
        f"operation.{status.value}",
        {"status": status.value, "problem": values["problem"], "result": result},
    )


async def _publish(session: AsyncSession, run: Run, topic: str, data: dict[str, Any]) -> None:
    await publish(
        session,
        topic=topic,
        resource_type="instance",
        resource_id=run.instance_id or "",
        team_id=run.team_id,
        operation_id=run.operation_id,
        data=data,
    )
