"""PostgreSQL: the embedded server, sessions with row-level security, migrations, and the outbox."""

from dumont.db.backup import Manifest, save_backup
from dumont.db.documents import dump_json
from dumont.db.embedded import DatabaseInUse, DatabaseStartError, EmbeddedPostgres, has_cluster, visit_database
from dumont.db.glance import Glance, Question
from dumont.db.glance import connect as open_wire
from dumont.db.listener import Listener, Notice, Subscription
from dumont.db.outbox import Event, Subscriptions, prune, publish
from dumont.db.programs import BackupError
from dumont.db.restore import holds_tables, read_backup, restore_backup
from dumont.db.rls import APP_ROLE, WORKER_ROLE, grant, protect
from dumont.db.roles import DatabaseUrls, migrate, resolve_urls
from dumont.db.session import (
    KEEPALIVE,
    Base,
    Database,
    DatabaseUnavailable,
    blocking_engine,
    is_wait,
    set_sweep,
    set_team,
    translate,
    translated,
)
from dumont.db.urls import psycopg_url, sqlalchemy_url, with_database, with_role
from dumont.db.wire import Row, Wire

__all__ = [
    "APP_ROLE",
    "KEEPALIVE",
    "WORKER_ROLE",
    "BackupError",
    "Base",
    "Database",
    "DatabaseInUse",
    "DatabaseStartError",
    "DatabaseUnavailable",
    "DatabaseUrls",
    "EmbeddedPostgres",
    "Event",
    "Glance",
    "Listener",
    "Manifest",
    "Notice",
    "Question",
    "Row",
    "Subscription",
    "Subscriptions",
    "Wire",
    "blocking_engine",
    "dump_json",
    "grant",
    "has_cluster",
    "holds_tables",
    "is_wait",
    "migrate",
    "open_wire",
    "protect",
    "prune",
    "psycopg_url",
    "publish",
    "read_backup",
    "resolve_urls",
    "restore_backup",
    "save_backup",
    "set_sweep",
    "set_team",
    "sqlalchemy_url",
    "translate",
    "translated",
    "visit_database",
    "with_database",
    "with_role",
]
