"""Make a new database cluster so that it appears whole or not at all."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from dumont.core import new_id
from dumont.db.embedded.errors import NEEDED_BYTES, DatabaseStartError, from_output, full_disk
from dumont.db.embedded.places import Place
from dumont.db.embedded.processes import kill_servers

OWNER = "dumont"
_REMOVE_SECONDS = 10.0
LAUNCHER = Path(__file__).with_name("launcher.py")


def spawn(
    place: Place, folder: Path, death_signal: signal.Signals, words: list[str], output: IO[bytes] | int
) -> "subprocess.Popen[bytes]":
    """Start a program of PostgreSQL as the owner of the cluster, in a session of its own.

    The kernel sends `death_signal` when the calling *thread* ends: use one that lives as long as the program.
    """
    uid, gid = (place.account.uid, place.account.gid) if place.account else (-1, -1)
    head = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), str(uid), str(gid)]
    return subprocess.Popen(
        [*head, str(int(death_signal)), str(folder), *words],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
    )


def ensure_cluster(place: Place, password: str, room_bytes: int = NEEDED_BYTES) -> None:
    """Make the cluster where there is none, and refuse one of another major version.

    Guarantees: initdb works in a folder beside, which takes its name only when it is complete and on the disk; what a
    killed initdb left is removed first. Call only with the cluster's lock held.
    Errors: DatabaseStartError.
    """
    for leftover in place.cluster.glob("data.new-*"):
        _remove(place, leftover)
    for leftover in place.cluster.glob("password-*"):
        leftover.unlink()
    if place.data.exists():
        _check_version(place)
        return
    if shutil.disk_usage(place.cluster).free < room_bytes:
        raise full_disk(place.cluster)
    fresh = place.cluster / f"data.new-{new_id('pg')}"
    try:
        _initdb(place, fresh, password)
        _sync(fresh)
        fresh.rename(place.data)
        _sync(place.cluster)
    except OSError as error:
        raise from_output("Making a new database", place.cluster, f"error: {error}") from error
    finally:
        if fresh.exists():
            _remove(place, fresh)


def _initdb(place: Place, fresh: Path, password: str) -> None:
    fresh.mkdir(mode=0o700)
    place.give(fresh)
    secret = place.cluster / f"password-{new_id('pg')}"
    try:
        with os.fdopen(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(password + "\n")
        place.give(secret)
        words = [str(place.binaries.program("initdb")), "-D", str(fresh), "-U", OWNER, f"--pwfile={secret}"]
        words += ["--auth=scram-sha-256", "--data-checksums", "--encoding=UTF8", "--locale=C"]
        words += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"]
        child = spawn(place, fresh, signal.SIGKILL, words, subprocess.PIPE)
        output = child.communicate()[0].decode(errors="replace")
        if child.returncode != 0:
            raise from_output("Making a new database", place.cluster, output)
    finally:
        secret.unlink(missing_ok=True)


def _check_version(place: Place) -> None:
    try:
        found = (place.data / "PG_VERSION").read_text().strip()
    except OSError as error:
        raise DatabaseStartError(
            f"{place.data} is not a PostgreSQL data folder ({error}). Restore it from a backup, or move it away to "
            "begin with an empty database."
        ) from error
    if found != place.binaries.major:
        raise DatabaseStartError(
            f"{place.data} was made by PostgreSQL {found}, and this Dumont brings {place.binaries.major}. Nothing was "
            "changed. Run `dumont backup` with the Dumont that made it and `dumont restore-backup` with this one, as "
            "docs/howto/upgrade-postgres.md shows."
        )


def _remove(place: Place, folder: Path) -> None:
    """Remove a half-made cluster; a killed initdb's last child may still be writing into it."""
    kill_servers(place, folder)
    until = time.monotonic() + _REMOVE_SECONDS
    while True:
        try:
            shutil.rmtree(folder)
            return
        except OSError as error:
            if not folder.exists():
                return
            if time.monotonic() > until:
                raise DatabaseStartError(
                    f"The remains of a database that was never finished, {folder}, cannot be removed ({error}). "
                    "Remove them and start again."
                ) from error
            time.sleep(0.05)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
