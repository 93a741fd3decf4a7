"""Roles and migrations: who may do what in the database, and the schema brought up to date in process."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from dumont.core import Settings, derive_password
from dumont.db.rls import APP_ROLE, WORKER_ROLE, where_role
from dumont.db.session import KEEPALIVE, translated
from dumont.db.urls import psycopg_url, sqlalchemy_url, with_role

_SCRIPTS = Path(__file__).with_name("migrations")
_ADVISORY_KEY = 0x64756D6F6E74
"""`dumont` in ASCII: only one starter migrates a database at a time."""
_PURPOSES = {APP_ROLE: "database-app", WORKER_ROLE: "database-worker"}
_ROLE_ATTEMPTS = 50
_FUTURE_RIGHTS = "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES"
"""Given at each migration, because a backup that is restored under another owner does not bring them."""


@dataclass(frozen=True)
class DatabaseUrls:
    """Addresses of one database by role; `second_wall` tells whether row-level security binds the application."""

    owner: str
    app: str
    worker: str
    second_wall: bool


def migrate(owner_url: str, secret: bytes) -> None:
    """Bring roles and schema up to date; call before anything else uses the database.

    Guarantees: idempotent; two starters at once do it one after the other; each revision in its own transaction.
    Errors: DatabaseUnavailable where the server cannot be reached.
    """
    engine = create_engine(sqlalchemy_url(owner_url), poolclass=NullPool, connect_args=dict(KEEPALIVE))
    with translated(), engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_KEY})
        connection.commit()
        ensure_roles(owner_url, secret)
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        for role in _PURPOSES:
            connection.execute(text(where_role(role, f"{_FUTURE_RIGHTS} TO {role}")))
        connection.commit()
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _ADVISORY_KEY})
        connection.commit()
    engine.dispose()


def resolve_urls(settings: Settings, secret: bytes, owner_url: str) -> DatabaseUrls:
    """Decide as whom the application and the worker connect; call after `migrate`.

    An address in the settings wins; else the roles that `migrate` made; else the owner, and then the second wall is
    missing. Each is tried, so that the answer is what works and not what should.
    Errors: DatabaseUnavailable where the server cannot be reached as the owner.
    """
    owner = sqlalchemy_url(owner_url)
    with translated():
        _is_bound(owner)
    app = settings.database_app_url or _role_url(owner, APP_ROLE, secret) or owner
    worker = settings.database_worker_url or _role_url(owner, WORKER_ROLE, secret) or owner
    app, worker = sqlalchemy_url(app), sqlalchemy_url(worker)
    with translated():
        wall = app != owner and _is_bound(app)
    return DatabaseUrls(owner, app, worker, second_wall=wall)


def _role_url(owner: str, role: str, secret: bytes) -> str | None:
    url = with_role(owner, role, derive_password(secret, _PURPOSES[role]))
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(psycopg_url(url), **KEEPALIVE) as connection:  # type: ignore[arg-type]
        row = connection.execute("SELECT has_table_privilege('outbox_event', 'INSERT')").fetchone()
        return url if row and row[0] else None
    return None


def _is_bound(url: str) -> bool:
    """Connect, and tell whether row-level security holds for this role."""
    with psycopg.connect(psycopg_url(url), **KEEPALIVE) as connection:  # type: ignore[arg-type]
        row = connection.execute(
            "SELECT NOT (rolsuper OR rolbypassrls) FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
    return bool(row and row[0])


def is_known_revision(revision: str) -> bool:
    """Tell whether this version's migrations reach a revision; not so for one of a newer version."""
    return any(script.revision == revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    return config


def ensure_roles(owner_url: str, secret: bytes) -> None:
    """Make the login roles and set their passwords again, where we may.

    Roles are shared by all databases of a server, so another database's migration may touch them at the same moment:
    then PostgreSQL says `tuple concurrently updated` or a unique violation, and the second try finds them made.
    """
    with psycopg.connect(psycopg_url(owner_url), autocommit=True, **KEEPALIVE) as connection:  # type: ignore[arg-type]
        row = connection.execute(
            "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        if not (row and row[0]):
            return
        for role, purpose in _PURPOSES.items():
            _ensure_role(connection, role, derive_password(secret, purpose))


def _ensure_role(connection: "psycopg.Connection[tuple[object, ...]]", role: str, password: str) -> None:
    verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    for attempt in range(_ROLE_ATTEMPTS):
        found = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone()
        verb = sql.SQL("ALTER" if found else "CREATE")
        try:
            connection.execute(
                sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(verb, sql.Identifier(role), sql.Literal(verifier))
            )
            return
        except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation, psycopg.errors.InternalError_):
            if attempt == _ROLE_ATTEMPTS - 1:
                raise
            time.sleep(0.02)
        except psycopg.errors.InsufficientPrivilege:
            return
