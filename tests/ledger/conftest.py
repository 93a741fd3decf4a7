"""Fixtures of the money suites: a migrated database for each module, books over it, and an audit behind each module."""

from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session, sessionmaker
from tests.ledger.books import Books
from tests.support.postgres import clone_database, drop_database

from dumont.db import Database, DatabaseUrls
from dumont.ledger import audit


@pytest.fixture(scope="module")
def postgres_db() -> Iterator[DatabaseUrls]:
    """A database of this module alone; before it goes, a full audit must pass and no deadlock may have been."""
    urls = clone_database()
    try:
        yield urls
        found = audit(urls.owner, clearing_quiet_seconds=0)
        assert found.sound, [check for check in found.checks if check.broken]
        deadlocks = Books(urls).rows("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        assert deadlocks == [(0,)]
    finally:
        drop_database(urls)


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


@pytest.fixture(autouse=True, scope="module")
def audited(postgres_db: DatabaseUrls) -> None:
    """See that each module of this folder has a ledger, whose audit runs behind it."""


@pytest.fixture
async def database(postgres_db: DatabaseUrls) -> AsyncIterator[Database]:
    """Sessions as the application's role."""
    database = Database(postgres_db.app, pool_size=12)
    yield database
    await database.close()
