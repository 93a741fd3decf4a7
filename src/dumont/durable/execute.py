"""How any workflow runs: start, body, success; or the problem, every undo, and what the failure writes."""

from functools import partial
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import Problem
from dumont.db import Database
from dumont.durable import queries
from dumont.durable.engine import Engine
from dumont.durable.model import StepFailed
from dumont.durable.registry import Definition, Ending, Plain
from dumont.durable.run import Run, final_status, is_the_engines, new_run
from dumont.durable.waiting import patiently

log = structlog.get_logger()


async def execute(definition: Definition, operation_id: str, *, world: Any, database: Database, engine: Engine) -> None:
    """Run one operation to its end: succeeded, or undone and failed or cancelled.

    Guarantees: called again after a crash it goes on behind the last recorded step. An error of the durable engine
    itself passes through, so that the engine can hand the workflow to another worker.
    """
    begun = await patiently(operation_id, partial(queries.begin, database, operation_id))
    run = new_run(begun, database, engine)
    try:
        result = await definition.body(run, world)
        if isinstance(result, Ending):
            await run.close("finish", result)
        else:
            await run.record("finish", partial(_succeed, run, result))
    except Problem as problem:
        await _undo_and_fail(definition, run, problem)
        return
    except Exception as error:
        if is_the_engines(error):
            raise
        log.error("workflow broke", workflow=definition.name, operation_id=operation_id, exc_info=error)
        await _undo_and_fail(definition, run, StepFailed(f"Report this with operation {operation_id}."))


async def _undo_and_fail(definition: Definition, run: Run, problem: Problem) -> None:
    await run.roll_back()

    async def fail(session: AsyncSession) -> None:
        await definition.on_failure(session, run, problem)
        await _finished(session, run, problem, None)

    await run.record("fail", fail)


async def _succeed(run: Run, result: Plain, session: AsyncSession) -> None:
    """Write what the body left to be written at the very end, and the end itself."""
    await _finished(session, run, None, await result(session) if callable(result) else result)


async def _finished(session: AsyncSession, run: Run, problem: Problem | None, result: dict[str, Any] | None) -> None:
    status = final_status(problem)
    said = problem.document(run.operation_id) if problem else None
    data = {"status": status.value, "problem": said, "result": result}
    await queries.end(
        session,
        run.operation_id,
        status,
        steps=run.steps,
        result=result,
        problem=said,
        news=[*run.untold(), {"topic": f"operation.{status.value}", "data": data}],
        about=(run.team_id, run.instance_id or ""),
    )
