"""PostgreSQL: the embedded server, sessions with row-level security, migrations, and the outbox."""

from dumont.db.embedded import DatabaseStartError, EmbeddedPostgres
from dumont.db.listener import Listener, Notice, Subscription
from dumont.db.outbox import Event, Subscriptions, prune, publish
from dumont.db.rls import APP_ROLE, WORKER_ROLE, grant, protect
from dumont.db.roles import DatabaseUrls, migrate, resolve_urls
from dumont.db.session import Base, Database, DatabaseUnavailable, set_sweep, set_team, translate, translated
from dumont.db.urls import psycopg_url, sqlalchemy_url, with_database, with_role

__all__ = [
    "APP_ROLE",
    "WORKER_ROLE",
    "Base",
    "Database",
    "DatabaseStartError",
    "DatabaseUnavailable",
    "DatabaseUrls",
    "EmbeddedPostgres",
    "Event",
    "Listener",
    "Notice",
    "Subscription",
    "Subscriptions",
    "grant",
    "migrate",
    "protect",
    "prune",
    "psycopg_url",
    "publish",
    "resolve_urls",
    "set_sweep",
    "set_team",
    "sqlalchemy_url",
    "translate",
    "translated",
    "with_database",
    "with_role",
]
