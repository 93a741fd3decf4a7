"""Restoring a backup: in one transaction, into an empty database, and counted before it is committed."""

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import IO

import psycopg

from dumont.db.backup import DUMP, FORMAT, MANIFEST, Manifest, Progress, connected, contents, key_id, sha256
from dumont.db.programs import BackupError, Program, running
from dumont.db.roles import ensure_roles, is_known_revision, migrate
from dumont.db.rows import list_tables

_TABLE = re.compile(r"^(public|dbos)\.[A-Za-z_][A-Za-z0-9_]*$")
_PIECE = 1024 * 1024
_BEGIN = "BEGIN;\nSET LOCAL lock_timeout = '10s';\n"
_CLEAR = """
DROP SCHEMA IF EXISTS dbos CASCADE;
DROP SCHEMA public CASCADE;
CREATE SCHEMA public;
ALTER SCHEMA public OWNER TO pg_database_owner;
GRANT USAGE ON SCHEMA public TO PUBLIC;
"""
"""Leaves `public` as a new database has it; source: PostgreSQL manual, 5.10.2."""
_SEE_ALL = "SET LOCAL row_security = on;\nSELECT pg_catalog.set_config('dumont.sweep', 'on', true);\n"
_COUNT = """
DO $check$ BEGIN
    IF (SELECT count(*) FROM {table}) <> {rows} THEN
        RAISE EXCEPTION 'table {table} has not the {rows} rows that the backup counted';
    END IF;
END $check$;
"""


def read_backup(folder: Path, secret: bytes) -> Manifest:
    """Read a backup's manifest and see that the dump is the one that it describes, and that this version can use it.

    Errors: BackupError for what is not a backup, was changed, is newer, or belongs to another secret key.
    """
    manifest = _manifest(folder)
    dump = folder / DUMP
    if not dump.is_file() or dump.stat().st_size != manifest.dump_bytes or sha256(dump) != manifest.dump_sha256:
        raise BackupError(f"{dump} is not the file that was saved: it is missing, cut or changed. Use another copy.")
    if manifest.format != FORMAT or not is_known_revision(manifest.revision):
        raise BackupError(
            f"{folder} was made by Dumont {manifest.product}, whose database ({manifest.revision}) this version does "
            "not know. Update Dumont and restore again."
        )
    if manifest.key_id != key_id(secret):
        raise BackupError(
            f"{folder} belongs to an installation with another secret key, without which its snapshots and sealed "
            "values cannot be read. Put that secret.key (or DUMONT_SECRET_KEY) here first."
        )
    return manifest


def holds_tables(owner_url: str) -> bool:
    """Tell whether a database has tables of the product already."""
    with connected(owner_url) as connection:
        return bool(list_tables(connection))


def restore_backup(
    owner_url: str,
    folder: Path,
    manifest: Manifest,
    secret: bytes,
    *,
    replace: bool = False,
    on_progress: Progress | None = None,
) -> None:
    """Load a backup that `read_backup` accepted, and bring it up to date; `replace` drops what is there.

    Guarantees: one transaction, committed only when the whole dump was read and each table has the rows that the
    manifest counts; else the database stays as it was. Ownership goes to the role of `owner_url`.
    Errors: BackupError; DatabaseUnavailable.
    """
    dump = folder.absolute() / DUMP
    with connected(owner_url) as connection:
        _refuse_target(connection, replace=replace)
    ensure_roles(owner_url, secret)
    with tempfile.NamedTemporaryFile("w", prefix="dumont-restore-") as wanted:
        kept = [line for line in contents(dump) if " DEFAULT ACL " not in line]
        wanted.write("\n".join(kept) + "\n")
        wanted.flush()
        words = ["--format=custom", "--file=-", "--no-owner", f"--use-list={wanted.name}", str(dump)]
        psql = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file=-"]
        with (
            running("pg_restore", words, stdout=subprocess.PIPE) as script,
            running("psql", psql, url=owner_url, stdin=subprocess.PIPE) as loader,
        ):
            _load(script, loader, _BEGIN + (_CLEAR if replace else ""), _ending(manifest), on_progress)
    migrate(owner_url, secret)


def _load(script: Program, loader: Program, begin: str, ending: str, on_progress: Progress | None) -> None:
    """Pass the script on, and the COMMIT only when it came to its end."""
    source, sink = script.child.stdout, loader.child.stdin
    assert source is not None and sink is not None
    what = "The backup could not be restored; the database is as it was"
    try:
        sink.write(begin.encode())
        _copy(source, sink, on_progress)
        if script.child.wait() != 0:
            raise script.complaint(what)
        sink.write(ending.encode())
        sink.close()
    except BrokenPipeError:
        loader.child.wait()
        raise loader.complaint(what) from None
    if loader.child.wait() != 0:
        raise loader.complaint(what)


def _copy(source: IO[bytes], sink: IO[bytes], on_progress: Progress | None) -> None:
    size = 0
    while piece := source.read(_PIECE):
        sink.write(piece)
        size += len(piece)
        if on_progress is not None:
            on_progress(size)


def _ending(manifest: Manifest) -> str:
    counts = [_COUNT.format(table=_quoted(name), rows=rows) for name, rows in manifest.tables.items()]
    return _SEE_ALL + "".join(counts) + "COMMIT;\n"


def _quoted(table: str) -> str:
    schema, _, name = table.partition(".")
    return f'"{schema}"."{name}"'


def _manifest(folder: Path) -> Manifest:
    try:
        known = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        manifest = Manifest(**known)
        tables = {name: int(rows) for name, rows in manifest.tables.items()}
    except FileNotFoundError as error:
        raise BackupError(f"{folder} is not a backup: it has no {MANIFEST}. Name the folder of one.") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BackupError(f"{folder / MANIFEST} cannot be read ({error}). Use another copy.") from error
    if wrong := [name for name in tables if not _TABLE.match(name)]:
        raise BackupError(f"{folder / MANIFEST} names {wrong[0]!r}, which is no table of Dumont. Use another copy.")
    return manifest


def _refuse_target(connection: "psycopg.Connection[tuple[object, ...]]", *, replace: bool) -> None:
    if list_tables(connection) and not replace:
        raise BackupError(
            "The database is not empty. Restore into an empty one, or replace what is there with --force."
        )
    row = connection.execute(
        "SELECT count(*), string_agg(DISTINCT coalesce(nullif(application_name, ''), 'unnamed'), ', ') "
        "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND usename IS NOT NULL"
    ).fetchone()
    if row and row[0]:
        raise BackupError(f"The database is in use ({row[0]} connections: {row[1]}). Stop what uses it and try again.")
