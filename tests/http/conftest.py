"""The API with the notes room, over a database of its own."""

from collections.abc import AsyncIterator

import pytest
from tests.http.notes import Gate, make_table, notes_routers
from tests.support.api import Api, running_api

from dumont.db import DatabaseUrls


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def api(database_urls: DatabaseUrls, gate: Gate) -> AsyncIterator[Api]:
    make_table(database_urls)
    async with running_api(database_urls, *notes_routers(gate)) as running:
        yield running
