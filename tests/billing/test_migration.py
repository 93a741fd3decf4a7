"""An installation from before there were wallets: teams get theirs, and what has cost gets meters, at the upgrade."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from alembic import command
from sqlalchemy import create_engine
from tests.support.postgres import TEST_SECRET, clone_database, drop_database

from dumont.core import new_id
from dumont.db import DatabaseUrls, migrate, psycopg_url, roles

pytestmark = pytest.mark.requires_postgres


@pytest.fixture
def before() -> Iterator[DatabaseUrls]:
    """A database as it was one revision before the wallets."""
    urls = clone_database()
    engine = create_engine(urls.owner)
    with engine.connect() as connection:
        config = roles._config()
        config.attributes["connection"] = connection
        command.downgrade(config, "0019_bookkeeping")
        connection.commit()
    engine.dispose()
    yield urls
    drop_database(urls)


def test_teams_and_their_costs_are_taken_over(before: DatabaseUrls) -> None:
    team, span = _old_installation(before)
    migrate(before.owner, TEST_SECRET)
    with psycopg.connect(psycopg_url(before.owner)) as connection:
        connection.execute("SET dumont.sweep = 'on'")
        assert _rows(connection, "SELECT mode, currency FROM wallet WHERE team_id = %s", team) == [("showback", "USD")]
        kinds = _rows(
            connection,
            "SELECT a.type, a.floor FROM wallet w JOIN ledger_account a ON a.id IN "
            "(w.account_id, w.showback_id, w.receivable_id, w.revenue_id) WHERE w.team_id = %s ORDER BY 1",
            team,
        )
        assert kinds == [("receivable", None), ("revenue", None), ("showback", None), ("wallet", 0)]
        meters = _rows(
            connection, "SELECT instance_id, kind, rate_hour_nano, charged, charged_to = from_at, to_at FROM meter"
            " WHERE id = %s", span,
        )  # fmt: skip
        assert meters == [("ins_old", "disk", 5_000_000, 0, True, None)]


def _rows(connection: "psycopg.Connection[Any]", query: str, *values: object) -> list[tuple[Any, ...]]:
    return connection.execute(query.encode(), values).fetchall()


def _old_installation(urls: DatabaseUrls) -> tuple[str, str]:
    team, span = new_id("team"), new_id("spn")
    with psycopg.connect(psycopg_url(urls.owner)) as connection:
        connection.execute("SET dumont.sweep = 'on'")
        for statement, values in (
            ("INSERT INTO team (id, name, created_at) VALUES (%s, 'old', now())", [team]),
            ("INSERT INTO workspace (id, team_id, created_at) VALUES ('wsp_old', %s, now())", [team]),
            (
                "INSERT INTO instance (id, team_id, workspace_id, created_by, status, provider, image, env, disk_gb, "
                "gpu_name, num_gpus, gpu_memory_mib, price_hour_nano, created_at) VALUES "
                "('ins_old', %s, 'wsp_old', 'usr', 'running', 'sandbox', 'x', '{}', 1, 'x', 1, 1, 1, now())",
                [team],
            ),
            (
                "INSERT INTO rental (id, team_id, instance_id, operation_id, provider, label, state, offer, "
                "machine_id, created_at) "
                "VALUES ('rnt_old', %s, 'ins_old', 'op', 'sandbox', 'l', 'asked', '{}', 'm', now())",
                [team],
            ),
            (
                "INSERT INTO rental_span (id, team_id, rental_id, kind, rate_hour_nano, from_at) "
                "VALUES (%s, %s, 'rnt_old', 'disk', 5000000, now())",
                [span, team],
            ),
        ):
            connection.execute(statement.encode(), values)
    return team, span
