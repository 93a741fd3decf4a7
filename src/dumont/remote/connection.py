"""Log in to a machine with its host key pinned, notice when it dies, and always hang up."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import asyncssh

from dumont.remote.errors import HostKeyChanged, LoginRefused, RemoteError, RemoteUnreachable, translated
from dumont.remote.hands import Hands, HostPort
from dumont.remote.identity import SshIdentity

# At INFO asyncssh writes whole command lines, which may carry signed addresses.
asyncssh.set_log_level("WARNING")

_HOST_KEYS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "rsa-sha2-512", "rsa-sha2-256")
_CIPHERS = ("aes256-gcm@openssh.com", "aes128-gcm@openssh.com", "aes256-ctr", "aes128-ctr")
"""Those first that the processor computes by itself; every sshd of the last ten years has all of them."""
_MISSED_KEEPALIVES = 3
_GOODBYE_SECONDS = 3.0


class _HostKeyWatch(asyncssh.SSHClient):
    """Judge the host key: the pinned one, or at first contact any, which is then reported."""

    def __init__(self, pinned: str | None) -> None:
        self.pinned = _plain(pinned)
        self.found = ""

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.found = _plain(key.export_public_key("openssh").decode("ascii"))
        return not self.pinned or self.found == self.pinned


@asynccontextmanager
async def connect(
    address: HostPort,
    identity: SshIdentity,
    *,
    host_key: str | None,
    timeout: float = 15,
    keepalive_seconds: float = 3,
) -> AsyncIterator[Hands]:
    """Log in and yield hands; hang up at the end of the block, at once when it ends by an error or cancellation.

    Shapes: `host_key` is "ssh-ed25519 AAAA..."; None = first contact: any is taken, see `hands.host_key`.
    Units: `timeout` bounds the whole login. A silent host is given up after four `keepalive_seconds`.
    Errors: RemoteUnreachable, LoginRefused, HostKeyChanged; ValueError for a pin that is not a key.
    """
    watch = _HostKeyWatch(host_key)
    connection = await _login(address, identity, watch, timeout, keepalive_seconds)
    hands = Hands(connection, address, watch.found)
    try:
        yield hands
        await hands.close()
    except BaseException:
        connection.abort()
        raise
    finally:
        connection.close()
        with suppress(asyncssh.Error, OSError):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await connection.wait_closed()


@asynccontextmanager
async def first_reachable(
    addresses: Sequence[HostPort],
    identity: SshIdentity,
    *,
    host_key: str | None,
    timeout: float = 15,
    keepalive_seconds: float = 3,
) -> AsyncIterator[Hands]:
    """Log in at the first of the addresses that lets us in, tried in order.

    Units: `timeout` is per address.
    Errors: the gravest of what the addresses answered: HostKeyChanged, else LoginRefused, else RemoteUnreachable.
    """
    failures: list[RemoteError] = []
    async with AsyncExitStack() as stack:
        for address in addresses:
            login = connect(address, identity, host_key=host_key, timeout=timeout, keepalive_seconds=keepalive_seconds)
            try:
                hands = await stack.enter_async_context(login)
            except RemoteError as error:
                failures.append(error)
                continue
            yield hands
            return
    raise _gravest(failures)


def _gravest(failures: Sequence[RemoteError]) -> RemoteError:
    for kind in (HostKeyChanged, LoginRefused):
        for failure in failures:
            if isinstance(failure, kind):
                return failure
    if not failures:
        return RemoteUnreachable("The machine has no address yet.")
    return RemoteUnreachable(" ".join(failure.detail for failure in failures))


async def _login(
    address: HostPort, identity: SshIdentity, watch: _HostKeyWatch, timeout: float, keepalive_seconds: float
) -> asyncssh.SSHClientConnection:
    where = f"{address.host}:{address.port}"
    options = _options(address, identity, watch, timeout, keepalive_seconds)
    with translated(where):
        try:
            async with asyncio.timeout(timeout):
                return await asyncssh.connect(address.host, address.port, **options)
        except asyncssh.HostKeyNotVerifiable as error:
            raise HostKeyChanged(
                f"{where} shows another host key than the one we know.", expected=watch.pinned, found=watch.found
            ) from error


def _options(
    address: HostPort, identity: SshIdentity, watch: _HostKeyWatch, timeout: float, keepalive_seconds: float
) -> dict[str, Any]:
    """Nothing of the person who runs us takes part: no config file, no agent, no other key.

    The empty known hosts leave every judgement to the watch; None would switch checking off.
    """
    kind = watch.pinned.split(" ")[0] if watch.pinned else "ssh-ed25519"
    first = [name for name in _HOST_KEYS if name == kind or (kind == "ssh-rsa" and name.startswith("rsa-"))]
    return {
        "username": address.user,
        "client_factory": lambda: watch,
        "client_keys": [asyncssh.import_private_key(identity.private_key_openssh)],
        "server_host_key_algs": [*first, *(name for name in _HOST_KEYS if name not in first)],
        "encryption_algs": _CIPHERS,
        "known_hosts": ([], [], []),
        "preferred_auth": "publickey",
        "agent_path": None,
        "config": [],
        "connect_timeout": timeout,
        "login_timeout": timeout,
        "keepalive_interval": keepalive_seconds,
        "keepalive_count_max": _MISSED_KEEPALIVES,
    }


def _plain(host_key: str | None) -> str:
    """Return type and body of a key line without its comment."""
    if host_key is None:
        return ""
    words = host_key.split()
    if len(words) < 2:
        raise ValueError("a pinned host key is a type and a body, as in 'ssh-ed25519 AAAA...'")
    return " ".join(words[:2])
