"""Logging in: keys, pins, several addresses, and hosts that die."""

import asyncio
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncssh
import pytest

from dumont.remote import (
    HostKeyChanged,
    LoginRefused,
    RemoteError,
    RemoteUnreachable,
    SshIdentity,
    connect,
    first_reachable,
)

from .conftest import At, ServerStarter, gate_to, until


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_first_contact_reports_the_host_key(ssh_server: ServerStarter, identity: SshIdentity) -> None:
    """Without a pin the key is taken and told, so that it can be pinned; with it the next login works."""
    async with ssh_server() as server:
        async with connect(server.at, identity, host_key=None) as hands:
            assert hands.host_key == server.host_key
        async with connect(server.at, identity, host_key=f"{hands.host_key} a comment") as again:
            assert (await again.run("echo in", timeout=60)).stdout == "in\n"


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ecdsa-sha2-nistp256"])
async def test_changed_host_key_is_refused_before_login(
    ssh_server: ServerStarter, identity: SshIdentity, kind: str
) -> None:
    """Another key, of the same or of another type, ends the login, and both keys are told."""
    pinned = " ".join(asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().split()[:2])
    async with ssh_server(key=asyncssh.generate_private_key(kind)) as server:
        with pytest.raises(HostKeyChanged) as refusal:
            async with connect(server.at, identity, host_key=pinned):
                pass
        assert (refusal.value.expected, refusal.value.found) == (pinned, server.host_key)
        assert server.children == []


async def test_wrong_key_is_a_refused_login(ssh_server: ServerStarter) -> None:
    """A server that does not know our key is told apart from one that cannot be reached."""
    async with ssh_server() as server:
        with pytest.raises(LoginRefused):
            async with connect(server.at, SshIdentity.generate("stranger"), host_key=None):
                pass


async def test_closed_and_silent_ports_are_unreachable(identity: SshIdentity) -> None:
    """A closed port and one that accepts and says nothing are both unknown, within the time given."""
    with pytest.raises(RemoteUnreachable):
        async with connect(At("127.0.0.1", _closed_port()), identity, host_key=None):
            pass
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(RemoteUnreachable):
            async with connect(At("127.0.0.1", silent.getsockname()[1]), identity, host_key=None, timeout=0.3):
                pass
        assert time.monotonic() - began < 30


async def test_addresses_are_tried_in_order(ssh_server: ServerStarter, identity: SshIdentity) -> None:
    """A dead direct address is passed over for the proxy; the gravest failure is told when none works."""
    dead = At("127.0.0.1", _closed_port())
    async with ssh_server() as server:
        async with first_reachable([dead, server.at], identity, host_key=server.host_key) as hands:
            assert hands.address == server.at
        with pytest.raises(LoginRefused):
            async with first_reachable([server.at, dead], SshIdentity.generate("x"), host_key=None):
                pass
    with pytest.raises(RemoteUnreachable, match="no address"):
        async with first_reachable([], identity, host_key=None):
            pass


async def test_error_inside_the_block_is_not_another_address(ssh_server: ServerStarter, identity: SshIdentity) -> None:
    """What fails after the login belongs to the caller and is not answered by trying the next address."""
    entered = 0
    async with ssh_server() as server:
        with pytest.raises(RemoteError, match="mine"):
            async with first_reachable([server.at, server.at], identity, host_key=None):
                entered += 1
                raise RemoteError("mine")
    assert entered == 1


async def test_dead_host_is_noticed_by_keepalives(ssh_server: ServerStarter, identity: SshIdentity) -> None:
    """A host that goes silent in the middle of a command ends it as unknown, long before the command's time."""
    async with ssh_server() as server, gate_to(server.at.port) as (at, pull_plug):
        with pytest.raises(RemoteUnreachable):
            async with connect(at, identity, host_key=None, keepalive_seconds=0.1) as hands:
                running = asyncio.create_task(hands.run("sleep 600", timeout=600))
                await until(lambda: len(server.children) == 1)
                pull_plug()
                await asyncio.wait_for(running, 60)


async def test_cancellation_hangs_up(ssh_server: ServerStarter, identity: SshIdentity) -> None:
    """Cancelling whoever holds the hands closes the connection, and the command's input ends on the machine."""
    async with ssh_server() as server:

        async def work() -> None:
            async with connect(server.at, identity, host_key=None) as hands:
                wire = await hands.open_wire("cat >/dev/null; echo ended > ended")
                await wire.receive()

        task = asyncio.create_task(work())
        await until(lambda: len(server.children) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until((server.home / "ended").exists)


def test_identity_is_made_once_and_private(tmp_path: Path) -> None:
    """Many callers at once get one key; its file is 0600, and nothing else is left in the folder."""
    path = tmp_path / "keys" / "id_ed25519"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: SshIdentity.load_or_create(path), range(16)))
    assert len({identity.public_key for identity in made}) == 1
    assert made[0].public_key.startswith("ssh-ed25519 ")
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]
    assert SshIdentity.load_or_create(path) == made[0]
    assert made[0].private_key_openssh not in repr(made[0])


def test_unusable_identity_says_what_to_do(tmp_path: Path) -> None:
    """A file that is no key, or that others may read, is refused with a sentence and left as it is."""
    path = tmp_path / "id"
    path.write_text("not a key")
    path.chmod(0o600)
    with pytest.raises(RemoteError, match="not a private SSH key"):
        SshIdentity.load_or_create(path)
    path.chmod(0o644)
    with pytest.raises(RemoteError, match="chmod 600"):
        SshIdentity.load_or_create(path)
    assert path.read_text() == "not a key"
