"""A real SSH server over this machine's own shell and files, and a gate in front of it that can go silent."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from dumont.remote import SshIdentity


@dataclass(frozen=True)
class At:
    """Where a server listens."""

    host: str
    port: int
    user: str = "root"


@dataclass
class SshServer:
    """One running SSH server of the tests; `children` are the processes that its logins started."""

    at: At
    host_key: str
    home: Path
    children: list[asyncio.subprocess.Process] = field(default_factory=list)


class _Gatekeeper(asyncssh.SSHServer):
    def __init__(self, accepted: str, tunnels: bool) -> None:
        self._accepted, self._tunnels = accepted, tunnels

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return key.export_public_key().decode().split()[:2] == self._accepted.split()[:2]

    def server_requested(self, listen_host: str, listen_port: int) -> bool:
        return self._tunnels


ServerStarter = Callable[..., Any]


@pytest.fixture
def identity() -> SshIdentity:
    return SshIdentity.generate("test")


async def _run(
    process: "asyncssh.SSHServerProcess[bytes]", home: Path, profile: str, children: list[asyncio.subprocess.Process]
) -> None:
    """Run one command in the home, as sshd would; `vanish` says half a word and closes without a status."""
    if process.command == "vanish":
        process.stdout.write(b"half")
        process.close()
        return
    child = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", f"{profile}{process.command}"),
        **dict.fromkeys(("stdin", "stdout", "stderr"), asyncio.subprocess.PIPE),
        cwd=home,
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
        start_new_session=True,
    )
    children.append(child)
    feeding = asyncio.create_task(_feed(process.stdin, child))
    await asyncio.gather(_pump(child.stdout, process.stdout), _pump(child.stderr, process.stderr))
    process.exit(await child.wait())
    await feeding


@pytest.fixture
def ssh_server(tmp_path: Path, identity: SshIdentity) -> ServerStarter:
    """Start a server that accepts `identity`; files are real paths, a login starts in `tmp_path/home`."""

    @asynccontextmanager
    async def start(
        *, key: asyncssh.SSHKey | None = None, port: int = 0, tunnels: bool = True, profile: str = ""
    ) -> AsyncIterator[SshServer]:
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        host_key = key or asyncssh.generate_private_key("ssh-ed25519")
        children: list[asyncio.subprocess.Process] = []

        async def serve(process: asyncssh.SSHServerProcess[bytes]) -> None:
            await _run(process, home, profile, children)

        listener = await asyncssh.listen(
            "127.0.0.1",
            port,
            server_host_keys=[host_key],
            server_factory=lambda: _Gatekeeper(identity.public_key, tunnels),
            process_factory=serve,
            sftp_factory=lambda chan: _HomeFiles(chan, home),
            encoding=None,
        )
        try:
            public = " ".join(host_key.export_public_key().decode().split()[:2])
            yield SshServer(At("127.0.0.1", listener.get_port()), public, home, children)
        finally:
            listener.close()
            await listener.wait_closed()
            await _end(children)

    return start


class _HomeFiles(asyncssh.SFTPServer):
    """Real paths; relative ones start in the home, as after a login."""

    def __init__(self, chan: Any, home: Path) -> None:
        super().__init__(chan)
        self._home = home

    def map_path(self, path: bytes) -> bytes:
        return os.fsencode(self._home / os.fsdecode(path))

    def realpath(self, path: bytes) -> bytes:
        return os.path.realpath(self.map_path(path))


async def _pump(reader: Any, writer: Any) -> None:
    """Carry bytes until their end; when nobody takes them any more they are dropped, so that a child can be reaped."""
    with suppress(OSError, asyncssh.Error):
        while data := await reader.read(65536):
            with suppress(OSError, asyncssh.Error):
                writer.write(data)
                await writer.drain()


async def _feed(reader: Any, child: asyncio.subprocess.Process) -> None:
    assert child.stdin is not None
    await _pump(reader, child.stdin)
    with suppress(OSError):
        child.stdin.close()


async def _end(children: list[asyncio.subprocess.Process]) -> None:
    for child in children:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        await child.wait()


@asynccontextmanager
async def gate_to(port: int) -> AsyncIterator[tuple[At, Callable[[], None]]]:
    """Relay to a port until the returned switch is thrown; from then on bytes vanish, as behind a pulled plug."""
    silent = asyncio.Event()
    writers: list[asyncio.StreamWriter] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not silent.is_set():
                writer.write(data)
                await writer.drain()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        writers.extend((writer, far_writer))
        await asyncio.gather(relay(reader, far_writer), relay(far_reader, writer), return_exceptions=True)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield At("127.0.0.1", server.sockets[0].getsockname()[1]), silent.set
    finally:
        server.close()
        for writer in writers:
            writer.close()


async def until(truth: Callable[[], bool | Awaitable[bool]], *, seconds: float = 60) -> None:
    """Poll until something is true, or fail at the deadline."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        found = truth()
        if found is True or (not isinstance(found, bool) and await found):
            return
        assert asyncio.get_running_loop().time() < deadline, "it did not come true in time"
        await asyncio.sleep(0.02)
