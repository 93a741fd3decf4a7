"""Operations at their edges: news beyond one look, and a wish to cancel that comes too late."""

import asyncio

import psycopg
import pytest
from tests.support.whole_api import WholeApi

from dumont.db import psycopg_url

pytestmark = pytest.mark.requires_postgres


async def test_a_long_story_is_told_whole(api: WholeApi) -> None:
    """An operation with more news than one look reads: the stream and the document hold all of it, and then the end."""
    person = await api.person()
    operation = str((await api.launch(person))["operation_id"])
    await api.write(
        "INSERT INTO outbox_event (team_id, topic, resource_type, resource_id, operation_id, data) "
        "SELECT %s, 'operation.progress', 'instance', 'x', %s, jsonb_build_object('step', jsonb_build_object("
        "'name', 'n' || n), 'percent', 1) FROM generate_series(1, 1203) AS n",
        person.team_id,
        operation,
    )
    await api.write("UPDATE operation SET status = 'succeeded', finished_at = now() WHERE id = %s", operation)
    path = f"/api/v1/operations/{operation}/events"
    told = await api.http.get(path, headers={**person.headers, "accept": "text/event-stream"})
    assert told.text.count("event: progress") == 1203
    assert told.text.rstrip().split("event: ")[-1].startswith("done")
    whole = (await api.http.get(path, headers=person.headers)).json()
    assert sum(event["type"] == "operation.progress" for event in whole["events"]) == 1203


async def test_an_operation_that_ends_in_this_moment_is_not_cancelled(api: WholeApi) -> None:
    """The wish to cancel waits for the row and finds the operation ended: its end stays as it was written."""
    person = await api.person()
    operation = str((await api.launch(person))["operation_id"])
    with psycopg.connect(psycopg_url(api.urls.owner)) as connection:
        connection.execute("UPDATE operation SET status = 'succeeded', finished_at = now() WHERE id = %s", (operation,))
        wish = asyncio.create_task(
            api.http.post(f"/api/v1/operations/{operation}/cancel", headers=person.headers), name="cancel"
        )
        await asyncio.sleep(0.3)
        assert not wish.done()
        connection.commit()
    answer = await wish
    assert (answer.status_code, answer.json()["code"]) == (409, "operation-finished")
    assert await api.rows("SELECT status, cancel_requested FROM operation WHERE id = %s", operation) == [
        ("succeeded", False)
    ]
