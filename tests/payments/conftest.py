"""A sandbox whose payment service is judged, and somebody who takes its notices."""

from collections.abc import AsyncIterator, Iterator

import pytest
from tests.support.payments import Mailbox, Payer, open_mailbox, pix_service
from tests.support.sandbox import SandboxProcess, start_sandbox

from dumont.payments import PixService


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    """One sandbox for the module."""
    running = start_sandbox(tmp_path_factory.mktemp("psp"))
    yield running
    running.stop()


@pytest.fixture
async def service(sandbox: SandboxProcess) -> AsyncIterator[PixService]:
    """The plug-in."""
    service = pix_service(sandbox)
    yield service
    await service.close()


@pytest.fixture(scope="module")
def payer(sandbox: SandboxProcess) -> Payer:
    """Somebody who pays."""
    return Payer(sandbox)


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    """Somebody who takes notices."""
    with open_mailbox() as box:
        yield box
