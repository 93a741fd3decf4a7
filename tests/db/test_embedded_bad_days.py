"""Bad days of the embedded server: power cuts, dead backends, races, logouts, ordinary users behind closed folders."""

import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

import dumont
from dumont.db import DatabaseInUse, EmbeddedPostgres, has_cluster, psycopg_url, visit_database
from dumont.db.embedded.places import find_place
from dumont.db.embedded.processes import servers

SECRET = b"a secret for bad days"
SUPERVISOR = """
import json, sys, time
from pathlib import Path
from dumont.db import DatabaseStartError, EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), sys.argv[2].encode())
try:
    url = server.start()
except DatabaseStartError as error:
    sys.exit(str(error))
print(json.dumps([server.pid, url, str(server.place.data)]), flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with a stopped database, in a folder that only this user may enter."""
    closed = tmp_path_factory.mktemp("closed")
    closed.chmod(0o700)
    server = EmbeddedPostgres(closed / "home", SECRET)
    run(server.start(), "CREATE TABLE kept AS SELECT n FROM generate_series(1, 5000) n")
    server.stop()
    yield closed / "home"
    shutil.rmtree(server.place.cluster)


@pytest.fixture
def server(home: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(home, SECRET)
    yield server
    server.stop()


def run(url: str, *statements: str) -> list[tuple[object, ...]]:
    with psycopg.connect(psycopg_url(url)) as connection:
        for statement in statements:
            cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def kept(url: str) -> bool:
    return run(url, "SELECT count(*), sum(n) FROM kept") == [(5000, 12502500)]


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def supervisor(home: Path, user: int | None = None) -> "subprocess.Popen[str]":
    """Start a supervisor in a process of its own, as another user where one is named."""
    words = [sys.executable, "-c", SUPERVISOR, str(home), SECRET.decode()]
    if user is not None and user != os.geteuid():
        words = [*as_user(user), *words]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/")


def as_user(user: int) -> list[str]:
    """Drop root; where Python or the checkout lies in a closed folder, keep the one right to read past that."""
    paths = [Path(sys.executable), Path(sys.executable).resolve(), Path(dumont.__file__)]
    reachable = all(parent.stat().st_mode & 0o001 for path in paths for parent in path.parents)
    rights = [] if reachable else ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *rights]


def told(child: "subprocess.Popen[str]") -> tuple[int, str, Path]:
    """Read a supervisor's first words: the server's number, its URL, its data folder."""
    assert child.stdout is not None and child.stderr is not None
    line = child.stdout.readline()
    assert line, child.stderr.read()
    pid, url, data = json.loads(line)
    return pid, url, Path(data)


def test_a_killed_backend_costs_its_connections_and_nothing_else(server: EmbeddedPostgres) -> None:
    url = server.start()
    pid = server.pid
    with psycopg.connect(psycopg_url(url)) as connection:
        connection.execute("INSERT INTO kept VALUES (0)")
        os.kill(connection.info.backend_pid, signal.SIGKILL)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")

    def answers() -> bool:
        try:
            return kept(url)
        except psycopg.OperationalError:
            return False

    until(answers)
    assert server.pid == pid


def test_after_a_power_cut_what_was_committed_is_there(home: Path, server: EmbeddedPostgres) -> None:
    child = supervisor(home)
    pid, url, data = told(child)
    run(url, "CREATE TABLE late AS SELECT 1 AS n")
    everybody = servers(find_place(home, SECRET), data)
    assert pid in everybody and len(everybody) > 3
    for number in (child.pid, *everybody):
        with suppress(ProcessLookupError):  # a worker of the server may end by itself meanwhile
            os.kill(number, signal.SIGKILL)
    child.communicate()
    until(lambda: not any(alive(number) for number in everybody))
    assert (data / "postmaster.pid").exists()
    url = server.start()
    assert kept(url) and run(url, "SELECT n FROM late") == [(1,)]
    run(url, "DROP TABLE late")


def test_of_two_supervisors_at_once_one_runs_and_the_other_says_why_not(home: Path) -> None:
    both = [supervisor(home), supervisor(home)]
    try:
        until(lambda: any(child.poll() is not None for child in both))
        loser = next(child for child in both if child.poll() is not None)
        winner = next(child for child in both if child is not loser)
        assert "Another Dumont" in loser.communicate()[1] and loser.returncode == 1
        pid, url, _ = told(winner)
        assert kept(url) and alive(pid)
    finally:
        for child in both:
            child.kill()
            child.communicate()
    until(lambda: not alive(pid))


def maps_of(pid: int) -> str:
    """Return what a process has mapped; nothing where it has ended meanwhile, as workers of PostgreSQL do."""
    try:
        return Path(f"/proc/{pid}/maps").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_an_emptied_dev_shm_is_not_missed(server: EmbeddedPostgres) -> None:
    url = server.start()
    children = servers(server.place, server.place.data)
    assert len(children) > 3
    assert not [pid for pid in children if "/dev/shm" in maps_of(pid)]
    parallel = "SET debug_parallel_query = on; SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0"
    plan = run(url, *parallel.split("; "), "EXPLAIN (ANALYZE) SELECT count(*) FROM kept")
    assert any("Workers Launched: 1" in str(line) or "Workers Launched: 2" in str(line) for line in plan), plan


def test_a_closed_folder_above_the_home_stays_closed(home: Path, server: EmbeddedPostgres) -> None:
    before = [stat.S_IMODE(path.stat().st_mode) for path in (home.parent, home)]
    assert kept(server.start())
    assert before == [0o700, 0o700] == [stat.S_IMODE(path.stat().st_mode) for path in (home.parent, home)]


def test_an_ordinary_user_has_all_in_the_home_and_survives_a_kill() -> None:
    """As root this drops to `nobody`."""
    user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()
    folder = Path(tempfile.mkdtemp(prefix="dumont-ordinary-"))
    try:
        os.chown(folder, user, -1)
        first = supervisor(folder / "home", user)
        pid, url, data = told(first)
        assert data == folder / "home" / "postgres" / "data"
        assert Path(f"/proc/{pid}").stat().st_uid == user == data.stat().st_uid
        run(url, "CREATE TABLE kept AS SELECT n FROM generate_series(1, 5000) n")
        first.kill()
        first.communicate()
        second = supervisor(folder / "home", user)
        again, url, _ = told(second)
        assert kept(url) and not alive(pid)
        second.kill()
        second.communicate()
        until(lambda: not alive(again))
    finally:
        shutil.rmtree(folder)


def test_a_visit_uses_the_running_server_or_runs_one_for_a_while(home: Path, server: EmbeddedPostgres) -> None:
    url = server.start()
    pid = server.pid
    with visit_database(home, SECRET) as visited:
        assert visited == url and kept(visited)
    assert server.pid == pid and server.is_running()
    with pytest.raises(DatabaseInUse):
        EmbeddedPostgres(home, SECRET).start()
    server.stop()
    with visit_database(home, SECRET) as visited:
        assert kept(visited)
        found = servers(server.place, server.place.data)
        assert found
    assert not any(alive(number) for number in found)


def test_looking_for_a_database_makes_none(home: Path, tmp_path: Path) -> None:
    assert has_cluster(home)
    assert not has_cluster(tmp_path / "nothing") and not list(tmp_path.iterdir())
