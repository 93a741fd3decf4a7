"""Reaching a machine over SSH with its host key pinned: command lines for the system's OpenSSH.

The host key comes from the API, which learnt it when the machine was handed over; nothing is trusted on first use.
"""

import posixpath
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from dumont.cli.exit import CliError
from dumont.cli.find import find_instance
from dumont.cli.keys import private_key
from dumont.cli.profile import write_private
from dumont.cli.session import Signed
from dumont.client import SshAccess
from dumont.core import Act

NO_CONNECTION = 255
"""What OpenSSH ends with when the connection itself failed."""

_SCP_OVER_SFTP = 9
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_-]*|::[A-Fa-f0-9:.]*")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9._-]*")
_ID = re.compile(r"[A-Za-z0-9_-]+")
_HOST_KEY = re.compile(r"((?:ssh|ecdsa|sk)-[A-Za-z0-9@.-]+) ([A-Za-z0-9+/]+={0,2})(?: .*)?")
_REMOTE = re.compile(r"([^/:]+):(.*)", re.DOTALL)


@dataclass(frozen=True)
class Target:
    """One machine and all that is needed to reach it."""

    instance_id: str
    host: str
    port: int
    user: str
    host_key: str
    root: str | None
    key: Path
    known_hosts: Path


def find_target(signed: Signed, name: str) -> Target:
    """Return how to reach an instance, its host key written where OpenSSH reads it.

    Errors: CliError when it is not ready or when what is known of it is not fit for a command line.
    """
    instance = find_instance(signed.client, name)
    access = signed.client.instance_ssh(instance.id)
    if access.ready is False:
        raise CliError("The machine does not answer on SSH yet.", code="ssh-not-ready", act=Act.WAIT)
    host_key = _pinned(access)
    known_hosts = signed.place.ssh / "known_hosts" / _checked(_ID, instance.id, "id")
    write_private(known_hosts, f"{instance.id} {host_key}\n")
    return Target(
        instance_id=instance.id,
        host=_checked(_HOST, access.host, "address"),
        port=_port(access.port),
        user=_checked(_USER, access.user or "root", "user"),
        host_key=host_key,
        root=access.workspace_root,
        key=private_key(signed.place),
        known_hosts=known_hosts,
    )


def have_ssh() -> bool:
    """Tell whether the system's own ssh is there."""
    return shutil.which("ssh") is not None


def have_scp() -> bool:
    """Tell whether the system's own scp is there and takes names as they are.

    Source: OpenSSH 9.0 release notes; older ones hand remote names to a shell, which breaks on spaces.
    """
    if not have_ssh() or shutil.which("scp") is None:
        return False
    told = subprocess.run(["ssh", "-V"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    version = re.match(r"OpenSSH_(\d+)\.", told.stderr)
    return version is not None and int(version.group(1)) >= _SCP_OVER_SFTP


def ssh_command(target: Target, remote: str | None, *, terminal: bool) -> list[str]:
    """Return the command line that runs something on the machine, or a shell in the workspace."""
    shell = remote is None
    line = in_workspace(target, 'exec "${SHELL:-/bin/sh}" -l') if remote is None else remote
    mode = ["-t"] if terminal or (shell and sys.stdin.isatty()) else ["-T"]
    return ["ssh", *mode, *_options(target), "-p", str(target.port), f"{target.user}@{target.host}", line]


def scp_command(target: Target, source: str, destination: str) -> list[str]:
    """Return the command line that copies files; one of the two names is `ID:path`."""
    ends = [_scp_end(target, end) for end in (source, destination)]
    return ["scp", "-r", "-p", *_options(target), "-P", str(target.port), *ends]


def in_workspace(target: Target, line: str) -> str:
    """Return a shell line that runs in the workspace, or fails where that folder is missing."""
    return line if target.root is None else f"cd {shlex.quote(target.root)} && {line}"


def split_remote(name: str) -> tuple[str, str] | None:
    """Split `ID:path`; None for a local name (one with a slash before any colon, or with no colon)."""
    match = _REMOTE.fullmatch(name)
    return (match.group(1), match.group(2)) if match else None


def remote_path(target: Target, path: str) -> str:
    """Return a path on the machine; a relative one counts from the workspace."""
    if target.root is None:
        return path or "."
    return posixpath.normpath(posixpath.join(target.root, path)) if path else target.root


def unknown_key(target: Target) -> str:
    """Say what it means and what to do when a machine does not accept the key."""
    return (
        "`Permission denied (publickey)` means that the machine does not know your key: somebody else launched it, or "
        f"it was launched before you had one. `dumont keys attach {target.instance_id}` lets you in."
    )


def run(command: list[str]) -> int:
    """Run a program on this terminal and return its exit code; Ctrl-C is the program's to deal with."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = subprocess.Popen(command, preexec_fn=_take_interrupts)
        code = child.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    return 128 - code if code < 0 else code


def _take_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _options(target: Target) -> list[str]:
    given = {
        "HostKeyAlias": target.instance_id,
        "UserKnownHostsFile": _quoted(target.known_hosts),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "CheckHostIP": "no",
        "IdentityFile": _quoted(target.key),
        "IdentitiesOnly": "yes",
        "PreferredAuthentications": "publickey",
        "ForwardAgent": "no",
        "ConnectTimeout": "15",
        "ServerAliveInterval": "15",
        "LogLevel": "ERROR",
    }
    return ["-F", "none", *(part for name, value in given.items() for part in ("-o", f"{name}={value}"))]


def _scp_end(target: Target, end: str) -> str:
    remote = split_remote(end)
    if remote is None:
        return end if end.startswith("/") else f"./{end}"
    host = f"[{target.host}]" if ":" in target.host else target.host
    return f"{target.user}@{host}:{remote_path(target, remote[1])}"


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("%", "%%") + '"'


def _pinned(access: SshAccess) -> str:
    if not access.host_key:
        detail = "The machine's host key is not known yet, and without it nobody can tell whose machine answers."
        raise CliError(detail, code="host-key-unknown", act=Act.WAIT)
    match = _HOST_KEY.fullmatch(access.host_key.strip())
    if match is None:
        raise CliError("The server sent a host key that is not one.", code="unreadable-answer", act=Act.REPORT)
    return f"{match.group(1)} {match.group(2)}"


def _checked(pattern: re.Pattern[str], value: str | None, noun: str) -> str:
    if value is None:
        raise CliError(f"The machine has no {noun} yet.", code="ssh-not-ready", act=Act.WAIT)
    if not pattern.fullmatch(value):
        raise CliError(f"The server sent an odd {noun} for the machine.", code="unreadable-answer", act=Act.REPORT)
    return value


def _port(value: int | None) -> int:
    if value is None:
        raise CliError("The machine has no SSH port yet.", code="ssh-not-ready", act=Act.WAIT)
    if not 0 < value < 65536:
        raise CliError("The server sent an odd port for the machine.", code="unreadable-answer", act=Act.REPORT)
    return value
