"""An SSH key and a client for the machines of a sandbox."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import asyncssh
import pytest
from tests.support.sandbox import SandboxProcess, start_sandbox

Login = Callable[[dict[str, Any]], AbstractAsyncContextManager[asyncssh.SSHClientConnection]]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, public_key: str) -> Iterator[SandboxProcess]:
    """One sandbox with an account key, for tests that look only at what they rented themselves."""
    box = start_sandbox(tmp_path_factory.mktemp("shared"))
    box.add_key(public_key)
    yield box
    box.stop()


@pytest.fixture(scope="session")
def ssh_key() -> asyncssh.SSHKey:
    """A client key."""
    return asyncssh.generate_private_key("ssh-ed25519")


@pytest.fixture(scope="session")
def public_key(ssh_key: asyncssh.SSHKey) -> str:
    """Its public half in one line."""
    return ssh_key.export_public_key().decode().strip()


@pytest.fixture
def login(ssh_key: asyncssh.SSHKey) -> Login:
    """Open a connection to the machine of an instance document."""

    @asynccontextmanager
    async def connect(instance: dict[str, Any]) -> AsyncIterator[asyncssh.SSHClientConnection]:
        port = int(instance["ports"]["22/tcp"][0]["HostPort"])
        async with asyncssh.connect(
            instance["public_ipaddr"], port, username="root", client_keys=[ssh_key], known_hosts=None, config=None
        ) as connection:
            yield connection

    return connect
