"""Steps that are one statement of our own rows: written with their record, once, by whoever owns the workflow."""

from functools import partial
from typing import Any

import pytest
from dbos._error import DBOSWorkflowConflictIDError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from tests.support.world import Stage

from dumont.db import set_team
from dumont.durable.record import StepRecord
from dumont.durable.run import Refused

SAYS = "done AS (UPDATE instance SET status_detail = :said FROM mine WHERE instance.id = :instance RETURNING 1)"
SAYS_NOTHING = SAYS.replace("RETURNING", "AND instance.status = 'lost' RETURNING")
REFUSED = {"problem": {"detail": "nothing to say"}}


class Written:
    """A launch that waits in its queue, whose steps are written by hand."""

    def __init__(self, stage: Stage, instance_id: str, operation_id: str) -> None:
        self.stage, self.instance_id, self.operation_id = stage, instance_id, operation_id

    def execution(self, owner: str) -> StepRecord:
        return StepRecord(self.stage.world.database, self.operation_id, owner)

    async def write(self, owner: str, said: str, parts: str = SAYS) -> Any:
        values = {"team": self.stage.person.team_id, "instance": self.instance_id, "said": said}
        return await self.execution(owner).write("say", parts, values, {"ok": said}, self.refuse)

    async def refuse(self, session: AsyncSession) -> None:
        await set_team(session, self.stage.person.team_id)
        statement = text("UPDATE instance SET status_detail = 'by the one who refused' WHERE id = :id")
        await session.execute(statement, {"id": self.instance_id})
        raise Refused(REFUSED)

    async def said(self) -> str | None:
        rows = await self.stage.rows("SELECT status_detail FROM instance WHERE id = %s", self.instance_id)
        return None if rows[0][0] is None else str(rows[0][0])

    async def records(self) -> list[tuple[Any, ...]]:
        statement = "SELECT function_id, output::jsonb FROM dbos.operation_outputs WHERE workflow_uuid = %s"
        return await self.stage.rows(statement, self.operation_id)


@pytest.fixture
async def written(stage: Stage) -> Written:
    """A workflow that belongs to `me`."""
    one = Written(stage, *await stage.begin_launch())
    await give_to(one, "me")
    return one


async def give_to(written: Written, owner: str) -> None:
    """Name another owner of the workflow."""
    statement = "UPDATE dbos.workflow_status SET owner_xid = %s WHERE workflow_uuid = %s"
    await written.stage.write(statement, owner, written.operation_id)


async def test_the_rows_and_the_record_are_written_once(written: Written) -> None:
    """A second execution returns what is recorded and writes nothing."""
    assert await written.write("me", "first") == {"ok": "first"}
    assert await written.said() == "first"
    assert await written.records() == [(1, {"ok": "first"})]
    assert await written.write("me", "second") == {"ok": "first"}
    assert (await written.said(), len(await written.records())) == ("first", 1)


async def test_whoever_lost_the_workflow_writes_nothing(written: Written) -> None:
    """Also where he had read the record before another became the owner: the statement itself finds out."""
    execution = written.execution("me")
    execution.remember(())
    await give_to(written, "another")
    values = {"team": written.stage.person.team_id, "instance": written.instance_id, "said": "late"}
    with pytest.raises(DBOSWorkflowConflictIDError):
        await execution.write("say", SAYS, values, {"ok": "late"}, written.refuse)
    assert (await written.said(), await written.records()) == (None, [])


async def test_where_nothing_is_written_the_refusal_is_recorded(written: Written) -> None:
    """It may write nothing of its own, and a second execution refuses in the same words."""
    assert await written.write("me", "first", SAYS_NOTHING) == REFUSED
    assert await written.said() is None
    again = partial(written.write, "me", "second", SAYS)
    assert await again() == REFUSED
    assert (await written.said(), len(await written.records())) == (None, 1)
