"""What a database holds: the product's tables, their rows, and whether row-level security would hide some."""

import psycopg
from psycopg import sql

from dumont.db.programs import BackupError

Connection = psycopg.Connection[tuple[object, ...]]
SCHEMAS = ["public", "dbos"]
"""The product's own; source: `dumont.durable` keeps the engine's tables in the second."""

_OURS = """
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE n.nspname = ANY(%(schemas)s) AND c.relkind = 'r' AND c.relpersistence <> 't'
     AND NOT EXISTS (SELECT FROM pg_depend d
                      WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
"""
_SWEEP = "((current_setting('dumont.sweep'::text, true) = 'on'::text) AND (CURRENT_USER <> 'dumont_app'::name))"
"""The condition of the policy that `protect` makes for sweepers, as PostgreSQL writes it back."""
_SHOWN = """
    EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polpermissive AND p.polcmd = '*'
               AND (p.polroles = '{0}' OR current_user::regrole::oid = ANY (p.polroles))
               AND pg_get_expr(p.polqual, p.polrelid) = %(sweep)s)
    AND NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND NOT p.polpermissive)
"""


def list_tables(connection: Connection) -> list[tuple[str, str]]:
    """List the product's tables as (schema, name)."""
    found = connection.execute(f"SELECT n.nspname, c.relname {_OURS} ORDER BY 1, 2".encode(), {"schemas": SCHEMAS})
    return [(str(schema), str(name)) for schema, name in found]


def count_rows(connection: Connection) -> dict[str, int]:
    """Count the rows of each table, by `schema.table`, as this transaction sees them."""
    counted = {}
    for schema, name in list_tables(connection):
        query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, name))
        row = connection.execute(query).fetchone()
        assert row is not None
        counted[f"{schema}.{name}"] = int(str(row[0]))
    return counted


def other_schemas(connection: Connection) -> list[str]:
    """List the schemas that are neither PostgreSQL's nor the product's."""
    found = connection.execute(
        "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' "
        "AND nspname <> ALL(%s) ORDER BY 1",
        [SCHEMAS],
    )
    return [str(name) for (name,) in found]


def is_bound_by_policies(connection: Connection) -> bool:
    """Tell whether row-level security binds this role on any table.

    Errors: BackupError where a table's policies would hide rows even from a sweeper.
    """
    query = f"SELECT n.nspname || '.' || c.relname, {_SHOWN} {_OURS} AND row_security_active(c.oid) ORDER BY 1"
    found = connection.execute(query.encode(), {"schemas": SCHEMAS, "sweep": _SWEEP}).fetchall()
    hidden = [str(name) for name, shown in found if not shown]
    if hidden:
        raise BackupError(
            f"Row-level security may hide rows of {', '.join(hidden)} from this role, and a backup must not miss any. "
            "Use an owner with BYPASSRLS in DATABASE_URL."
        )
    return bool(found)
