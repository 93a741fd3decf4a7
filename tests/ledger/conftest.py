"""Fixtures of the money suites: a migrated database for each module, books over it, and an audit behind each module.

The server is embedded, or that of `DATABASE_URL`.
"""

from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session, sessionmaker
from tests.ledger.books import Books, Household
from tests.ledger.proxy import Proxy
from tests.support.postgres import clone_database, drop_database

from dumont.db import Database, DatabaseUrls
from dumont.ledger import audit

pytest.register_assert_rewrite("tests.ledger.checks")


@pytest.fixture(scope="module")
def postgres_db() -> Iterator[DatabaseUrls]:
    """A database of this module alone; before it goes, a full audit must pass and no deadlock may have been."""
    urls = clone_database()
    try:
        yield urls
        expect_sound(urls)
    finally:
        drop_database(urls)


def expect_sound(urls: DatabaseUrls) -> None:
    """Audit a ledger in full, and see that its database never had a deadlock."""
    found = audit(urls.owner, clearing_quiet_seconds=0)
    assert found.sound, [check for check in found.checks if check.broken]
    assert Books(urls).deadlocks() == 0


@pytest.fixture(scope="module")
def postgres_engine(postgres_db: DatabaseUrls) -> Iterator[Engine]:
    """A synchronous engine as the owner, for tests that hold locks and transactions of their own."""
    engine = create_engine(postgres_db.owner)
    yield engine
    engine.dispose()


@pytest.fixture
def postgres_session_factory(postgres_engine: Engine) -> "sessionmaker[Session]":
    """Sessions of the owner."""
    return sessionmaker(postgres_engine)


@pytest.fixture(scope="module")
def books(postgres_db: DatabaseUrls) -> Books:
    """The module's ledger."""
    return Books(postgres_db)


@pytest.fixture
def household(books: Books) -> Household:
    """Somebody with a team, two accounts of which the first has 100, and a category, all of this test alone."""
    return books.household()


@pytest.fixture(autouse=True, scope="module")
def audited(postgres_db: DatabaseUrls) -> None:
    """See that each module of this folder has a ledger, whose audit runs behind it."""


@pytest.fixture
async def database(postgres_db: DatabaseUrls) -> AsyncIterator[Database]:
    """Sessions as the application's role."""
    database = Database(postgres_db.app, pool_size=12)
    yield database
    await database.close()


@pytest.fixture
def proxy(postgres_db: DatabaseUrls) -> Iterator[Proxy]:
    """A proxy in front of the module's database."""
    with Proxy(postgres_db.app).running() as proxy:
        yield proxy
