"""Supervise one embedded PostgreSQL: start it, keep it up, stop it, and let nobody else do so meanwhile."""

import fcntl
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import psycopg
from sqlalchemy.engine import URL

from dumont.core import derive_password
from dumont.db.embedded.cluster import OWNER, ensure_cluster, spawn
from dumont.db.embedded.errors import NEEDED_BYTES, DatabaseInUse, DatabaseStartError, from_output
from dumont.db.embedded.places import PORT, Place, find_place
from dumont.db.embedded.processes import clear_remains, harder_signal

_LOG = logging.getLogger(__name__)
_DATABASE = "dumont"
_POLL_SECONDS = 0.01
_READY_SECONDS = 120.0
"""Recovery after a crash replays at most max_wal_size, seconds of work; two minutes allow for a very slow disk."""
_LOG_LIMIT = 8 * 1024 * 1024
_SETTINGS = {
    "shared_buffers": "64MB",
    "max_connections": "60",
    "max_wal_size": "256MB",
    "min_wal_size": "32MB",
    "autovacuum_max_workers": "2",
    "io_method": "sync",
    "max_logical_replication_workers": "0",
    "password_encryption": "scram-sha-256",
    "log_min_messages": "warning",
    "log_min_error_statement": "panic",
    "log_checkpoints": "off",
    "timezone": "UTC",
    "cluster_name": "dumont",
}
"""Small, durable, and silent about statements: a failing statement may hold what nobody should read in a log."""


class EmbeddedPostgres:
    """A PostgreSQL of our own below `home`, reached through a Unix socket, that lives as long as this process.

    The owner's password follows from `secret`. `settings` override the server's own; `room_bytes` is the free disk
    without which no new cluster is begun. All calls block and may come from any thread.
    Guarantees: one supervisor per cluster; a server that ends by itself is started again; a killed supervisor takes the
    server with it (the kernel sends a fast stop).
    """

    def __init__(
        self,
        home: Path,
        secret: bytes,
        *,
        settings: Mapping[str, str] | None = None,
        room_bytes: int = NEEDED_BYTES,
    ) -> None:
        self._home = home
        self._secret = secret
        self._settings = {**_SETTINGS, **(settings or {})}
        self._room_bytes = room_bytes
        self._turn = threading.Lock()
        self._stopping = threading.Event()
        self._place: Place | None = None
        self._lock: int | None = None
        self._keeper: threading.Thread | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._failure: DatabaseStartError | None = None

    @property
    def place(self) -> Place:
        """Where the cluster lives; known after the first `start`."""
        if self._place is None:
            raise DatabaseStartError(f"The database of {self._home} was never started. Start it first.")
        return self._place

    @property
    def url(self) -> str:
        """The owner's URL, whoever runs the server; known after the first `start`, even one that failed."""
        return _url(self.place, self._password())

    @property
    def pid(self) -> int | None:
        """The number of the server's process, None while there is none."""
        child = self._child
        return child.pid if child is not None and child.poll() is None else None

    def start(self) -> str:
        """Start the server, or find it running, and return the owner's URL.

        Guarantees: idempotent; leaves no process and no lock behind when it fails.
        Errors: DatabaseStartError with what to do; DatabaseInUse where another process supervises the cluster.
        """
        with self._turn:
            if self._keeper is None:
                self._place = find_place(self._home, self._secret)
                self._lock = _take_lock(self._place)
                try:
                    ensure_cluster(self._place, self._password(), self._room_bytes)
                    self._begin()
                    self._await_ready()
                    _ensure_database(self._place, self._password())
                except BaseException:
                    self._end()
                    raise
            else:
                self._await_ready()
            return self.url

    def stop(self) -> None:
        """Stop the server and let go of the cluster; nothing happens where it does not run."""
        with self._turn:
            self._end()

    def is_running(self) -> bool:
        """Tell whether the server is up and takes connections, as far as the last look shows."""
        return self._ready and self.pid is not None

    def _password(self) -> str:
        return derive_password(self._secret, "database-owner")

    def _begin(self) -> None:
        self._stopping.clear()
        self._failure = None
        self._keeper = threading.Thread(target=self._keep, name="embedded-postgres", daemon=True)
        self._keeper.start()

    def _await_ready(self) -> None:
        """Wait for the keeper's first or next success; a first failure ends the keeper."""
        until = time.monotonic() + _READY_SECONDS
        while not self.is_running():
            keeper = self._keeper
            if self._failure is not None and (keeper is None or not keeper.is_alive()):
                raise self._failure
            if time.monotonic() > until:
                raise self._failure or _silent(self.place)
            time.sleep(_POLL_SECONDS)

    def _keep(self) -> None:
        """Start the server and start it again whenever it ends; the server's life hangs on this thread."""
        succeeded, pause = False, 0.0
        while not self._stopping.wait(pause):
            try:
                self._run_once()
                succeeded, pause = True, 0.0
            except DatabaseStartError as error:
                self._failure = error
                if not succeeded:
                    return
                pause = min(5.0, pause * 2 + 0.1)
                _LOG.error("The embedded database is down and will be tried again in %.1f s: %s", pause, error)

    def _run_once(self) -> None:
        place = self.place
        clear_remains(place)
        _turn_log(place)
        with place.log.open("ab") as log:
            started_at = log.tell()
            child = spawn(place, place.data, signal.SIGINT, _command(place, self._settings), log)
        self._child = child
        while not _is_ready(place, child.pid):
            if child.poll() is not None:
                if self._stopping.is_set():
                    return
                raise from_output("Starting the database", place.cluster, _tail(place, started_at))
            time.sleep(_POLL_SECONDS)
        self._failure, self._ready = None, True
        code = child.wait()
        self._ready = False
        if not self._stopping.is_set():
            _LOG.warning("The embedded database ended by itself (exit status %s); starting it again.", code)

    def _end(self) -> None:
        self._stopping.set()
        keeper, begun = self._keeper, time.monotonic()
        sent: set[signal.Signals] = set()
        while keeper is not None and keeper.is_alive():
            waited = time.monotonic() - begun
            number = harder_signal(waited)
            child = self._child
            if child is not None and child.poll() is None and number not in sent:
                sent.add(number)
                child.send_signal(number)
            keeper.join(0.02)
        self._keeper, self._child, self._ready = None, None, False
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _take_lock(place: Place) -> int:
    handle = os.open(place.cluster / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(handle, 20, 0).decode(errors="replace").strip() or "of unknown number"
        os.close(handle)
        raise DatabaseInUse(
            f"Another Dumont (process {holder}) already runs the database of {place.home}. Stop that one, or set "
            "DUMONT_HOME to another folder."
        ) from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle


def _command(place: Place, settings: Mapping[str, str]) -> list[str]:
    """Write the server's command line.

    Shared memory is files in the data folder: /dev/shm is tiny in many containers, and elsewhere it is emptied under a
    running server when its user logs out, after which no connection can be opened; source: logind.conf(5), RemoveIPC.
    """
    quoted = '"' + str(place.sockets).replace('"', '""') + '"'
    fixed = {
        "listen_addresses": "",
        "port": str(PORT),
        "unix_socket_directories": quoted,
        "unix_socket_permissions": "0700",
        "dynamic_shared_memory_type": "mmap",
    }
    words = [str(place.binaries.program("postgres")), "-D", str(place.data)]
    for name, value in {**fixed, **settings}.items():
        words += ["-c", f"{name}={value}"]
    return words


def _is_ready(place: Place, pid: int) -> bool:
    """Read the status that the postmaster keeps in its pid file; source: miscadmin.h, LOCK_FILE_LINE_PM_STATUS."""
    try:
        lines = (place.data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"


def _turn_log(place: Place) -> None:
    if place.log.exists() and place.log.stat().st_size > _LOG_LIMIT:
        place.log.replace(place.log.with_suffix(".log.1"))


def _tail(place: Place, since: int) -> str:
    with place.log.open("rb") as stream:
        stream.seek(since)
        return stream.read(64 * 1024).decode(errors="replace")


def _silent(place: Place) -> DatabaseStartError:
    return DatabaseStartError(
        f"The database in {place.cluster} was not ready after {_READY_SECONDS:.0f} s. See {place.log}, and start again."
    )


def _url(place: Place, password: str, database: str = _DATABASE) -> str:
    query = {"host": str(place.sockets), "port": str(PORT)}
    url = URL.create("postgresql+psycopg", OWNER, password, database=database, query=query)
    return url.render_as_string(hide_password=False)


def _ensure_database(place: Place, password: str) -> None:
    """Make the product's database where it is missing, which also proves that the password is the cluster's."""
    try:
        with psycopg.connect(
            host=str(place.sockets), port=PORT, user=OWNER, password=password, dbname="postgres", autocommit=True
        ) as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [_DATABASE]).fetchone() is None:
                connection.execute(f"CREATE DATABASE {_DATABASE}")
    except psycopg.OperationalError as error:
        raise refusal(place, error) from error


def refusal(place: Place, error: psycopg.OperationalError) -> DatabaseStartError:
    """Make the error for a server that runs and does not let the owner in."""
    if "password authentication failed" not in str(error):
        return DatabaseStartError(f"The database in {place.cluster} refuses us: {error}")
    return DatabaseStartError(
        f"The database in {place.cluster} was made with another secret key. Put back the DUMONT_SECRET_KEY (or key "
        f"file) that {place.home} had, or move the database away to begin with an empty one."
    )
