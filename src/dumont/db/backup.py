"""Backups: a folder with PostgreSQL's own dump of one moment, and a manifest that says what must be in it."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import psycopg

from dumont import __version__
from dumont.core import derive_key, new_id
from dumont.db.programs import BackupError, running
from dumont.db.rows import count_rows, is_bound_by_policies, other_schemas
from dumont.db.session import KEEPALIVE
from dumont.db.urls import psycopg_url

FORMAT = 1
DUMP = "database.dump"
MANIFEST = "manifest.json"
Progress = Callable[[int], None]
"""Told now and then how many bytes were written or read."""
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Manifest:
    """What a backup holds. `tables` are rows by `schema.table`; `left_out` are schemas that are not the product's."""

    format: int
    product: str
    made_at: str
    postgres: str
    revision: str
    key_id: str
    dump_bytes: int
    dump_sha256: str
    tables: dict[str, int]
    left_out: list[str]

    @property
    def rows(self) -> int:
        """All rows of all tables."""
        return sum(self.tables.values())


def key_id(secret: bytes) -> str:
    """Name a secret key without telling it."""
    return derive_key(secret, "backup-key-id").hex()[:16]


def save_backup(
    owner_url: str,
    folder: Path,
    secret: bytes,
    made_at: datetime,
    *,
    replace: bool = False,
    on_progress: Progress | None = None,
) -> Manifest:
    """Write a backup of a database that may be in use, read it again, and return what it holds.

    Guarantees: all rows of one moment; the folder (0700) appears whole or not at all; `replace` touches only a folder
    that is a backup. Owners whom row-level security binds see all teams through the sweeper's policy, or it fails.
    Errors: BackupError.
    """
    folder = folder.absolute()
    _refuse_target(folder, replace=replace)
    with _draft(folder) as draft, _one_moment(owner_url) as (connection, snapshot):
        revision = _revision(connection)
        bound = is_bound_by_policies(connection)
        tables = count_rows(connection)
        left_out = other_schemas(connection)
        words = [f"--snapshot={snapshot}", *(["--enable-row-security"] if bound else [])]
        words += [f'--exclude-schema="{name}"' for name in left_out]
        _dump(owner_url, draft / DUMP, words, on_progress or _silently)
        _verify(draft / DUMP, set(tables))
        manifest = Manifest(
            format=FORMAT,
            product=__version__,
            made_at=made_at.isoformat(timespec="seconds"),
            postgres=str(connection.info.parameter_status("server_version")),
            revision=revision,
            key_id=key_id(secret),
            dump_bytes=(draft / DUMP).stat().st_size,
            dump_sha256=sha256(draft / DUMP),
            tables=tables,
            left_out=left_out,
        )
        _write(draft / MANIFEST, json.dumps(asdict(manifest), indent=2) + "\n")
        _publish(draft, folder)
    return manifest


def sha256(path: Path) -> str:
    """Return a file's SHA-256, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def connected(url: str) -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
    """Connect without any time limit on statements; what PostgreSQL refuses becomes a BackupError."""
    try:
        with psycopg.connect(psycopg_url(url), **KEEPALIVE) as connection:  # type: ignore[arg-type]
            connection.execute("SELECT set_config(name, '0', false) FROM pg_settings WHERE name = ANY(%s)", [_LIMITS])
            connection.commit()
            yield connection
    except psycopg.Error as error:
        raise BackupError(f"The database does not do what a backup needs: {error}") from error


_LIMITS = ["statement_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout", "transaction_timeout"]


@contextmanager
def _one_moment(url: str) -> Iterator[tuple["psycopg.Connection[tuple[object, ...]]", str]]:
    """Hold a transaction whose view of the data the dump can share."""
    with connected(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        connection.execute("SELECT set_config('dumont.sweep', 'on', true)")
        row = connection.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None
        yield connection, str(row[0])


def _revision(connection: "psycopg.Connection[tuple[object, ...]]") -> str:
    found = connection.execute("SELECT to_regclass('public.alembic_version')::text").fetchone()
    known = found is not None and found[0] is not None
    row = connection.execute("SELECT version_num FROM public.alembic_version").fetchone() if known else None
    if row is None:
        raise BackupError("This database is not Dumont's: it has no migrations. Nothing was written.")
    return str(row[0])


def _dump(url: str, target: Path, words: list[str], on_progress: Progress) -> None:
    fixed = ["--format=custom", f"--file={target}", "--lock-wait-timeout=30000", "--no-publications"]
    fixed += ["--no-subscriptions", "--no-tablespaces"]
    with running("pg_dump", [*fixed, *words], url=url, options="-c dumont.sweep=on") as program:
        while program.child.poll() is None:
            on_progress(target.stat().st_size if target.exists() else 0)
            time.sleep(_POLL_SECONDS)
        if program.child.returncode != 0:
            raise program.complaint("The database could not be saved")
    on_progress(target.stat().st_size)


def _verify(dump: Path, tables: set[str]) -> None:
    """See that every table is in the dump's list, and that all of its data can be read back."""
    listed = {f"{words[0]}.{words[1]}" for words in _entries(dump, "TABLE DATA")}
    if listed != tables:
        differ = ", ".join(sorted(listed ^ tables))
        raise BackupError(f"The dump does not hold the tables that it should ({differ}). Nothing was kept. Try again.")
    with running("pg_restore", ["--format=custom", "--file=/dev/null", str(dump)]) as program:
        if program.child.wait() != 0:
            raise program.complaint("The dump cannot be read back, and was not kept")


def contents(dump: Path) -> list[str]:
    """List a dump's entries as `pg_restore --list` writes them, comments left out."""
    with running("pg_restore", ["--format=custom", "--list", str(dump)], stdout=subprocess.PIPE) as program:
        listed = program.child.communicate()[0].decode()
        if program.child.returncode != 0:
            raise program.complaint(f"{dump} cannot be read")
    return [line for line in listed.splitlines() if line and not line.startswith(";")]


def _entries(dump: Path, kind: str) -> list[list[str]]:
    marked = f" {kind} "
    return [line.partition(marked)[2].split() for line in contents(dump) if marked in line]


def _refuse_target(folder: Path, *, replace: bool) -> None:
    if not folder.parent.is_dir():
        raise BackupError(f"The folder {folder.parent} does not exist. Make it, or name another place.")
    if not os.path.lexists(folder):
        return
    if not replace:
        raise BackupError(f"{folder} exists already. Name another place, or replace it with --force.")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() and not folder.is_symlink() else None
    if names is None or MANIFEST not in names or names - {MANIFEST, DUMP}:
        raise BackupError(f"{folder} is not a backup, so it is not replaced. Name another place.")


@contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """Give a hidden folder beside the target and remove it at the end; first remove those of killed backups.

    Its maker holds a lock on it, so that a draft without one is known to be left over.
    """
    for leftover in folder.parent.glob(f".{folder.name}.new-*"):
        with contextlib.suppress(FileNotFoundError):
            _remove_unlocked(leftover)
    draft = folder.with_name(f".{folder.name}.new-{new_id('bak')}")
    try:
        draft.mkdir(mode=0o700)
    except OSError as error:
        raise BackupError(
            f"Nothing can be written to {folder.parent} ({error.strerror}). Name another place."
        ) from error
    handle = os.open(draft, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield draft
    except OSError as error:
        raise BackupError(f"The backup cannot be written ({error}). Free some room, or name another place.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        os.close(handle)


def _remove_unlocked(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    except BlockingIOError:
        return
    finally:
        os.close(handle)


def _publish(draft: Path, folder: Path) -> None:
    """Give the draft its name; a backup that had it goes only after that."""
    _sync(draft)
    old = folder.with_name(f".{folder.name}.old-{new_id('bak')}")
    replaced = folder.exists()
    if replaced:
        folder.rename(old)
    draft.rename(folder)
    _sync(folder.parent)
    if replaced:
        shutil.rmtree(old)


def _write(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _silently(size: int) -> None:
    return
