"""Schedules fire once, whatever the number of workers; what is old is forgotten, what runs is not."""

import subprocess
import sys
from collections import Counter
from datetime import datetime, timedelta, timezone
from pathlib import Path

import psycopg
from tests.support.sandbox import wait_until

from dumont.db import DatabaseUrls, psycopg_url


def test_each_tick_fires_once_with_two_workers(database_urls: DatabaseUrls) -> None:
    """Two workers share a schedule of one tick a second: every tick is written exactly once, however late.

    The last ones are not judged: they may still wait when the workers are stopped.
    """
    with psycopg.connect(psycopg_url(database_urls.owner), autocommit=True) as connection:
        connection.execute("CREATE TABLE tick (at timestamptz, pid integer)")
        connection.execute("GRANT INSERT ON tick TO dumont_worker")
        script = [sys.executable, str(Path(__file__).with_name("tick_process.py")), database_urls.worker]
        workers = [subprocess.Popen(script, stdout=subprocess.PIPE) for _ in range(2)]
        try:
            wait_until(lambda: _count(connection) >= 7, seconds=60, what="seven ticks")
        finally:
            for worker in workers:
                worker.terminate()
                worker.communicate(timeout=60)
        fired = Counter(row[0] for row in connection.execute("SELECT at FROM tick"))
    assert set(fired.values()) == {1}, fired
    times = sorted(fired)[:5]
    assert times == [times[0] + timedelta(seconds=n) for n in range(5)], "a tick was lost"
    assert all(at.microsecond == 0 for at in times)


def test_old_history_is_forgotten_and_running_work_is_not(database_urls: DatabaseUrls) -> None:
    """The nightly cleaning deletes ended workflows of long ago with all their records, and nothing else."""
    with psycopg.connect(psycopg_url(database_urls.owner), autocommit=True) as connection:
        old = datetime.now(timezone.utc) - timedelta(days=30)
        for name, status, at in (
            ("ended-old", "SUCCESS", old),
            ("failed-old", "ERROR", old),
            ("waiting-old", "ENQUEUED", old),
            ("ended-new", "SUCCESS", datetime.now(timezone.utc)),
        ):
            _write_workflow(connection, name, status, int(at.timestamp() * 1000))
        connection.execute(
            "SELECT dumont_register('usr_a', 'a@b.example', NULL, NULL, 'x', 'team_a', 'A', false, %s)", [old]
        )
        for session, expires in (("ses_old", old - timedelta(days=1)), ("ses_new", old + timedelta(days=60))):
            connection.execute(
                "INSERT INTO login_session (id, user_id, team_id, jti, created_at, expires_at) "
                "VALUES (%s, 'usr_a', 'team_a', 'j', %s, %s)",
                (session, old, expires),
            )
        script = [sys.executable, str(Path(__file__).with_name("clean_process.py")), database_urls.worker]
        done = subprocess.run(script, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        left = {row[0] for row in connection.execute("SELECT workflow_uuid FROM dbos.workflow_status")}
        sessions = connection.execute("SELECT id FROM login_session").fetchall()
        inputs = {row[0] for row in connection.execute("SELECT workflow_uuid FROM dbos.workflow_input")}
    assert {"waiting-old", "ended-new"} <= left
    assert not left & {"ended-old", "failed-old"}
    assert sessions == [("ses_new",)]
    assert not inputs & {"ended-old", "failed-old"}


def _count(connection: "psycopg.Connection[tuple[object, ...]]") -> int:
    row = connection.execute("SELECT count(DISTINCT at) FROM tick").fetchone()
    return int(str(row[0])) if row else 0


def _write_workflow(connection: "psycopg.Connection[tuple[object, ...]]", name: str, status: str, at: int) -> None:
    connection.execute(
        "INSERT INTO dbos.workflow_status (workflow_uuid, status, name, queue_name, application_version, created_at, "
        "updated_at, completed_at, recovery_attempts, serialization, application_name) "
        "VALUES (%s, %s, 'nobody.binds.this', 'elsewhere', 'test', %s, %s, %s, 0, 'portable_json', 'dumont')",
        (name, status, at, at, None if status == "ENQUEUED" else at),
    )
    connection.execute(
        "INSERT INTO dbos.workflow_input (workflow_uuid, inputs, retention_timestamp) VALUES (%s, '{}', %s)", (name, at)
    )
