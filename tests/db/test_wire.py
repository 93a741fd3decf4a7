"""A connection at the level of libpq: whatever happens, a call ends, and by its own limit."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import psycopg
import pytest
from tests.support.postgres import clone_database, drop_database

from dumont.db import Wire, open_wire, psycopg_url

pytestmark = pytest.mark.requires_postgres

ONE = b"SELECT 1"
LONG = b"SELECT pg_sleep(100)"
LATE_SECONDS = 50.0
"""By then even a slow machine has ended what ends."""


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    urls = clone_database(empty=True)
    wire = await open_wire(psycopg_url(urls.owner))
    yield wire
    await wire.close()
    drop_database(urls)


async def ended(call: "Awaitable[Any]") -> Any:
    """Wait for a call, which must not outlast the test."""
    async with asyncio.timeout(LATE_SECONDS):
        return await call


async def test_a_shorter_limit_counts(wire: Wire) -> None:
    """A call is ended by its own limit, whatever the one before was given; after that nothing is asked any more."""
    assert await wire.call(ONE, [], seconds=90.0) == [(b"1",)]
    with pytest.raises(TimeoutError, match="did not answer"):
        await ended(wire.call(LONG, [], seconds=0.3))
    with pytest.raises(psycopg.OperationalError):
        await wire.call(ONE, [], seconds=1.0)


async def test_a_close_ends_a_call(wire: Wire) -> None:
    """Who waits for an answer hears that the connection was closed."""
    call = asyncio.create_task(wire.call(LONG, [], seconds=90.0))
    await asyncio.sleep(0)
    await wire.close()
    with pytest.raises(psycopg.OperationalError, match="closed"):
        await ended(call)


async def test_a_second_call_takes_nothing_from_the_first(wire: Wire) -> None:
    """One that comes during another is refused, and the other still ends by its limit."""
    call = asyncio.create_task(wire.call(LONG, [], seconds=0.5))
    await asyncio.sleep(0)
    with pytest.raises(psycopg.OperationalError):
        await wire.call(ONE, [], seconds=90.0)
    with pytest.raises(TimeoutError, match="did not answer"):
        await ended(call)
