"""Row-level security: the statements that give a table to one team at a time."""

import re

APP_ROLE = "dumont_app"
WORKER_ROLE = "dumont_worker"
_NAME = re.compile(r"^[a-z_][a-z0-9_]*$")

TEAM_MATCHES = "team_id = current_setting('dumont.team_id', true)"
"""False where no team is set, because the setting is then null or empty."""

_MAY_SWEEP = f"current_setting('dumont.sweep', true) = 'on' AND current_user <> '{APP_ROLE}'"
"""Everyone but the application: that is the worker and the owner, who are the only others with any rights."""


def protect(table: str, *, app: str = "SELECT, INSERT, UPDATE, DELETE", team: str = TEAM_MATCHES) -> list[str]:
    """Return the statements that put a table under row-level security; run each with `op.execute`.

    `app` is what the application's role may do; the worker may do everything. `team` is the condition that makes a row
    the present team's; change it only where the column is not `team_id`.
    Guarantees: holds for the table's owner too (FORCE), unless the owner is a superuser; grants only to roles that
    exist. Without a team set, nothing is seen and nothing can be written.
    """
    return [
        f"ALTER TABLE {_checked(table)} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
        f"CREATE POLICY {table}_team ON {table} USING ({team}) WITH CHECK ({team})",
        f"CREATE POLICY {table}_sweep ON {table} USING ({_MAY_SWEEP}) WITH CHECK ({_MAY_SWEEP})",
        sweep_by_role(table),
        *grant(f"{app} ON TABLE {table}", APP_ROLE),
        *grant(f"SELECT, INSERT, UPDATE, DELETE ON TABLE {table}", WORKER_ROLE),
    ]


def sweep_by_role(table: str) -> str:
    """Return the statement that binds a table's sweep policy to worker and owner, where the worker has a role.

    The application's plans then see the team's condition alone, which an index can answer.
    """
    return where_role(WORKER_ROLE, f"ALTER POLICY {_checked(table)}_sweep ON {table} TO CURRENT_USER, {WORKER_ROLE}")


def grant(what: str, *roles: str) -> list[str]:
    """Return statements that grant `what`, such as `EXECUTE ON FUNCTION f(text)`, to those of the roles that exist."""
    return [where_role(role, f"GRANT {what} TO {_checked(role)}") for role in roles]


def where_role(role: str, statement: str) -> str:
    """Return a statement that does something only where a role exists."""
    exists = f"EXISTS (SELECT FROM pg_roles WHERE rolname = '{_checked(role)}')"
    return f"DO $do$ BEGIN IF {exists} THEN {statement}; END IF; END $do$"


def _checked(name: str) -> str:
    if not _NAME.match(name):
        raise ValueError(f"not a plain table or role name: {name!r}")
    return name
