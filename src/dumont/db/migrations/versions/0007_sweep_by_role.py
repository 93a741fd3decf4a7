"""Bind the sweep policy to the roles that may sweep, so that the application's plans see one condition and its index.

Two policies are OR-ed: while the application had to consider the sweep too, `team_id = ...` could not use an index.
"""

from alembic import op

from dumont.db import WORKER_ROLE
from dumont.db.rls import sweep_by_role, where_role

revision = "0007_sweep_by_role"
down_revision = "0006_reading_instances"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change the sweep policy of every table that has one."""
    for table in _swept():
        op.execute(sweep_by_role(table))


def downgrade() -> None:
    """Let every role be considered again."""
    for table in _swept():
        op.execute(where_role(WORKER_ROLE, f"ALTER POLICY {table}_sweep ON {table} TO PUBLIC"))


def _swept() -> list[str]:
    found = op.get_bind().exec_driver_sql(
        "SELECT tablename FROM pg_policies WHERE schemaname = 'public' AND policyname = tablename || '_sweep'"
    )
    return sorted(str(row[0]) for row in found)
