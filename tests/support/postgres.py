"""Fixtures for tests that need a real PostgreSQL: one server per run, a clone of a migrated database per test.

The server is embedded (or DATABASE_URL's), belongs to a host process that the first test in need starts, and ends with
the last process that used it, however that ended: users hold a shared lock on a file, the host waits for all of it.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from dumont.db import DatabaseUrls, psycopg_url, with_database

TEST_SECRET = b"only for tests, never a real key"
RUN_VARIABLE = "PYTEST_DUMONT_RUN"
RUN = os.environ.setdefault(RUN_VARIABLE, uuid4().hex[:12])
FOLDER = Path(tempfile.gettempdir()) / f"dumont-test-{os.geteuid()}-{RUN}"
START_SECONDS = 120.0
_held: list[int] = []


@pytest.fixture
def database_urls() -> Iterator[DatabaseUrls]:
    """A fresh, migrated database for this test alone, with the addresses of its three roles."""
    urls = clone_database()
    yield urls
    drop_database(urls)


@pytest.fixture(scope="session")
def postgres_server() -> str:
    """The owner's address of the run's server, in a database that no test should write to."""
    return _server()["owner_url"]


def clone_database(*, empty: bool = False) -> DatabaseUrls:
    """Make a database like the migrated template (or without anything in it) and return its addresses."""
    known = _server()
    name = f"dumont_test_{RUN}_{uuid4().hex[:10]}"
    source = "template0" if empty else known["template"]
    with _administration() as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {source}")
    owner, app, worker = (with_database(known[role], name) for role in ("owner_url", "app_url", "worker_url"))
    return DatabaseUrls(owner, app, worker, second_wall=bool(known["second_wall"]))


def drop_database(urls: DatabaseUrls) -> None:
    """Remove what `clone_database` made, with whoever is still connected."""
    with psycopg.connect(psycopg_url(urls.owner)) as connection:
        name = connection.info.dbname
    with _administration() as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def pytest_configure() -> None:
    """Use the server's folder for the whole run: a worker that is done ends no server that another comes to later."""
    if "PYTEST_XDIST_WORKER" not in os.environ and not FOLDER.exists():
        FOLDER.mkdir(mode=0o700)
        _held.append(_lock(FOLDER / "users", fcntl.LOCK_SH))


def pytest_unconfigure() -> None:
    """Let go of the server, and see it ended when this was its last user's run."""
    while _held:
        os.close(_held.pop())
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    if (FOLDER / "failed").exists() or (FOLDER.exists() and not (FOLDER / "host.log").exists()):
        shutil.rmtree(FOLDER)
    until = time.monotonic() + 20
    while FOLDER.exists() and time.monotonic() < until:
        time.sleep(0.02)


@contextmanager
def _administration() -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
    with psycopg.connect(psycopg_url(_server()["owner_url"]), autocommit=True) as connection:
        yield connection


@cache
def _server() -> dict[str, str]:
    """Find the run's server, or start its host; holds the shared lock until this process ends."""
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    _held.append(_lock(FOLDER / "users", fcntl.LOCK_SH))
    turn = _lock(FOLDER / "turn", fcntl.LOCK_EX)
    try:
        if (FOLDER / "failed").exists():
            pytest.fail("the test database did not start; see the first test that needed it", pytrace=False)
        if not (FOLDER / "ready.json").exists():
            _start_host()
        found: dict[str, str] = json.loads((FOLDER / "ready.json").read_text())
    finally:
        os.close(turn)
    return found


def _start_host() -> None:
    with (FOLDER / "host.log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("postgres_host.py")), str(FOLDER), RUN],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    until = time.monotonic() + START_SECONDS
    while not (FOLDER / "ready.json").exists():
        if child.poll() is not None or time.monotonic() > until:
            said = (FOLDER / "host.log").read_text()
            (FOLDER / "failed").touch()
            pytest.fail(f"the test database did not start:\n{said}", pytrace=False)
        time.sleep(0.02)


def _lock(path: Path, kind: int) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(handle, kind)
    return handle
