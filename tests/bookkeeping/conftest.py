"""Fixtures of the bookkeeping's tests: one database a module with an audit behind it, its API, and one household."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.bookkeeping.household import Household
from tests.bookkeeping.served import Served
from tests.ledger.books import Books
from tests.support.api import running_api
from tests.support.postgres import clone_database, drop_database

from dumont import bookkeeping
from dumont.core import Settings
from dumont.db import DatabaseUrls
from dumont.ledger import audit


@pytest.fixture(scope="module")
def urls() -> Iterator[DatabaseUrls]:
    """A database of this module alone; before it goes, a full audit must pass and no deadlock may have been."""
    made = clone_database()
    try:
        yield made
        found = audit(made.owner, clearing_quiet_seconds=0)
        assert found.sound, [check for check in found.checks if check.broken]
        deadlocks = Books(made).rows("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        assert deadlocks == [(0,)]
    finally:
        drop_database(made)


@pytest.fixture
async def home(urls: DatabaseUrls) -> AsyncIterator[Household]:
    """A team with an API of its own process, two accounts with 100.00 and 0.00, and a category of each type."""
    settings = Settings(home=Path("/nonexistent"), limit_token_requests_minute=0, limit_token_requests_at_once=0)
    async with running_api(urls, *bookkeeping.routers, settings=settings) as api:
        api.app.state.clock = settings.clock
        yield await Household.furnish(api, Books(urls))


@pytest.fixture(scope="module")
def served(urls: DatabaseUrls) -> Iterator[Served]:
    """A household whose API is served over HTTP, by a thread, for the whole module."""
    made = Served(urls)
    made.start()
    yield made
    made.stop()
