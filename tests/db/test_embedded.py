"""The embedded server: what survives a restart, a kill and a stranger, and what its sentences say."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from dumont.db import DatabaseStartError, EmbeddedPostgres, psycopg_url
from dumont.db.embedded import places
from dumont.db.embedded.cluster import spawn
from dumont.db.embedded.errors import from_output
from dumont.db.embedded.places import find_place

pytestmark = pytest.mark.xdist_group("embedded-postgres")
SECRET = b"a secret for the embedded tests"
SUPERVISOR = """
import sys, time
from pathlib import Path
from dumont.db import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), sys.argv[2].encode())
server.start()
print(server.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with a finished, stopped database in it: making one takes a second, so the tests of a module share it."""
    home = tmp_path_factory.mktemp("home")
    server = EmbeddedPostgres(home, SECRET)
    execute(server.start(), "CREATE TABLE kept (word text)", "INSERT INTO kept VALUES ('intact')")
    server.stop()
    yield home
    shutil.rmtree(server.place.cluster)


@pytest.fixture
def server(home: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(home, SECRET)
    yield server
    server.stop()


@pytest.fixture
def new_home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "new"
    shutil.rmtree(find_place(tmp_path / "new", SECRET).cluster)


def execute(url: str, *statements: str) -> list[tuple[object, ...]]:
    with psycopg.connect(psycopg_url(url)) as connection:
        for statement in statements:
            cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def kept(url: str) -> list[tuple[object, ...]]:
    return execute(url, "SELECT word FROM kept")


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def supervisor(home: Path) -> "subprocess.Popen[str]":
    words = [sys.executable, "-c", SUPERVISOR, str(home), SECRET.decode()]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def kill(child: "subprocess.Popen[str]") -> None:
    child.kill()
    child.communicate()


def test_what_was_committed_is_there_after_stop_and_start(server: EmbeddedPostgres) -> None:
    assert kept(server.start()) == [("intact",)]
    pid = server.pid
    assert pid is not None and server.is_running()
    server.stop()
    assert not server.is_running() and not alive(pid)
    begun = time.monotonic()
    assert kept(server.start()) == [("intact",)]
    assert time.monotonic() - begun < 60
    assert server.start() == server.start()


def test_the_server_is_private_checked_and_not_root(server: EmbeddedPostgres) -> None:
    url = server.start()
    settings = "listen_addresses, data_checksums, fsync, server_encoding"
    query = ", ".join(f"current_setting('{name}')" for name in settings.split(", "))
    assert execute(url, f"SELECT {query}") == [("", "on", "on", "UTF8")]
    assert Path(f"/proc/{server.pid}").stat().st_uid not in (0,)
    assert stat.S_IMODE(server.place.data.stat().st_mode) == 0o700
    assert stat.S_IMODE(server.place.sockets.stat().st_mode) == 0o700
    hba = (server.place.data / "pg_hba.conf").read_text()
    rules = [line.split() for line in hba.splitlines() if line.strip() and not line.startswith("#")]
    assert rules and all(rule[-1] == "scram-sha-256" for rule in rules)
    assert not list(server.place.cluster.glob("password-*"))


def test_a_server_that_is_killed_comes_back_by_itself(server: EmbeddedPostgres) -> None:
    server.start()
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: server.pid not in (None, pid) and server.is_running())
    assert kept(server.start()) == [("intact",)]


def test_a_killed_supervisor_takes_the_server_with_it_and_the_data_stays(home: Path, server: EmbeddedPostgres) -> None:
    child = supervisor(home)
    assert child.stdout is not None
    pid = int(child.stdout.readline())
    assert alive(pid)
    kill(child)
    until(lambda: not alive(pid))
    assert kept(server.start()) == [("intact",)]


def test_an_orphan_that_nobody_told_to_stop_is_stopped_and_replaced(home: Path, server: EmbeddedPostgres) -> None:
    place = find_place(home, SECRET)
    quoted = f'unix_socket_directories="{place.sockets}"'
    words = [str(place.binaries.program("postgres")), "-D", str(place.data), "-c", quoted, "-c", "listen_addresses="]
    orphan = spawn(place, place.data, signal.Signals(signal.SIGURG), words, subprocess.DEVNULL)
    until(lambda: (place.data / "postmaster.pid").exists() and "ready" in (place.data / "postmaster.pid").read_text())
    assert kept(server.start()) == [("intact",)]
    assert not alive(orphan.pid)
    assert orphan.wait() == 0


@pytest.mark.parametrize("shape", ["same user, same folder", "somebody else"])
def test_a_stranger_with_the_number_of_a_stale_pid_file_is_left_alone(
    home: Path, server: EmbeddedPostgres, shape: str
) -> None:
    place = find_place(home, SECRET)
    sleep = shutil.which("sleep") or "/bin/sleep"
    if shape == "somebody else":
        stranger = subprocess.Popen([sleep, "600"])
    else:
        stranger = spawn(place, place.data, signal.SIGKILL, [sleep, "600"], subprocess.DEVNULL)
    try:
        lines = [str(stranger.pid), str(place.data), "1700000000", "5432", str(place.sockets), "", "1 1", "ready   "]
        for stale in (place.data / "postmaster.pid", place.sockets / ".s.PGSQL.5432.lock"):
            stale.write_text("\n".join(lines) + "\n")
        assert kept(server.start()) == [("intact",)]
        server.stop()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_second_supervisor_is_told_who_holds_the_database(home: Path, server: EmbeddedPostgres) -> None:
    url = server.start()
    second = EmbeddedPostgres(home, SECRET)
    with pytest.raises(DatabaseStartError, match=rf"Another Dumont \(process {os.getpid()}\).*DUMONT_HOME"):
        second.start()
    assert kept(url) == [("intact",)]
    server.stop()
    assert kept(second.start()) == [("intact",)]
    second.stop()


def test_another_secret_is_told_to_put_the_first_one_back(home: Path, server: EmbeddedPostgres) -> None:
    other = EmbeddedPostgres(home, b"another secret")
    with pytest.raises(DatabaseStartError, match="made with another secret key"):
        other.start()
    assert other.pid is None
    assert kept(server.start()) == [("intact",)]


@pytest.mark.parametrize("major", ["17", "19"])
def test_a_data_folder_of_another_major_version_is_refused_untouched(
    home: Path, server: EmbeddedPostgres, major: str
) -> None:
    version = find_place(home, SECRET).data / "PG_VERSION"
    true = version.read_text()
    version.write_text(f"{major}\n")
    try:
        told = rf"made by PostgreSQL {major}.*brings 18\. Nothing was changed.*restore-backup.*upgrade-postgres\.md"
        with pytest.raises(DatabaseStartError, match=told):
            server.start()
        assert version.read_text() == f"{major}\n" and server.pid is None
    finally:
        version.write_text(true)
    assert kept(server.start()) == [("intact",)]


def test_a_supervisor_killed_in_the_middle_of_initdb_leaves_nothing_in_the_way(new_home: Path) -> None:
    cluster = find_place(new_home, SECRET).cluster
    child = supervisor(new_home)
    until(lambda: list(cluster.glob("data.new-*/PG_VERSION")))
    kill(child)
    assert not (cluster / "data").exists()
    torn = cluster / "data.new-before-the-power-cut"
    (torn / "global").mkdir(parents=True)
    (torn / "global" / "pg_control").write_bytes(b"")
    (cluster / "password-before-the-power-cut").write_text("half")
    server = EmbeddedPostgres(new_home, SECRET)
    try:
        assert execute(server.start(), "SELECT 1") == [(1,)]
        assert not list(cluster.glob("data.new-*")) and not list(cluster.glob("password-*"))
    finally:
        server.stop()


def test_a_full_disk_is_said_before_anything_is_made(new_home: Path) -> None:
    server = EmbeddedPostgres(new_home, SECRET, room_bytes=2**62)
    with pytest.raises(DatabaseStartError, match=r"is full.*Free some room"):
        server.start()
    assert not list(server.place.cluster.glob("data*"))
    output = 'initdb: error: could not write to file "x": No space left on device\n'
    assert "is full" in str(from_output("Making a new database", new_home, output))


def test_a_socket_folder_that_others_can_write_to_is_refused(home: Path, server: EmbeddedPostgres) -> None:
    sockets = find_place(home, SECRET).sockets
    sockets.chmod(0o777)
    try:
        with pytest.raises(DatabaseStartError, match="Remove it"):
            server.start()
    finally:
        sockets.chmod(0o700)
    assert kept(server.start()) == [("intact",)]


def test_a_long_home_still_has_a_socket_path_that_fits(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 30)
    place = find_place(home, SECRET)
    try:
        assert len(os.fsencode(place.sockets / ".s.PGSQL.5432")) <= 107
        assert find_place(home, SECRET).sockets == place.sockets
    finally:
        shutil.rmtree(place.sockets)
        shutil.rmtree(place.cluster)


def test_a_home_whose_recorded_database_is_gone_is_not_given_an_empty_one(tmp_path: Path) -> None:
    record = tmp_path / "postgres.json"
    record.write_text('{"cluster": "/nowhere/at/all"}')
    with pytest.raises(DatabaseStartError, match=r"/nowhere/at/all, and that folder is gone"):
        places.recorded_cluster(record)
    record.write_text("[]")
    with pytest.raises(DatabaseStartError, match="Restore that file"):
        places.recorded_cluster(record)
