"""Which processes serve a data folder, told from /proc: a number in a pid file proves nothing."""

import os
import re
import signal
import time
from pathlib import Path

from dumont.db.embedded.errors import DatabaseStartError
from dumont.db.embedded.places import PORT, Place

_POLL_SECONDS = 0.02
_QUIT_AFTER_SECONDS = 10.0
_KILL_AFTER_SECONDS = 15.0
_GIVE_UP_AFTER_SECONDS = 25.0


def clear_remains(place: Place) -> None:
    """End what an earlier supervisor left: its server, its pid file, its socket and the socket's lock file.

    An orphan is stopped and not adopted: it is nobody's child, so it could not be reaped, would outlive us, and may run
    with the programs and settings of an older version. Call only with the cluster's lock held.
    Guarantees: signals only processes that run PostgreSQL in this data folder; a stranger that now has the number in
    the pid file or the socket's lock file is left alone, and does not keep the server from starting.
    Errors: DatabaseStartError where the orphan does not end.
    """
    _end(place)
    socket = place.sockets / f".s.PGSQL.{PORT}"
    for remains in (place.data / "postmaster.pid", socket, socket.with_name(f"{socket.name}.lock")):
        remains.unlink(missing_ok=True)


def kill_servers(place: Place, folder: Path) -> None:
    """Kill at once what works in a data folder that will be thrown away."""
    _signal(servers(place, folder), signal.SIGKILL)


def servers(place: Place, folder: Path) -> list[int]:
    """List the living processes of PostgreSQL in a data folder, the postmaster among them."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and _serves(path, place, folder)]


def harder_signal(waited_seconds: float) -> signal.Signals:
    """Choose a fast stop, then one without a checkpoint, then the end; source: PostgreSQL manual, 18.5."""
    if waited_seconds < _QUIT_AFTER_SECONDS:
        return signal.SIGINT
    return signal.SIGQUIT if waited_seconds < _KILL_AFTER_SECONDS else signal.SIGKILL


def _serves(process: Path, place: Place, folder: Path) -> bool:
    try:
        if _is_zombie(process):
            return False
        owner = place.account.uid if place.account else os.geteuid()
        if process.stat().st_uid != owner:
            return False
        return _seen_serving(process, place, folder)
    except OSError:
        return False


def _seen_serving(process: Path, place: Place, folder: Path) -> bool:
    """Judge by program and working folder; where root may not look (no CAP_SYS_PTRACE), by the command line.

    The `exe` link may say `(deleted)` after the wheel was replaced: the name and the folder still tell.
    """
    try:
        program = re.sub(r" \(deleted\)$", "", str((process / "exe").readlink()))
        return Path(program).name == "postgres" and (process / "cwd").samefile(folder)
    except PermissionError:
        words = (process / "cmdline").read_bytes().split(b"\0")
        return words[:3] == [os.fsencode(place.binaries.program("postgres")), b"-D", os.fsencode(folder)]


def _is_zombie(process: Path) -> bool:
    return (process / "stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")


def _end(place: Place) -> None:
    started = time.monotonic()
    sent = signal.SIGINT
    _signal(_heads(servers(place, place.data)), sent)
    while found := servers(place, place.data):
        waited = time.monotonic() - started
        if waited > _GIVE_UP_AFTER_SECONDS:
            raise DatabaseStartError(
                f"An earlier PostgreSQL still runs in {place.data} (process {found[0]}) and does not end. "
                "Stop that process and start again."
            )
        wanted = harder_signal(waited)
        if wanted != sent:
            sent = wanted
            _signal(found, wanted)
        time.sleep(_POLL_SECONDS)


def _heads(found: list[int]) -> list[int]:
    """Leave out children of other servers: the postmaster ends them in order; without one they end by themselves."""
    return [pid for pid in found if _parent(pid) not in found]


def _parent(pid: int) -> int:
    try:
        return int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
