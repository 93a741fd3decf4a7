"""The same over asyncssh, for computers without OpenSSH. Imported only there: it is heavy."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Awaitable, Callable, Iterator

import asyncssh

from dumont.cli.exit import CliError
from dumont.cli.ssh import Target, in_workspace, remote_path, split_remote, unknown_key
from dumont.core import Act

_CONNECT_SECONDS = 15
_NO_EXIT_STATUS = 255


def run_remote(target: Target, remote: str | None, *, terminal: bool) -> int:
    """Run a command, or a shell in the workspace, on the machine and return its exit code.

    Errors: CliError when the machine cannot be reached or is not the one whose key is pinned.
    """
    line = in_workspace(target, 'exec "${SHELL:-/bin/sh}" -l') if remote is None else remote
    wants_terminal = terminal or (remote is None and sys.stdin.isatty())

    async def work(connection: asyncssh.SSHClientConnection) -> int:
        return await (_on_terminal(connection, line) if wants_terminal else _on_pipes(connection, line))

    return asyncio.run(_connected(target, work))


def copy(target: Target, source: str, destination: str) -> int:
    """Copy files or folders; one of the two names is `ID:path`. Returns 0."""
    there, here = split_remote(source), split_remote(destination)

    async def work(connection: asyncssh.SSHClientConnection) -> int:
        async with connection.start_sftp_client() as sftp:
            if there is not None:
                await sftp.get(remote_path(target, there[1]), destination, recurse=True, preserve=True)
            elif here is not None:
                await sftp.put(source, remote_path(target, here[1]), recurse=True, preserve=True)
        return 0

    return asyncio.run(_connected(target, work))


async def _connected(target: Target, work: Callable[[asyncssh.SSHClientConnection], Awaitable[int]]) -> int:
    pinned = asyncssh.import_public_key(target.host_key)
    try:
        async with asyncssh.connect(
            target.host,
            target.port,
            username=target.user,
            known_hosts=([pinned], [], []),
            client_keys=[str(target.key)],
            agent_path=None,
            config=None,
            connect_timeout=_CONNECT_SECONDS,
            keepalive_interval=15,
        ) as connection:
            return await work(connection)
    except asyncssh.HostKeyNotVerifiable as error:
        detail = "The machine that answers does not have the host key of this instance; nothing was sent to it."
        raise CliError(detail, code="host-key-changed", act=Act.REPORT) from error
    except asyncssh.PermissionDenied as error:
        raise CliError(f"Permission denied. {unknown_key(target)}", code="ssh-refused") from error
    except asyncssh.SFTPError as error:
        raise CliError(f"The copy failed: {error.reason}.", code="copy-failed") from error
    except (OSError, asyncssh.Error) as error:
        detail = f"The machine could not be reached or the copy failed: {error}."
        raise CliError(detail, code="ssh-unreachable", act=Act.WAIT) from error


async def _on_pipes(connection: asyncssh.SSHClientConnection, line: str) -> int:
    process = await connection.create_process(line, stdin=os.dup(0), stdout=os.dup(1), stderr=os.dup(2), encoding=None)
    done = await process.wait()
    return _NO_EXIT_STATUS if done.exit_status is None else int(done.exit_status)


async def _on_terminal(connection: asyncssh.SSHClientConnection, line: str) -> int:
    size = shutil.get_terminal_size()
    process = await connection.create_process(
        line,
        term_type=os.environ.get("TERM", "xterm"),
        term_size=(size.columns, size.lines),
        stdin=os.dup(0),
        stdout=os.dup(1),
        stderr=os.dup(2),
        encoding=None,
    )

    def resize() -> None:
        now = shutil.get_terminal_size()
        process.change_terminal_size(now.columns, now.lines)

    asyncio.get_running_loop().add_signal_handler(signal.SIGWINCH, resize)
    with _raw_terminal():
        done = await process.wait()
    return _NO_EXIT_STATUS if done.exit_status is None else int(done.exit_status)


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
