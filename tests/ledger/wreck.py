"""A PostgreSQL of our own as a child, to be killed, and the programs over it, which are killed too."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from tests.ledger.application import read_log
from tests.ledger.books import Books
from tests.ledger.stage import until

from dumont.core import Settings
from dumont.db import DatabaseUrls, EmbeddedPostgres, migrate, psycopg_url, resolve_urls, with_database

SECRET = b"only for tests, never a real key"
_QUICK = {"fsync": "off", "full_page_writes": "off"}
"""Safe here: the tests kill processes and not the machine, and the kernel keeps what they wrote."""
_PROGRAM = Path(__file__).with_name("application.py")
_ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Wreck:
    """A server of our own with a migrated database."""

    server: EmbeddedPostgres
    urls: DatabaseUrls

    @property
    def books(self) -> Books:
        """The ledger in it."""
        return Books(self.urls)

    @contextmanager
    def copy(self) -> "Iterator[Wreck]":
        """Give a copy of the database in the same server, for as long as the block."""
        name = "copied"
        with psycopg.connect(psycopg_url(with_database(self.urls.owner, "postgres")), autocommit=True) as connection:
            others = "FROM pg_stat_activity WHERE datname = 'dumont'"
            connection.execute(f"SELECT pg_terminate_backend(pid) {others}".encode())
            until(lambda: not connection.execute(f"SELECT 1 {others}".encode()).fetchall(), "nobody uses the original")
            connection.execute(f"CREATE DATABASE {name} TEMPLATE dumont".encode())
            owner, app, worker = (
                with_database(url, name) for url in (self.urls.owner, self.urls.app, self.urls.worker)
            )
            yield Wreck(self.server, DatabaseUrls(owner, app, worker, second_wall=self.urls.second_wall))
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())

    def kill(self) -> None:
        """End the whole server as a crash does; it is started again by itself."""
        if (pid := self.server.pid) is not None:
            os.kill(pid, signal.SIGKILL)
            until(lambda: self.server.pid != pid, "the dead server is noticed")

    def kill_backend(self, pid: int) -> None:
        """End one process of the server as a crash does, upon which the server ends all others and recovers."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{pid}").exists(), "the process is gone")

    def await_up(self) -> None:
        """Wait until the server takes connections again, recovery included."""
        until(self._answers, "the server is up again", 60)

    def _answers(self) -> bool:
        with suppress(psycopg.OperationalError):
            return self.books.rows("SELECT 1") == [(1,)]
        return False


@contextmanager
def wreck(home: Path) -> Iterator[Wreck]:
    """Run a server of our own for as long as the block."""
    server = EmbeddedPostgres(home, SECRET, settings=_QUICK)
    try:
        owner = server.start()
        migrate(owner, SECRET)
        yield Wreck(server, resolve_urls(Settings(home=home), SECRET, owner))
    finally:
        server.stop()
        shutil.rmtree(server.place.cluster)


class Program:
    """One instance of the application, which posts what a plan says; it may be killed and started again."""

    def __init__(self, folder: Path, name: str, plan: Sequence[list[dict[str, Any]]], **config: Any) -> None:
        self.log, self._said = folder / f"{name}.log", folder / f"{name}.said"
        self._config, written = folder / f"{name}.json", folder / f"{name}.plan"
        written.write_text("".join(f"{json.dumps(item)}\n" for item in plan))
        values = {"clients": 8, **config, "plan": str(written), "log": str(self.log)}
        self._config.write_text(json.dumps(values))
        self._child: subprocess.Popen[bytes] | None = None
        self._before = 0

    def start(self) -> None:
        """Start it, or start it again."""
        environment = {**os.environ, "PYTHONPATH": f"{_ROOT}:{_ROOT / 'src'}"}
        self._before = self._answered()
        command = [sys.executable, str(_PROGRAM), str(self._config)]
        with self._said.open("ab") as said:
            self._child = subprocess.Popen(command, env=environment, stdout=said, stderr=said)

    def kill(self) -> None:
        """End it at once, whatever it is doing."""
        assert self._child is not None
        self._child.kill()
        self._child.wait()

    def stop(self) -> None:
        """Let it hear out what it asked, and end; once it is up and listens."""
        assert self._child is not None
        up = {"up": self._child.pid}
        until(lambda: up in self.lines(), f"the program is up: {self._said.read_text()}")
        self._child.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = 60.0) -> None:
        """Wait for its end, which must be a good one."""
        assert self._child is not None
        assert self._child.wait(seconds) == 0, self._said.read_text()

    def lines(self) -> list[dict[str, Any]]:
        """Read its log."""
        return read_log(self.log)

    def has_begun(self, count: int = 1) -> bool:
        """Tell whether so many requests were answered."""
        return self._answered() >= count

    def has_moved(self) -> bool:
        """Tell whether a request was answered since it was started last."""
        return self._answered() > self._before

    def _answered(self) -> int:
        return sum("done" in line for line in self.lines())

    def clear(self) -> None:
        """End it if it runs, however the test ended."""
        if self._child is not None and self._child.poll() is None:
            self.kill()


@contextmanager
def programs(*all_: Program) -> Iterator[None]:
    """See that none is left running."""
    try:
        yield
    finally:
        for program in all_:
            program.clear()


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Let processes stand still for as long as the block."""
    _send(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        _send(pids, signal.SIGCONT)


def _send(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def backends(urls: DatabaseUrls, where: str = "true") -> list[int]:
    """Return the server processes of other sessions in the database."""
    with psycopg.connect(psycopg_url(urls.owner)) as connection:
        found = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' "
            f"AND pid <> pg_backend_pid() AND {where}".encode()
        ).fetchall()
    return [int(str(row[0])) for row in found]


def server_processes(child: Wreck) -> list[int]:
    """Return all processes of the server, children first."""
    head = child.server.pid
    assert head is not None
    children = Path(f"/proc/{head}/task/{head}/children").read_text().split()
    return [*map(int, children), head]
