"""Wallets and meters over a migrated database of the module, with an audit of the ledger behind each module."""

from collections.abc import AsyncIterator, Iterator

import pytest
from tests.billing.counter import Counter, open_counter
from tests.billing.till import Till, open_till
from tests.support.payments import Mailbox, open_mailbox
from tests.support.postgres import clone_database, drop_database
from tests.support.sandbox import SandboxProcess, start_sandbox

from dumont.db import DatabaseUrls
from dumont.ledger import audit


@pytest.fixture(scope="module")
def urls() -> Iterator[DatabaseUrls]:
    """A database of this module alone; before it goes, a full audit must pass."""
    urls = clone_database()
    try:
        yield urls
        found = audit(urls.owner, clearing_quiet_seconds=0)
        assert found.sound, [check for check in found.checks if check.broken]
    finally:
        drop_database(urls)


@pytest.fixture
async def till(urls: DatabaseUrls) -> AsyncIterator[Till]:
    async with open_till(urls) as till:
        yield till


@pytest.fixture(scope="module")
def psp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    """A sandbox for its payment service."""
    running = start_sandbox(tmp_path_factory.mktemp("psp"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def mailbox() -> Iterator[Mailbox]:
    """Where the payment service brings its notices."""
    with open_mailbox() as box:
        yield box


@pytest.fixture
async def counter(urls: DatabaseUrls, psp: SandboxProcess, mailbox: Mailbox) -> AsyncIterator[Counter]:
    mailbox.taken.clear()
    async with open_counter(urls, psp, mailbox) as counter:
        yield counter
