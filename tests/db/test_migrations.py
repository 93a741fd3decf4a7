"""Migrations: idempotent, safe with two starters, and honest where the roles cannot be made."""

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from tests.support.postgres import TEST_SECRET, clone_database, drop_database

from dumont.core import load_settings
from dumont.db import (
    Database,
    DatabaseUnavailable,
    DatabaseUrls,
    migrate,
    psycopg_url,
    publish,
    resolve_urls,
    set_team,
    with_role,
)

pytestmark = pytest.mark.requires_postgres


@pytest.fixture
def empty() -> Iterator[DatabaseUrls]:
    urls = clone_database(empty=True)
    yield urls
    drop_database(urls)


def rows(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(psycopg_url(url)) as connection:
        return connection.execute(query.encode()).fetchall()


def schema(url: str) -> list[tuple[object, ...]]:
    return rows(
        url,
        "SELECT table_schema, table_name, column_name FROM information_schema.columns "
        "WHERE table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2, 3",
    )


def test_a_second_migration_changes_nothing(empty: DatabaseUrls) -> None:
    migrate(empty.owner, TEST_SECRET)
    before = schema(empty.owner), rows(empty.owner, "SELECT version_num FROM alembic_version")
    assert len(before[1]) == 1 and ("public", "outbox_event", "topic") in before[0]
    migrate(empty.owner, TEST_SECRET)
    assert (schema(empty.owner), rows(empty.owner, "SELECT version_num FROM alembic_version")) == before


def test_two_migrations_at_once_make_one_schema(empty: DatabaseUrls) -> None:
    with ThreadPoolExecutor(2) as pool:
        for ended in [pool.submit(migrate, empty.owner, TEST_SECRET) for _ in range(2)]:
            ended.result(60)
    assert len(rows(empty.owner, "SELECT version_num FROM alembic_version")) == 1
    assert rows(empty.app, "SELECT count(*) FROM outbox_event") == [(0,)]


def test_the_roles_that_were_made_are_found_and_bound(database_urls: DatabaseUrls, tmp_path: Path) -> None:
    found = resolve_urls(load_settings({"DUMONT_HOME": str(tmp_path)}), TEST_SECRET, database_urls.owner)
    assert found == database_urls and found.second_wall
    assert rows(found.app, "SELECT current_user::text") == [("dumont_app",)]
    assert rows(found.worker, "SELECT current_user::text") == [("dumont_worker",)]


def test_addresses_in_the_settings_win(database_urls: DatabaseUrls, tmp_path: Path) -> None:
    settings = load_settings(
        {"DUMONT_HOME": str(tmp_path), "DUMONT_DATABASE_APP_URL": psycopg_url(database_urls.worker)}
    )
    assert resolve_urls(settings, TEST_SECRET, database_urls.owner).app == database_urls.worker
    owner = load_settings({"DUMONT_HOME": str(tmp_path), "DUMONT_DATABASE_APP_URL": database_urls.owner})
    assert not resolve_urls(owner, TEST_SECRET, database_urls.owner).second_wall


async def test_an_owner_who_may_not_make_roles_still_has_a_product_and_knows_that_a_wall_is_missing(
    empty: DatabaseUrls, tmp_path: Path
) -> None:
    name, password = f"plain_{secrets.token_hex(4)}", secrets.token_hex(8)
    with psycopg.connect(psycopg_url(empty.owner), autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'".encode())
        admin.execute(f"ALTER DATABASE {admin.info.dbname} OWNER TO {name}".encode())
    plain = with_role(empty.owner, name, password)
    try:
        migrate(plain, b"a secret that no role knows")
        urls = resolve_urls(load_settings({"DUMONT_HOME": str(tmp_path)}), b"a secret that no role knows", plain)
        assert (urls.app, urls.worker, urls.second_wall) == (plain, plain, False)
        database = Database(urls.app)
        async with database.begin() as session:
            await set_team(session, "team_a")
            await publish(session, topic="t", resource_type="r", resource_id="1", data={}, team_id="team_a")
        await database.close()
        assert rows(plain, "SELECT count(*) FROM outbox_event") == [(0,)]
        assert rows(empty.owner, "SELECT count(*) FROM outbox_event") == [(1,)]
    finally:
        with psycopg.connect(psycopg_url(empty.owner), autocommit=True) as admin:
            admin.execute(f"REASSIGN OWNED BY {name} TO CURRENT_USER".encode())
            admin.execute(f"DROP OWNED BY {name}".encode())
            admin.execute(f"DROP ROLE {name}".encode())


def test_no_server_is_unavailable() -> None:
    with pytest.raises(DatabaseUnavailable):
        migrate("postgres://nobody@/nothing?host=/nowhere-at-all", TEST_SECRET)
