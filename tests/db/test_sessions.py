"""Sessions, row-level security and what errors become, on a real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from dumont.db import (
    Database,
    DatabaseUnavailable,
    DatabaseUrls,
    protect,
    psycopg_url,
    publish,
    set_sweep,
    set_team,
    translate,
    with_role,
)

pytestmark = pytest.mark.requires_postgres


@pytest.fixture
async def app(database_urls: DatabaseUrls) -> AsyncIterator[Database]:
    database = Database(database_urls.app)
    yield database
    await database.close()


@pytest.fixture
async def worker(database_urls: DatabaseUrls) -> AsyncIterator[Database]:
    database = Database(database_urls.worker)
    yield database
    await database.close()


async def add_event(database: Database, team: str, present: str | None = None) -> int:
    async with database.begin() as session:
        await set_team(session, present or team)
        return await publish(session, topic="t", resource_type="r", resource_id="1", data={}, team_id=team)


async def count(database: Database, *, team: str | None = None, sweep: bool = False) -> int:
    async with database.begin() as session:
        if team is not None:
            await set_team(session, team)
        if sweep:
            await set_sweep(session)
        return int((await session.execute(text("SELECT count(*) FROM outbox_event"))).scalar_one())


@pytest.mark.checklist("ENV-03")
def test_a_test_has_a_real_database_of_its_own(database_urls: DatabaseUrls, postgres_server: str) -> None:
    """PostgreSQL itself answers, with the product's schema, and what is written is not in the run's other databases."""
    with (
        psycopg.connect(psycopg_url(database_urls.owner)) as own,
        psycopg.connect(psycopg_url(postgres_server)) as shared,
    ):
        said = [one.execute("SELECT version(), current_database()").fetchone() for one in (own, shared)]
        assert all(row is not None and str(row[0]).startswith("PostgreSQL ") for row in said)
        assert said[0] != said[1]
        own.execute("CREATE TABLE only_here (n integer)")
        own.commit()
        found = [
            one.execute("SELECT to_regclass('only_here'), to_regclass('team')").fetchone() for one in (own, shared)
        ]
    assert found[0] == ("only_here", "team") and found[1] is not None and found[1][0] is None


async def test_the_application_sees_the_rows_of_its_team_and_none_without_one(app: Database) -> None:
    await add_event(app, "team_a")
    await add_event(app, "team_a")
    await add_event(app, "team_b")
    assert [await count(app, team="team_a"), await count(app, team="team_b"), await count(app)] == [2, 1, 0]


async def test_a_team_does_not_outlive_its_transaction_on_a_pooled_connection(database_urls: DatabaseUrls) -> None:
    database = Database(database_urls.app, pool_size=1)
    await add_event(database, "team_a")
    assert await count(database) == 0
    await database.close()


async def test_the_application_cannot_write_a_row_of_another_team_nor_of_none(app: Database) -> None:
    with pytest.raises(DBAPIError, match="row-level security"):
        await add_event(app, "team_b", present="team_a")
    with pytest.raises(DBAPIError, match="row-level security"):
        async with app.begin() as session:
            await publish(session, topic="t", resource_type="r", resource_id="1", data={})
    assert await count(app, team="team_b") == 0


async def test_the_sweep_opens_all_teams_to_the_worker_and_nothing_to_the_application(
    app: Database, worker: Database
) -> None:
    await add_event(app, "team_a")
    await add_event(app, "team_b")
    assert await count(worker) == 0
    assert await count(worker, sweep=True) == 2
    assert await count(app, sweep=True) == 0
    assert await count(app, team="team_a", sweep=True) == 1


async def test_the_application_may_add_to_the_outbox_but_not_change_it(app: Database) -> None:
    await add_event(app, "team_a")
    with pytest.raises(DBAPIError, match="permission denied"):
        async with app.begin() as session:
            await set_team(session, "team_a")
            await session.execute(text("UPDATE outbox_event SET delivered_at = now()"))


async def test_protect_serves_any_table_with_update_and_delete(database_urls: DatabaseUrls, app: Database) -> None:
    with psycopg.connect(psycopg_url(database_urls.owner)) as owner:
        owner.execute("CREATE TABLE thing (id int PRIMARY KEY, team_id text NOT NULL)")
        for statement in protect("thing"):
            owner.execute(statement.encode())
        owner.execute("INSERT INTO thing VALUES (1, 'team_a'), (2, 'team_b')")
    async with app.begin() as session:
        await set_team(session, "team_a")
        await session.execute(text("DELETE FROM thing"))
    with pytest.raises(DBAPIError, match="row-level security"):
        async with app.begin() as session:
            await set_team(session, "team_b")
            await session.execute(text("UPDATE thing SET team_id = 'team_a'"))
    with psycopg.connect(psycopg_url(database_urls.owner)) as owner:
        assert owner.execute("SELECT id, team_id FROM thing").fetchall() == [(2, "team_b")]


def test_protect_refuses_a_name_that_is_not_plain() -> None:
    with pytest.raises(ValueError, match="plain"):
        protect("thing; DROP TABLE x")


async def test_an_error_inside_begin_undoes_everything(app: Database) -> None:
    with pytest.raises(RuntimeError, match="on purpose"):
        async with app.begin() as session:
            await set_team(session, "team_a")
            await publish(session, topic="t", resource_type="r", resource_id="1", data={}, team_id="team_a")
            raise RuntimeError("on purpose")
    assert await count(app, team="team_a") == 0


def test_a_wrong_password_is_refused(database_urls: DatabaseUrls) -> None:
    for role in ("dumont", "dumont_app", "dumont_worker"):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(psycopg_url(with_role(database_urls.owner, role, "guess")))


async def test_a_connection_that_the_server_ends_is_unavailable_and_the_next_one_works(
    database_urls: DatabaseUrls, app: Database
) -> None:
    with pytest.raises(DatabaseUnavailable) as caught:
        async with app.begin() as session:
            pid = (await session.execute(text("SELECT pg_backend_pid()"))).scalar_one()
            with psycopg.connect(psycopg_url(database_urls.owner)) as owner:
                owner.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
            await session.execute(text("SELECT 1"))
    assert caught.value.document()["code"] == "database-unavailable"
    assert (caught.value.status, caught.value.act.value) == (503, "wait")
    assert await count(app, team="team_a") == 0


async def test_no_server_is_unavailable() -> None:
    database = Database("postgresql://nobody@/nothing?host=/nowhere-at-all")
    with pytest.raises(DatabaseUnavailable):
        await count(database)
    await database.close()


async def test_a_lock_that_is_not_to_be_had_is_unavailable(app: Database, worker: Database) -> None:
    await add_event(app, "team_a")
    lock = text("SELECT id FROM outbox_event FOR UPDATE NOWAIT")
    async with worker.begin() as first:
        await set_sweep(first)
        await first.execute(lock)
        with pytest.raises(DatabaseUnavailable):
            async with worker.begin() as second:
                await set_sweep(second)
                await second.execute(lock)


async def test_a_deadlock_is_unavailable_for_one_of_the_two(app: Database, worker: Database) -> None:
    ids = [await add_event(app, "team_a"), await add_event(app, "team_a")]
    lock = text("SELECT id FROM outbox_event WHERE id = :id FOR UPDATE")
    both = asyncio.Barrier(2)

    async def cross(first: int, second: int) -> bool:
        try:
            async with worker.begin() as session:
                await set_sweep(session)
                await session.execute(text("SET LOCAL lock_timeout = 0"))
                await session.execute(lock, {"id": first})
                await both.wait()
                await session.execute(lock, {"id": second})
        except DatabaseUnavailable:
            return False
        return True

    ended = await asyncio.gather(cross(*ids), cross(*reversed(ids)))
    assert sorted(ended) == [False, True]


async def test_a_fault_of_ours_is_not_called_unavailable(app: Database) -> None:
    with pytest.raises(DBAPIError) as caught:
        async with app.begin() as session:
            await session.execute(text("SELECT 1/0"))
    assert translate(caught.value) is None


async def test_a_statement_that_takes_too_long_is_ended(database_urls: DatabaseUrls) -> None:
    database = Database(database_urls.app, statement_timeout_ms=50)
    with pytest.raises(DatabaseUnavailable) as caught:
        async with database.begin() as session:
            await session.execute(text("SELECT pg_sleep(30)"))
    assert "statement timeout" in str(caught.value.__cause__)
    await database.close()
