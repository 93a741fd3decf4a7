"""One sandbox marketplace for these tests, and the whole API over a database of its own for each."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.support.sandbox import SandboxProcess, start_in
from tests.support.whole_api import WholeApi, whole_api

from dumont.db import DatabaseUrls


@pytest.fixture(scope="session")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    """The marketplace; nothing is rented here."""
    sandbox = start_in(tmp_path_factory.mktemp("market") / "sandbox", offers=300)
    yield sandbox
    sandbox.stop()


@pytest.fixture(autouse=True)
def good_weather(market: SandboxProcess) -> Iterator[None]:
    yield
    market.control.clear_faults()


@pytest.fixture
async def api(database_urls: DatabaseUrls, market: SandboxProcess, tmp_path: Path) -> AsyncIterator[WholeApi]:
    async with whole_api(database_urls, market, tmp_path) as running:
        yield running
