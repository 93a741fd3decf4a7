"""Glances on a real PostgreSQL: who came in sees his team alone, and no broken connection is used again."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import psycopg
import pytest
from sqlalchemy import column, literal_column, select, table, text

from dumont.db import Database, DatabaseUnavailable, DatabaseUrls, Question, psycopg_url, publish, set_team, translated
from dumont.db.glance import Glances, connect

pytestmark = pytest.mark.requires_postgres

COME_IN = Question(text("SELECT set_config('dumont.team_id', :team, true) AS team, pg_backend_pid() AS pid"))
COUNT = Question(text("SELECT count(*) AS n, current_setting('dumont.team_id', true) AS team FROM outbox_event"))
SLEEP = Question(text("SELECT pg_sleep(30)"))
WRITE = Question(
    text(
        "INSERT INTO outbox_event (team_id, topic, resource_type, resource_id, data) "
        "VALUES (:team, 't', 'r', '1', '{}') RETURNING id"
    )
)
LOCK = Question(text("SELECT pg_try_advisory_xact_lock(4711)"))


@pytest.fixture
async def app(database_urls: DatabaseUrls) -> AsyncIterator[Database]:
    database = Database(database_urls.app, glances=2)
    yield database
    await database.close()


async def add_event(database: Database, team: str) -> None:
    async with database.begin() as session:
        await set_team(session, team)
        await publish(session, topic="t", resource_type="r", resource_id="1", data={}, team_id=team)


async def pid(database: Database) -> int:
    """Return the number of the backend that serves the next glance."""
    async with database.glance() as glance:
        return int((await glance.enter(COME_IN, {"team": "team_a"}))[1])


async def counted(database: Database, team: str) -> int:
    async with database.glance() as glance:
        await glance.enter(COME_IN, {"team": team})
        return int((await glance.ask(COUNT, {}))[0].n)


async def test_a_glance_sees_the_rows_of_its_team_and_the_next_one_starts_without_a_team(app: Database) -> None:
    for team in ("team_a", "team_a", "team_b"):
        await add_event(app, team)
    first = await pid(app)
    assert [await counted(app, "team_a"), await counted(app, "team_b"), await counted(app, "team_c")] == [2, 1, 0]
    async with app.glance() as glance:
        row = await glance.enter(COUNT, {})
    assert (row[0], row[1] or "") == (0, "")
    assert await pid(app) == first, "all of this happened on one connection"


async def test_a_question_commits_and_a_glance_without_one_leaves_nothing_behind(app: Database) -> None:
    with pytest.raises(LookupError):
        async with app.glance() as glance:
            assert (await glance.enter(LOCK, {}))[0]
            raise LookupError
    async with app.begin() as session:
        assert await session.scalar(text("SELECT pg_try_advisory_xact_lock(4711)")), "the lock went with the glance"
    async with app.glance() as glance:
        await glance.enter(COME_IN, {"team": "team_a"})
        await glance.ask(WRITE, {"team": "team_a"})
    assert await counted(app, "team_a") == 1


async def test_a_row_of_another_team_cannot_be_written(app: Database) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        async with app.glance() as glance:
            await glance.enter(COME_IN, {"team": "team_a"})
            await glance.ask(WRITE, {"team": "team_b"})
    assert await counted(app, "team_b") == 0


async def test_a_second_question_is_refused(app: Database) -> None:
    async with app.glance() as glance:
        with pytest.raises(RuntimeError):
            await glance.ask(COUNT, {})
        await glance.enter(COME_IN, {"team": "team_a"})
        await glance.ask(COUNT, {})
        with pytest.raises(RuntimeError):
            await glance.ask(COUNT, {})


async def test_statements_put_together_in_different_ways_keep_their_own_values(app: Database) -> None:
    for number in range(3):
        await add_event(app, f"team_{number}")
    events = table("outbox_event", column("team_id"), column("topic"))
    for number in (0, 1, 2, 1):
        statement = select(events.c.team_id).where(events.c.team_id == f"team_{number}", events.c.topic == "t")
        async with app.glance() as glance:
            await glance.enter(COME_IN, {"team": f"team_{number}"})
            assert [row.team_id for row in await glance.ask(statement, {})] == [f"team_{number}"]
    async with app.glance() as glance:
        await glance.enter(COME_IN, {"team": "team_0"})
        with pytest.raises(TypeError):
            await glance.ask(select(literal_column("1")).where(events.c.topic.in_(["t"])), {})


async def test_a_connection_that_the_server_ended_is_replaced_before_it_is_used(
    app: Database, database_urls: DatabaseUrls
) -> None:
    first = await pid(app)
    with psycopg.connect(psycopg_url(database_urls.owner), autocommit=True) as owner:
        owner.execute("SELECT pg_terminate_backend(%s, 5000)", [first])
    assert await pid(app) != first


async def test_an_end_in_the_middle_of_a_question_is_a_problem_to_wait_for(
    app: Database, database_urls: DatabaseUrls
) -> None:
    async def end_it(number: int) -> None:
        def work() -> None:
            with psycopg.connect(psycopg_url(database_urls.owner), autocommit=True) as owner:
                owner.execute("SELECT pg_terminate_backend(%s, 5000)", [number])

        await asyncio.to_thread(work)

    with pytest.raises(DatabaseUnavailable):
        async with app.glance() as glance:
            row = await glance.enter(COME_IN, {"team": "team_a"})
            await asyncio.gather(glance.ask(SLEEP, {}), end_it(int(row[1])))
    assert await counted(app, "team_a") == 0


async def test_an_interrupted_question_gives_its_answer_to_nobody_else(
    app: Database, database_urls: DatabaseUrls
) -> None:
    async def ask() -> None:
        async with app.glance() as glance:
            await glance.enter(COME_IN, {"team": "team_a"})
            await glance.ask(SLEEP, {})

    def asks(number: int) -> bool:
        with psycopg.connect(psycopg_url(database_urls.owner), autocommit=True) as owner:
            query = "SELECT FROM pg_stat_activity WHERE pid = %s AND state = 'active' AND query LIKE '%%pg_sleep%%'"
            return owner.execute(query, [number]).fetchone() is not None

    first = await pid(app)
    asking = asyncio.create_task(ask())
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(asks, first):
            await asyncio.sleep(0.02)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await pid(app) != first


async def test_many_at_once_share_the_connections_and_get_their_own_rows(app: Database) -> None:
    for number in range(4):
        for _ in range(number):
            await add_event(app, f"team_{number}")
    asked = [counted(app, f"team_{number % 4}") for number in range(40)]
    assert await asyncio.gather(*asked) == [number % 4 for number in range(40)]


async def test_who_finds_no_free_connection_in_time_is_told_to_wait(database_urls: DatabaseUrls) -> None:
    opener: Any = partial(connect, psycopg_url(database_urls.app))
    glances = Glances(opener, 1, wait_seconds=0.05)
    async with glances.open():
        with pytest.raises(DatabaseUnavailable), translated():
            async with glances.open():
                pass
    async with glances.open() as glance:
        assert (await glance.enter(COME_IN, {"team": "team_a"}))[0] == "team_a"
    await glances.close()


async def test_long_values_pass_through_a_full_pipe(app: Database) -> None:
    long = "x" * 3_000_000
    async with app.glance() as glance:
        row = await glance.enter(Question(text("SELECT :long AS long")), {"long": long})
    assert row[0] == long
