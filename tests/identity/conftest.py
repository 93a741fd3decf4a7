"""The API of identity alone, over a database of its own."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest
from tests.support.api import Api, running_api

from dumont.db import DatabaseUrls, psycopg_url

Rows = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
async def api(database_urls: DatabaseUrls) -> AsyncIterator[Api]:
    async with running_api(database_urls) as running:
        yield running


@pytest.fixture
def sql(database_urls: DatabaseUrls) -> Rows:
    """Run a statement as the owner of the database and return its rows."""

    def run(statement: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(psycopg_url(database_urls.owner)) as connection:
            cursor = connection.execute(statement, values)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    return run
