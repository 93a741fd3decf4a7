"""Steps that are one statement of our own rows: written with their record, once, by whoever owns the workflow."""

from collections.abc import Awaitable, Callable
from functools import partial
from importlib import import_module
from typing import Any

import pytest
from dbos._error import DBOSWorkflowConflictIDError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from tests.support.world import Stage

from dumont.db import DatabaseUnavailable, set_team
from dumont.durable.engine import Refused
from dumont.durable.record import StepRecord
from dumont.instances import rental_rows
from dumont.instances.moves import destroy_at_once

from .engine import Trial

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


async def test_a_write_that_another_try_of_ours_has_made_is_read_again(written: Written) -> None:
    """Its answer was lost and it was not seen yet: the second try undoes its rows and returns what the first wrote."""
    assert await written.write("me", "first") == {"ok": "first"}
    late = written.execution("me")
    late.remember(())
    values = {"team": written.stage.person.team_id, "instance": written.instance_id, "said": "second"}
    assert await late.write("say", SAYS, values, {"ok": "second"}, written.refuse) == {"ok": "first"}
    assert (await written.said(), len(await written.records())) == ("first", 1)


async def test_a_launch_in_flight_waits_for_the_database(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a workflow reads between its steps is read again when the database is back; nothing ends by it."""
    left = {"read_wish": 2, "glance_at_ssh_keys": 2}

    def broken(name: str, read: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def sometimes(*arguments: Any) -> Any:
            left[name] -= 1
            if left[name] >= 0:
                raise DatabaseUnavailable("away")
            return await read(*arguments)

        return sometimes

    monkeypatch.setattr(rental_rows, "read_wish", broken("read_wish", rental_rows.read_wish))
    acquire = import_module("dumont.instances.acquire")
    monkeypatch.setattr(acquire, "glance_at_ssh_keys", broken("glance_at_ssh_keys", acquire.glance_at_ssh_keys))
    done = await Trial(written.stage, written.operation_id).run()
    assert done.status == "succeeded", done.problem
    assert max(left.values()) < 0
    (await written.stage.bills(written.instance_id)).agree()


async def test_a_destroy_waits_for_an_operation_that_is_being_cancelled(stage: Stage) -> None:
    """An operation that undoes itself still works on the machine: the destroy is not told that nothing does."""
    instance_id, operation_id = await stage.begin_launch()
    await stage.write("UPDATE operation SET status = 'cancelling', cancel_requested = true WHERE id = %s", operation_id)
    person = stage.person
    async with stage.world.session(person.team_id) as session:
        assert await destroy_at_once(session, person.team_id, instance_id, user_id=person.user_id) is None
    assert (await stage.instance(instance_id)).status == "creating"
    statement = "SELECT count(*) FROM operation WHERE instance_id = %s"
    assert await stage.rows(statement, instance_id) == [(1,)]


async def test_where_nothing_is_written_the_refusal_is_recorded(written: Written) -> None:
    """It may write nothing of its own, and a second execution refuses in the same words."""
    assert await written.write("me", "first", SAYS_NOTHING) == REFUSED
    assert await written.said() is None
    again = partial(written.write, "me", "second", SAYS)
    assert await again() == REFUSED
    assert (await written.said(), len(await written.records())) == (None, 1)
