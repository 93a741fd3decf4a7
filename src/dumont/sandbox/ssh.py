"""The SSH servers of the machines: one port each, all in this process, commands run by the real bash."""

import asyncio
import fcntl
import os
import posixpath
import signal
import socket
import struct
import termios
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from dumont.sandbox.streams import carry

# Where Linux keeps tcpi_bytes_acked and tcpi_bytes_received in struct tcp_info: include/uapi/linux/tcp.h.
_BYTES_ACKED_AT = 120
_TCP_INFO_BYTES = 256
_LOOPBACK = ("", "localhost", "127.0.0.1", "0.0.0.0", "*")


@dataclass(frozen=True)
class Door:
    """What one machine's SSH server needs; the callables are asked anew at each use.

    `environment` raises OSError once the machine is going down, so that no command starts behind its back.
    """

    number: int
    root: Path
    environment: Callable[[], dict[str, str]]
    admits: Callable[[str], bool]
    noticed: Callable[[str], None]


class SshDoor:
    """An open SSH port of a machine."""

    def __init__(self, acceptor: asyncssh.SSHAcceptor, connections: set[asyncssh.SSHServerConnection]) -> None:
        self._acceptor = acceptor
        self._connections = connections

    async def close(self) -> None:
        """Close the port and cut every connection."""
        self._acceptor.close()
        for connection in list(self._connections):
            connection.abort()
        await self._acceptor.wait_closed()

    @property
    def guests(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    def drop(self) -> int:
        """Cut every connection and return how many there were; the port stays open."""
        cut = list(self._connections)
        for connection in cut:
            connection.abort()
        return len(cut)

    def carried(self) -> int:
        """Return the bytes that the open connections have carried in both directions, as the system counts them."""
        return sum(_carried(connection.get_extra_info("socket")) for connection in self._connections)


async def open_door(door: Door, host: str, port: int, host_key: Path) -> SshDoor:
    """Listen for a machine.

    Errors: OSError when the port is taken.
    """
    _keep_key(host_key)
    connections: set[asyncssh.SSHServerConnection] = set()
    acceptor = await asyncssh.listen(
        host,
        port,
        server_factory=lambda: _Server(door, connections),
        server_host_keys=[str(host_key)],
        process_factory=lambda process: _serve(door, process),
        sftp_factory=lambda channel: _Files(door.root, channel),
        allow_scp=True,
        encoding=None,
        line_editor=False,
        agent_forwarding=False,
        x11_forwarding=False,
        compression_algs=None,
        backlog=64,
    )
    return SshDoor(acceptor, connections)


def same_key(one: str, other: str) -> bool:
    """Tell whether two lines are the same public key, whatever their comments."""
    return one.split()[:2] == other.split()[:2]


def readable_key(text: str) -> bool:
    """Tell whether a line is a public key that a machine can check."""
    try:
        asyncssh.import_public_key(text)
    except (asyncssh.KeyImportError, ValueError):
        return False
    return True


def _carried(connection: "socket.socket | None") -> int:
    if connection is None or connection.fileno() < 0:
        return 0
    told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    return sum(struct.unpack_from("=QQ", told, _BYTES_ACKED_AT)) if len(told) >= _BYTES_ACKED_AT + 16 else 0


def _keep_key(path: Path) -> None:
    if path.exists():
        return
    fresh = path.with_suffix(".new")
    fresh.touch(0o600)
    fresh.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
    fresh.replace(path)


class _Server(asyncssh.SSHServer):
    def __init__(self, door: Door, connections: set[asyncssh.SSHServerConnection]) -> None:
        self._door = door
        self._connections = connections
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._connections.discard(self._connection)

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return username == "root" and self._door.admits(key.export_public_key("openssh").decode())

    def auth_completed(self) -> None:
        self._door.noticed("ssh_login")

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        return dest_host in _LOOPBACK or dest_host.startswith("127.") or dest_host == "::1"

    def server_requested(self, listen_host: str, listen_port: int) -> "bool | Awaitable[asyncssh.SSHListener]":
        if listen_host not in _LOOPBACK or self._connection is None:
            return False
        # As OpenSSH without GatewayPorts: whatever was asked for, only loopback is listened on.
        return self._connection.forward_local_port("127.0.0.1", listen_port, listen_host, listen_port)


class _Files(asyncssh.SFTPServer):
    """Files by real absolute paths or relative to the machine's home; changes only inside that home."""

    def __init__(self, root: Path, channel: "asyncssh.SSHServerChannel[bytes]") -> None:
        super().__init__(channel)
        self._channel = channel
        self._root = os.fsencode(root)

    def exit(self) -> None:
        """End with a status, as OpenSSH's own file server does: its scp takes none for a failure."""
        self._channel.exit(0)

    def map_path(self, path: bytes) -> bytes:
        return posixpath.join(self._root, path)

    def _own(self, path: bytes, *, follow: bool = False) -> None:
        mapped = self.map_path(path)
        place = os.path.realpath(mapped if follow else posixpath.dirname(mapped.rstrip(b"/")))
        if place != self._root and not place.startswith(self._root + b"/"):
            raise asyncssh.SFTPPermissionDenied("outside this machine's home")

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> object:
        if pflags & ~asyncssh.FXF_READ:
            self._own(path, follow=True)
        return super().open(path, pflags, attrs)

    def setstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> "Awaitable[None] | None":
        self._own(path, follow=True)
        return super().setstat(path, attrs)

    def lsetstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> "Awaitable[None] | None":
        self._own(path)
        return super().lsetstat(path, attrs)

    def remove(self, path: bytes) -> "Awaitable[None] | None":
        self._own(path)
        return super().remove(path)

    def mkdir(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> "Awaitable[None] | None":
        self._own(path)
        return super().mkdir(path, attrs)

    def rmdir(self, path: bytes) -> "Awaitable[None] | None":
        self._own(path)
        return super().rmdir(path)

    def rename(self, oldpath: bytes, newpath: bytes) -> "Awaitable[None] | None":
        self._own(oldpath)
        self._own(newpath)
        return super().rename(oldpath, newpath)

    def posix_rename(self, oldpath: bytes, newpath: bytes) -> "Awaitable[None] | None":
        self._own(oldpath)
        self._own(newpath)
        return super().posix_rename(oldpath, newpath)

    def symlink(self, oldpath: bytes, newpath: bytes) -> "Awaitable[None] | None":
        self._own(newpath)
        Path(os.fsdecode(self.map_path(newpath))).symlink_to(os.fsdecode(oldpath))
        return None

    def link(self, oldpath: bytes, newpath: bytes) -> "Awaitable[None] | None":
        self._own(oldpath, follow=True)
        self._own(newpath)
        return super().link(oldpath, newpath)


async def _serve(door: Door, process: "asyncssh.SSHServerProcess[bytes]") -> None:
    door.noticed("ssh_exec")
    try:
        status = await (_run_terminal(door, process) if process.term_type else _run_piped(door, process))
    except OSError as error:
        process.stderr.write(f"sandbox: cannot start the command: {error}\n".encode())
        status = 255
    if status is None:
        return
    if status < 0:
        process.exit_with_signal(signal.Signals(-status).name.removeprefix("SIG"))
    else:
        process.exit(status)


def _argv(process: "asyncssh.SSHServerProcess[bytes]") -> list[str]:
    if process.command is None:
        return ["/bin/bash", "-i"] if process.term_type else ["/bin/bash"]
    return ["/bin/bash", "-c", process.command]


def _env(door: Door, process: "asyncssh.SSHServerProcess[bytes]") -> dict[str, str]:
    env = {**door.environment()}
    if process.term_type:
        env["TERM"] = process.term_type
    there, here = process.get_extra_info("peername"), process.get_extra_info("sockname")
    env["SSH_CONNECTION"] = f"{there[0]} {there[1]} {here[0]} {here[1]}"
    return env


async def _run_piped(door: Door, process: "asyncssh.SSHServerProcess[bytes]") -> int | None:
    # Real pipes, as sshd gives them: with sockets /dev/stdin cannot be opened again.
    (in_r, in_w), (out_r, out_w), (err_r, err_w) = (os.pipe() for _ in range(3))
    try:
        child = await _spawn(door, process, in_r, out_w, err_w)
    except OSError:
        for descriptor in (in_w, out_r, err_r):
            os.close(descriptor)
        raise
    finally:
        for descriptor in (in_r, out_w, err_w):
            os.close(descriptor)
    return await carry(process, child, in_w, [(out_r, process.stdout), (err_r, process.stderr)], lambda size: None)


async def _run_terminal(door: Door, process: "asyncssh.SSHServerProcess[bytes]") -> int | None:
    master, slave = os.openpty()

    def resize(size: tuple[int, int, int, int]) -> None:
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], size[2], size[3]))

    resize(process.term_size)
    try:
        child = await _spawn(door, process, slave, slave, slave, terminal=True)
    except OSError:
        os.close(master)
        raise
    finally:
        os.close(slave)
    return await carry(process, child, os.dup(master), [(master, process.stdout)], resize)


async def _spawn(
    door: Door,
    process: "asyncssh.SSHServerProcess[bytes]",
    stdin: int,
    stdout: int,
    stderr: int,
    *,
    terminal: bool = False,
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *_argv(process),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=door.root,
        env=_env(door, process),
        start_new_session=True,
        preexec_fn=(lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)) if terminal else None,
    )
