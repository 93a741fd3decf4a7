"""PostgreSQL's own client programs, run so that no password stands in a command line and none outlives us."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dumont.db.embedded.binaries import installed_binaries
from dumont.db.embedded.cluster import LAUNCHER
from dumont.db.urls import psycopg_url

_TOLD_BYTES = 64 * 1024


class BackupError(Exception):
    """A backup or a restore cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Program:
    """One program that runs, and what it has said on stderr so far."""

    name: str
    child: "subprocess.Popen[bytes]"
    stderr: IO[bytes]

    def complaint(self, what: str) -> BackupError:
        """Make the error out of what it said; call when it has ended."""
        self.stderr.seek(0)
        said = self.stderr.read(_TOLD_BYTES).decode(errors="replace")
        if "No space left on device" in said or "Disk quota exceeded" in said:
            return BackupError(f"{what}: the disk is full. Free some room, or name another place, and try again.")
        if "server version mismatch" in said:
            return BackupError(
                f"{what}: the server is newer than the PostgreSQL programs of this Dumont. Update Dumont, or use the "
                "server's own pg_dump."
            )
        if "lock timeout" in said:
            return BackupError(f"{what}: another program holds the tables. Stop what uses the database and try again.")
        lines = [line.strip() for line in said.splitlines() if "error" in line.lower() or "FATAL" in line]
        told = "; ".join(lines[:3]) or said.strip()[-300:] or f"nothing (exit status {self.child.returncode})"
        return BackupError(f"{what}. {self.name} said: {told}")


@contextmanager
def running(
    name: str,
    words: Sequence[str],
    *,
    url: str | None = None,
    options: str = "",
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
) -> Iterator[Program]:
    """Run one of PostgreSQL's programs for the block, on the database of `url` where that is given.

    `options` are settings for the server, such as `-c name=value`.
    Guarantees: it ends with the block, and gets SIGTERM when this thread dies; secrets go by its environment.
    """
    connection, environment = _connection(url, options) if url else ([], _environment())
    head = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), "-1", "-1", str(int(signal.SIGTERM)), "/"]
    program = str(installed_binaries().program(name).absolute())
    with tempfile.TemporaryFile() as stderr:
        child = subprocess.Popen(
            [*head, program, *connection, *words], stdin=stdin, stdout=stdout, stderr=stderr, env=environment
        )
        try:
            yield Program(name, child, stderr)
        finally:
            _end(child)


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None and not stream.closed:
            try:
                stream.close()
            except BrokenPipeError:
                continue


def _connection(url: str, options: str) -> tuple[list[str], dict[str, str]]:
    known = {name: str(value) for name, value in conninfo_to_dict(psycopg_url(url)).items() if value is not None}
    if "sslpassword" in known:
        raise BackupError(
            "DATABASE_URL holds an sslpassword, which would show in the list of processes. Use a key file."
        )
    password = known.pop("password", None)
    environment = _environment()
    if password is not None:
        environment["PGPASSWORD"] = password
    known["options"] = f"{known.get('options', '')} {options}".strip()
    return ["--no-password", f"--dbname={make_conninfo('', **known)}"], environment


def _environment() -> dict[str, str]:
    """Keep libpq's own variables (certificates, for one) and leave out what is ours."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("DUMONT_", "DATABASE_URL"))}
    return {**ours, "LC_ALL": "C", "PGAPPNAME": "dumont-backup"}
