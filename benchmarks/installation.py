"""Installations to be measured: folders, databases and processes of their own, which leave nothing behind."""

import base64
import http.client
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from dumont.core import load_settings
from dumont.db import WORKER_ROLE, DatabaseUrls, EmbeddedPostgres, migrate, resolve_urls
from dumont.db.embedded.places import recorded_cluster
from dumont.durable import migrate_engine

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-c", "from dumont.app.main import main; main()"]
"""What the installed script `dumont` does."""
DEADLINE_SECONDS = 120.0
_NO_SANDBOX = {"DUMONT_SANDBOX_URL": "http://127.0.0.1:9", "DUMONT_SANDBOX_KEY": "unused"}
"""For roles that need a marketplace's address and never call it here; port 9 discards."""

NO_LIMITS = dict.fromkeys(
    (
        "DUMONT_LIMIT_TOKEN_REQUESTS_MINUTE",
        "DUMONT_LIMIT_TOKEN_REQUESTS_AT_ONCE",
        "DUMONT_LIMIT_OPEN_REQUESTS_MINUTE",
    ),
    "1000000",
)
"""Requests are counted as ever, and never refused: one token asks as often as it can."""


class BenchmarkError(Exception):
    """The benchmark itself broke."""


@dataclass(frozen=True)
class Home:
    """A folder for one installation; `secret` is its key."""

    path: Path
    secret: bytes

    def environment(self, **settings: str) -> dict[str, str]:
        """Return the environment of a process of this installation, free of the caller's own settings."""
        kept = {name: v for name, v in os.environ.items() if not name.startswith(("DUMONT_", "DATABASE_"))}
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        chosen = {"DUMONT_HOME": str(self.path), "DUMONT_PORT": "0", "DUMONT_SANDBOX_PORT": "0"}
        chosen["PYTHONPATH"] = f"{ROOT}:{ROOT / 'src'}"
        chosen["DUMONT_SECRET_KEY"] = base64.b64encode(self.secret).decode()
        return {**kept, **chosen, **settings}


@contextmanager
def new_home() -> Iterator[Home]:
    """Make a folder for an installation; it goes with its database at the end."""
    folder = Path(tempfile.mkdtemp(prefix="dumont-bench-"))
    home = Home(folder / "home", secrets.token_bytes(32))
    home.path.mkdir(mode=0o700)
    try:
        yield home
    finally:
        cluster = recorded_cluster(home.path / "postgres.json")
        if cluster is not None:
            shutil.rmtree(cluster)
        shutil.rmtree(folder)


@contextmanager
def prepared_database(home: Home) -> Iterator[tuple[DatabaseUrls, int]]:
    """Run a durable (fsync) PostgreSQL with the product's schema; gives its addresses and its process number."""
    server = EmbeddedPostgres(home.path, home.secret)
    owner = server.start()
    try:
        migrate(owner, home.secret)
        urls = resolve_urls(load_settings({"DUMONT_HOME": str(home.path)}), home.secret, owner)
        migrate_engine(owner, WORKER_ROLE if urls.second_wall else None)
        if server.pid is None:
            raise BenchmarkError("PostgreSQL has ended")
        yield urls, server.pid
    finally:
        server.stop()


@contextmanager
def running(home: Home, arguments: list[str], **settings: str) -> Iterator["Process"]:
    """Run a program of the installation; it is stopped at the end."""
    with (home.path / "bench.log").open("ab") as log:
        process = subprocess.Popen(
            arguments,
            env=home.environment(**settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=home.path,
            start_new_session=True,
        )
    found = Process(process, home.path / "bench.log")
    try:
        yield found
    finally:
        found.stop()


class Process:
    """A running program that says on its output when it is ready."""

    def __init__(self, popen: "subprocess.Popen[bytes]", log: Path) -> None:
        self.popen = popen
        self._log = log

    @property
    def pid(self) -> int:
        """Its process number."""
        return self.popen.pid

    def line_with(self, words: str) -> str:
        """Wait for a line of its output that holds `words` and return it.

        Errors: BenchmarkError when it ends without one.
        """
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            if words.encode() in line:
                return line.decode()
        self.popen.wait()
        tail = self._log.read_text(errors="replace")[-2000:]
        raise BenchmarkError(f"{self.popen.args!r} ended with {self.popen.returncode} before it was ready:\n{tail}")

    def stop(self) -> None:
        """End it in good order; by force where it does not."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(30)
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()
        if self.popen.stdout is not None:
            self.popen.stdout.close()


def ready_url(process: Process) -> str:
    """Wait until `dumont up` or `dumont serve api` says that it is ready, see that it is, and return its address."""
    url = process.line_with("Dumont Cloud is ready").split()[-1]
    connection = connect(url)
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise BenchmarkError(f"/health answered {answer.status}: {text!r}")
    finally:
        connection.close()
    return url


def connect(url: str) -> http.client.HTTPConnection:
    """Make a connection that stays open over requests."""
    return http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)


def deadline() -> float:
    """Return the moment at which waiting ends."""
    return time.monotonic() + DEADLINE_SECONDS


class Laboratory:
    """One database for the benchmarks of one run, and the API over it; both are started when first asked for."""

    def __init__(self) -> None:
        self._parts = ExitStack()
        self._found: tuple[Home, DatabaseUrls, int] | None = None
        self._api: tuple[Process, str] | None = None

    def database(self) -> tuple[Home, DatabaseUrls, int]:
        """Return the home, the database's addresses and the number of its process."""
        if self._found is None:
            home = self._parts.enter_context(new_home())
            urls, pid = self._parts.enter_context(prepared_database(home))
            self._found = home, urls, pid
        return self._found

    def api(self) -> tuple[Process, str]:
        """Return the process of the API role and its address."""
        if self._api is None:
            home, urls, _ = self.database()
            settings = {**_NO_SANDBOX, **NO_LIMITS, "DUMONT_DATABASE_APP_URL": urls.app}
            process = self._parts.enter_context(running(home, [*COMMAND, "serve", "api"], **settings))
            self._api = process, ready_url(process)
        return self._api

    def run(self, module: str) -> AbstractContextManager[Process]:
        """Run a module of the benchmarks over the database as its roles: BENCH_APP_URL and BENCH_WORKER_URL."""
        home, urls, _ = self.database()
        return running(home, [sys.executable, "-m", module], BENCH_APP_URL=urls.app, BENCH_WORKER_URL=urls.worker)

    def __enter__(self) -> "Laboratory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._parts.__exit__(kind, error, trace)
