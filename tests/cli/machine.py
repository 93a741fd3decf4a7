"""A machine to reach over SSH: a real asyncssh server over a real folder, accepting the account's keys."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh
from tests.client.server import Api


@dataclass
class Machine:
    """A machine that runs: where it listens, its host key, and its folders."""

    port: int
    host_key: str
    root: Path
    workspace: Path

    def access(self, **other: Any) -> dict[str, Any]:
        """What the API says of it."""
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "user": "root",
            "host_key": self.host_key,
            "workspace_root": str(self.workspace),
            "ready": True,
            **other,
        }


class _Door(asyncssh.SSHServer):
    def __init__(self, api: Api) -> None:
        self._api = api

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        known = [asyncssh.import_public_key(row["public_key"]) for row in self._api.ssh_keys]
        return username == "root" and key in known


async def _shell(process: asyncssh.SSHServerProcess[bytes], root: Path) -> None:
    command = ["/bin/sh", "-c", process.command] if process.command else ["/bin/sh"]
    child = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=root,
        env={"HOME": str(root), "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"},
    )
    feed = asyncio.create_task(_pump(process.stdin, child.stdin))
    await asyncio.gather(_pump(child.stdout, process.stdout), _pump(child.stderr, process.stderr))
    process.exit(await child.wait())
    feed.cancel()


async def _pump(source: Any, sink: Any) -> None:
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()
    if isinstance(sink, asyncio.StreamWriter):
        sink.close()


class _Files(asyncssh.SFTPServer):
    """Ends a file session with an exit status, as OpenSSH's server does and its scp expects."""

    def __init__(self, channel: "asyncssh.SSHServerChannel[bytes]") -> None:
        super().__init__(channel)
        self._ending = channel

    def exit(self) -> None:
        self._ending.exit(0)


@contextmanager
def machine(api: Api, root: Path) -> Iterator[Machine]:
    """Run a machine over a folder until the block ends."""
    workspace = root / "work space"
    workspace.mkdir(parents=True)
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def listen() -> asyncssh.SSHAcceptor:
        return await asyncssh.create_server(
            lambda: _Door(api),
            "127.0.0.1",
            0,
            server_host_keys=[host_key],
            process_factory=lambda process: _shell(process, root),
            sftp_factory=_Files,
            encoding=None,
        )

    async def close(acceptor: asyncssh.SSHAcceptor) -> None:
        acceptor.close()
        await acceptor.wait_closed()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    acceptor = asyncio.run_coroutine_threadsafe(listen(), loop).result(10)
    public = host_key.export_public_key().decode().strip()
    try:
        yield Machine(acceptor.get_port(), public, root, workspace)
    finally:
        asyncio.run_coroutine_threadsafe(close(acceptor), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
