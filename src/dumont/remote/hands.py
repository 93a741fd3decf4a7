"""What we do on a machine once we are logged in."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from posixpath import dirname
from typing import Protocol

import asyncssh

from dumont.remote.errors import RemoteError, RemoteUnreachable, translated
from dumont.remote.wire import Wire

_MOST_OUTPUT = 16 << 20


class HostPort(Protocol):
    """A host, a port and a user; a provider's address has them."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def user(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ran to its end; a negative status is the signal that killed it."""

    exit_status: int
    stdout: str
    stderr: str


class Hands:
    """One login on one machine; made by `connect`, usable until that block ends."""

    def __init__(self, connection: asyncssh.SSHClientConnection, address: HostPort, host_key: str) -> None:
        self.address = address
        self.host_key = host_key
        self._connection = connection
        self._where = f"{address.host}:{address.port}"
        self._files: asyncssh.SFTPClient | None = None
        self._files_lock = asyncio.Lock()
        self._wires: list[Wire] = []

    async def run(self, command: str, *, timeout: float, input: bytes | None = None) -> Finished:  # noqa: A002
        """Run a command in the user's shell and return how it ended.

        Units: `timeout` in seconds.
        Errors: RemoteUnreachable when it did not end in time or the connection dropped (whether it ran is unknown);
        RemoteError when it wrote more than 16 MiB.
        """
        with translated(self._where):
            process = await self._connection.create_process(command, encoding=None)
            try:
                async with asyncio.timeout(timeout):
                    out, err, _ = await asyncio.gather(
                        self._capped(process.stdout), self._capped(process.stderr), _feed(process, input)
                    )
                    await process.wait_closed()
            except TimeoutError as error:
                raise RemoteUnreachable(
                    f"A command on {self._where} did not end within {timeout:g} s; whether it did its work is unknown."
                ) from error
            finally:
                process.close()
            status = process.returncode
        if status is None:
            raise RemoteUnreachable(f"The connection to {self._where} was lost while a command ran.")
        return Finished(status, out.decode(errors="replace"), err.decode(errors="replace"))

    async def _capped(self, stream: "asyncssh.SSHReader[bytes]") -> bytes:
        found = bytearray()
        while piece := await stream.read(256 << 10):
            found += piece
            if len(found) > _MOST_OUTPUT:
                raise RemoteError(f"A command on {self._where} wrote more than 16 MiB.")
        return bytes(found)

    async def put_file(self, local: Path, remote: str, mode: int | None = None) -> None:
        """Copy a local file to the machine, making missing folders.

        Guarantees: appears whole under its name, or not at all.
        Errors: RemoteError when the local file cannot be read or the machine refuses.
        """
        try:
            with local.open("rb"):
                pass
        except OSError as error:
            raise RemoteError(f"{local} cannot be read: {error.strerror}.") from error
        async with self._arriving(remote, mode) as (files, temporary):
            await files.put(str(local), temporary)

    async def put_bytes(self, data: bytes, remote: str, mode: int | None = None) -> None:
        """Write bytes to a file on the machine, making missing folders; whole or not at all."""
        async with self._arriving(remote, mode) as (files, temporary):
            async with files.open(temporary, "wb") as stream:
                await stream.write(data)

    async def exists(self, remote: str) -> bool:
        """Tell whether a path exists on the machine; a dangling link does not."""
        with translated(self._where):
            return await (await self._sftp()).exists(remote)

    async def home(self) -> str:
        """Return the absolute path of the folder in which a login starts."""
        with translated(self._where):
            return str(await (await self._sftp()).realpath("."))

    async def open_wire(self, command: str) -> Wire:
        """Start a program and speak JSON lines with it."""
        with translated(self._where):
            process = await self._connection.create_process(command, encoding=None)
        wire = Wire(process, self._where)
        self._wires.append(wire)
        return wire

    @asynccontextmanager
    async def forward_back(self, host: str, port: int) -> AsyncIterator[int]:
        """Yield a loopback port on the machine that leads to `host:port` as seen from here.

        Errors: RemoteError when the machine's SSH server does not allow it.
        """
        with translated(self._where):
            listener = await self._connection.forward_remote_port("127.0.0.1", 0, host, port)
        try:
            yield listener.get_port()
        finally:
            with suppress(asyncssh.Error, OSError):
                listener.close()
                await listener.wait_closed()

    async def close(self) -> None:
        """Close the wires; the login itself belongs to `connect`."""
        for wire in self._wires:
            await wire.close()

    async def _sftp(self) -> asyncssh.SFTPClient:
        async with self._files_lock:
            if self._files is None:
                self._files = await self._connection.start_sftp_client()
            return self._files

    @asynccontextmanager
    async def _arriving(self, remote: str, mode: int | None) -> AsyncIterator[tuple[asyncssh.SFTPClient, str]]:
        """Yield a temporary name beside the file; rename it into place, or remove it."""
        with translated(self._where):
            files = await self._sftp()
            if dirname(remote):
                await files.makedirs(dirname(remote), exist_ok=True)
            temporary = f"{remote}.part-{secrets.token_hex(6)}"
            try:
                yield files, temporary
                if mode is not None:
                    await files.chmod(temporary, mode)
                await files.posix_rename(temporary, remote)
            except (asyncssh.SFTPError, RemoteError):
                with suppress(asyncssh.Error, OSError):
                    await files.remove(temporary)
                raise


async def _feed(process: "asyncssh.SSHClientProcess[bytes]", data: bytes | None) -> None:
    """Write a command's input; a command that ends without reading it is no error."""
    with suppress(BrokenPipeError, ConnectionResetError):
        if data:
            process.stdin.write(data)
            await process.stdin.drain()
        process.stdin.write_eof()
