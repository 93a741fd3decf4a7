"""Backups of a database: every row of every team comes back, or a sentence says why not; nothing half-done stays."""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from tests.support.postgres import TEST_SECRET, clone_database, drop_database

from dumont.db import (
    BackupError,
    DatabaseUrls,
    Manifest,
    holds_tables,
    migrate,
    psycopg_url,
    read_backup,
    restore_backup,
    save_backup,
    with_role,
)

pytestmark = pytest.mark.requires_postgres
NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=timezone.utc)
TEAMS = ("team_red", "team_blue")
SAVER = """
import sys, time
from datetime import datetime, timezone
from pathlib import Path
from dumont.db import save_backup
def wait(size):
    print("saving", flush=True)
    time.sleep(600)
save_backup(sys.stdin.readline().strip(), Path(sys.argv[1]), b"secret", datetime.now(timezone.utc), on_progress=wait)
"""


@pytest.fixture(scope="module")
def source() -> Iterator[DatabaseUrls]:
    """A database with rows of two teams, an undelivered event and a workflow that is under way."""
    urls = clone_database()
    populate(urls.owner)
    yield urls
    drop_database(urls)


@pytest.fixture(scope="module")
def saved(source: DatabaseUrls, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backups") / "saved"
    save_backup(source.owner, folder, TEST_SECRET, NOW)
    return folder


@pytest.fixture
def empty() -> Iterator[DatabaseUrls]:
    urls = clone_database(empty=True)
    yield urls
    drop_database(urls)


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """A backup of the test's own, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.fixture
def plain_owner(source: DatabaseUrls) -> Iterator[str]:
    """The name of a role that owns databases and is bound by row-level security, as a managed PostgreSQL gives."""
    name = f"plain_{os.urandom(4).hex()}"
    with connect(source.owner) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'plain'".encode())
    yield name
    with connect(source.owner) as connection:
        connection.execute(f"DROP ROLE {name}".encode())


def connect(url: str) -> "psycopg.Connection[tuple[Any, ...]]":
    return psycopg.connect(psycopg_url(url), autocommit=True)


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    with connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


def name_of(urls: DatabaseUrls) -> str:
    return str(psycopg.conninfo.conninfo_to_dict(psycopg_url(urls.owner))["dbname"])


def run(url: str, *statements: str) -> None:
    with connect(url) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def populate(owner: str) -> None:
    with connect(owner) as connection:
        connection.execute("SELECT set_config('dumont.sweep', 'on', false)")
        for team in TEAMS:
            user = team.replace("team", "usr")
            connection.execute(
                "SELECT dumont_register(%s, %s, %s, 'N', 'hash', %s, 'Team', false, now())",
                [user, f"{user}@example.org", user, team],
            )
            connection.execute(
                "INSERT INTO outbox_event (team_id, topic, resource_type, resource_id, data) "
                "SELECT %s, 'kept', 'thing', 'thing-' || n, '{\"é\": \"\\t\"}' FROM generate_series(1, 40) n",
                [team],
            )
        if connection.execute("SELECT to_regclass('dbos.workflow_status')::text").fetchone() != (None,):
            connection.execute(
                "INSERT INTO dbos.workflow_status (workflow_uuid, status, name) VALUES ('wf-1', 'PENDING', 'wake')"
            )


def contents(url: str) -> dict[str, str]:
    """Take a digest of all rows of each table."""
    found = {}
    with connect(url) as connection:
        connection.execute("SELECT set_config('dumont.sweep', 'on', false)")
        tables = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('public', 'dbos') ORDER BY 1, 2"
        ).fetchall()
        for schema, name in tables:
            query = sql.SQL("SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {} t")
            found[f"{schema}.{name}"] = str(connection.execute(query.format(sql.Identifier(schema, name))).fetchone())
    return found


def rules(url: str) -> list[list[tuple[Any, ...]]]:
    """Read what else makes the database: rights, policies, indexes, constraints, functions, triggers."""
    ours = "nspname IN ('public', 'dbos')"
    return [
        rows(url, query)
        for query in (
            f"SELECT relname, relkind, relacl::text, relrowsecurity, relforcerowsecurity FROM pg_class c "
            f"JOIN pg_namespace n ON n.oid = relnamespace WHERE {ours} ORDER BY 1, 2",
            "SELECT tablename, policyname, permissive, roles, cmd, qual, with_check FROM pg_policies ORDER BY 1, 2",
            "SELECT indexdef FROM pg_indexes WHERE schemaname IN ('public', 'dbos') ORDER BY 1",
            f"SELECT conname, pg_get_constraintdef(c.oid) FROM pg_constraint c "
            f"JOIN pg_namespace n ON n.oid = connamespace WHERE {ours} ORDER BY 1, 2",
            f"SELECT proname, prosecdef, proconfig, proacl::text, md5(prosrc) FROM pg_proc p "
            f"JOIN pg_namespace n ON n.oid = pronamespace WHERE {ours} ORDER BY 1, 5",
            "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2",
            "SELECT defaclobjtype, defaclacl::text FROM pg_default_acl d "
            "JOIN pg_namespace n ON n.oid = defaclnamespace WHERE nspname = 'public' ORDER BY 1",
            f"SELECT nspname, nspacl::text, pg_get_userbyid(nspowner) FROM pg_namespace WHERE {ours} ORDER BY 1",
        )
    ]


def restore(url: str, folder: Path, **more: Any) -> Manifest:
    manifest = read_backup(folder, TEST_SECRET)
    restore_backup(url, folder, manifest, TEST_SECRET, **more)
    return manifest


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_every_row_right_and_rule_comes_back(source: DatabaseUrls, saved: Path, empty: DatabaseUrls) -> None:
    manifest = restore(empty.owner, saved)
    before = contents(source.owner)
    assert contents(empty.owner) == before
    assert rules(empty.owner) == rules(source.owner)
    assert manifest.tables["public.team"] == 2 and manifest.tables["public.outbox_event"] >= 80
    assert manifest.tables["dbos.workflow_status"] == 1 and set(manifest.tables) == set(before)
    (highest,) = rows(source.owner, "SELECT max(id) FROM outbox_event")[0]
    fresh = (
        "INSERT INTO outbox_event (topic, resource_type, resource_id, data) VALUES ('n', 'n', 'n', '{}') RETURNING id"
    )
    assert rows(empty.owner, fresh)[0][0] > highest


def test_replacing_leaves_nothing_of_what_was_there(source: DatabaseUrls, saved: Path, tmp_path: Path) -> None:
    urls = clone_database()
    try:
        run(urls.owner, "CREATE TABLE newer (id int)", "CREATE TABLE dbos.newer (id int)")
        with pytest.raises(BackupError, match=r"not empty.*--force"):
            restore(urls.owner, saved)
        assert rows(urls.owner, "SELECT count(*) FROM newer") == [(0,)]
        restore(urls.owner, saved, replace=True)
        assert contents(urls.owner) == contents(source.owner)
        assert rules(urls.owner) == rules(source.owner)
        again = save_backup(urls.owner, tmp_path / "again", TEST_SECRET, NOW)
        assert again.tables == read_backup(saved, TEST_SECRET).tables
    finally:
        drop_database(urls)


def test_an_owner_bound_by_row_level_security_saves_and_restores_all_teams(
    source: DatabaseUrls, plain_owner: str, tmp_path: Path
) -> None:
    bases = [clone_database(empty=True), clone_database(empty=True)]
    owners = [with_role(urls.owner, plain_owner, "plain") for urls in bases]
    try:
        for urls in bases:
            run(urls.owner, f"ALTER DATABASE {name_of(urls)} OWNER TO {plain_owner}")
        migrate(owners[0], TEST_SECRET)
        populate(owners[0])
        assert rows(owners[0], "SELECT count(*) FROM outbox_event") == [(0,)]
        assert rows(bases[0].owner, "SELECT count(*) FROM outbox_event") == [(80,)]
        manifest = save_backup(owners[0], tmp_path / "saved", TEST_SECRET, NOW)
        assert manifest.tables["public.outbox_event"] == 80 and manifest.tables["public.membership"] == 2
        restore(owners[1], tmp_path / "saved")
        query = "SELECT team_id, count(*) FROM outbox_event GROUP BY 1 ORDER BY 1"
        assert rows(bases[1].owner, query) == [("team_blue", 40), ("team_red", 40)]
        assert contents(bases[1].owner) == contents(bases[0].owner)
        with connect(bases[1].app) as connection:
            connection.execute("SELECT set_config('dumont.team_id', 'team_red', false)")
            assert connection.execute(query.encode()).fetchall() == [("team_red", 40)]
        hide = "ALTER TABLE dark {} ROW LEVEL SECURITY"
        run(owners[0], "CREATE TABLE dark (team_id text)", hide.format("ENABLE"), hide.format("FORCE"))
        with pytest.raises(BackupError, match=r"may hide rows of public\.dark.*BYPASSRLS"):
            save_backup(owners[0], tmp_path / "dark", TEST_SECRET, NOW)
        assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    finally:
        for urls in bases:
            drop_database(urls)


def test_a_backup_is_of_one_moment_private_and_without_a_password_in_sight(tmp_path: Path) -> None:
    urls = clone_database()
    password = psycopg.conninfo.conninfo_to_dict(psycopg_url(urls.owner))["password"]
    lines: set[bytes] = set()

    def disturb(size: int) -> None:
        rows(
            urls.owner,
            "INSERT INTO team (id, name, created_at) VALUES (gen_random_uuid()::text, '', now()) RETURNING 1",
        )
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = process.read_bytes()
            except OSError:
                continue
            if b"pg_dump" in line and os.fsencode(tmp_path) in line:
                lines.add(line)

    try:
        manifest = save_backup(urls.owner, tmp_path / "saved", TEST_SECRET, NOW, on_progress=disturb)
        assert manifest.tables["public.team"] == 0
        assert rows(urls.owner, "SELECT count(*) > 0 FROM team") == [(True,)]
        restore(urls.owner, tmp_path / "saved", replace=True)
        assert rows(urls.owner, "SELECT count(*) FROM team") == [(0,)]
    finally:
        drop_database(urls)
    assert lines and password and not [line for line in lines if os.fsencode(str(password)) in line]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [tmp_path / "saved", *tmp_path.glob("saved/*")]}
    assert modes == {"saved": 0o700, "database.dump": 0o600, "manifest.json": 0o600}


def test_a_damaged_or_foreign_backup_is_refused_before_anything_is_touched(copy: Path) -> None:
    with pytest.raises(BackupError, match="another secret key"):
        read_backup(copy, b"another")
    rewrite(copy, revision="9999_future", product="9.9")
    with pytest.raises(BackupError, match=r"Dumont 9\.9.*Update Dumont"):
        read_backup(copy, TEST_SECRET)
    dump = copy / "database.dump"
    damaged = bytearray(dump.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    dump.write_bytes(damaged)
    with pytest.raises(BackupError, match="missing, cut or changed"):
        read_backup(copy, TEST_SECRET)
    rewrite(copy, tables={"public.team; DROP TABLE x": 1})
    with pytest.raises(BackupError, match="no table of Dumont"):
        read_backup(copy, TEST_SECRET)
    (copy / "manifest.json").unlink()
    with pytest.raises(BackupError, match="is not a backup"):
        read_backup(copy, TEST_SECRET)


def test_a_restore_that_fails_halfway_leaves_the_database_as_it_was(source: DatabaseUrls, copy: Path) -> None:
    urls = clone_database()
    try:
        rows(urls.owner, "INSERT INTO team (id, name, created_at) VALUES ('mine', '', now()) RETURNING 1")
        before = contents(urls.owner)
        manifest = read_backup(copy, TEST_SECRET)
        rewrite(copy, tables={**manifest.tables, "public.team": 3})
        with pytest.raises(BackupError, match=r"as it was.*has not the 3 rows"):
            restore(urls.owner, copy, replace=True)
        assert contents(urls.owner) == before
        cut = (copy / "database.dump").read_bytes()[: manifest.dump_bytes - 2000]
        (copy / "database.dump").write_bytes(cut)
        digest = hashlib.sha256(cut).hexdigest()
        rewrite(copy, tables=manifest.tables, dump_bytes=len(cut), dump_sha256=digest)
        with pytest.raises(BackupError, match=r"as it was.*pg_restore said"):
            restore(urls.owner, copy, replace=True)
        assert contents(urls.owner) == before
    finally:
        drop_database(urls)


def test_a_database_in_use_is_not_restored_into(saved: Path, empty: DatabaseUrls) -> None:
    with psycopg.connect(psycopg_url(empty.owner), application_name="dumont-worker"):
        with pytest.raises(BackupError, match=r"in use \(1 connections: dumont-worker\)"):
            restore(empty.owner, saved)
    assert not holds_tables(empty.owner)


def test_a_killed_backup_leaves_no_name_no_process_and_its_rest_is_cleared(
    source: DatabaseUrls, tmp_path: Path
) -> None:
    folder = tmp_path / "saved"
    child = subprocess.Popen(
        [sys.executable, "-c", SAVER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(psycopg_url(source.owner) + "\n")
    child.stdin.flush()
    assert child.stdout.readline() == "saving\n"
    child.kill()
    child.communicate()
    assert not folder.exists() and len(list(tmp_path.iterdir())) == 1
    deadline = time.monotonic() + 60
    while any(os.fsencode(tmp_path) in line_of(path) for path in Path("/proc").glob("[0-9]*/cmdline")):
        assert time.monotonic() < deadline, "pg_dump outlived the backup"
        time.sleep(0.02)
    save_backup(source.owner, folder, TEST_SECRET, NOW)
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def line_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_only_a_backup_is_replaced_and_only_when_asked(source: DatabaseUrls, copy: Path, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match=r"exists already.*--force"):
        save_backup(source.owner, copy, TEST_SECRET, NOW)
    (copy / "photo.jpg").write_text("dear")
    with pytest.raises(BackupError, match="is not a backup"):
        save_backup(source.owner, copy, TEST_SECRET, NOW, replace=True)
    (copy / "photo.jpg").unlink()
    rewrite(copy, made_at="long ago")
    save_backup(source.owner, copy, TEST_SECRET, NOW, replace=True)
    assert read_backup(copy, TEST_SECRET).made_at == "2026-05-04T03:02:01+00:00"
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    with pytest.raises(BackupError, match="does not exist"):
        save_backup(source.owner, tmp_path / "no" / "where", TEST_SECRET, NOW)


def test_a_database_that_is_not_ours_is_not_saved(empty: DatabaseUrls, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="not Dumont's"):
        save_backup(empty.owner, tmp_path / "saved", TEST_SECRET, NOW)
    assert not list(tmp_path.iterdir())
