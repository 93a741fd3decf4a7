"""The ledger: accounts, transfers, entries and holds, what guards them, and the functions that alone write them.

Application and worker may read the tables and execute the functions; they have no right to write a row.
"""

from alembic import op

from dumont.db.migrations.ledger_functions import POSTING, POSTING_CALLABLE
from dumont.db.migrations.ledger_guards import GUARDS, TRIGGERS
from dumont.db.migrations.ledger_tables import APPEND_ONLY, DOMAINS, NAMES, TABLES
from dumont.db.migrations.ledger_verbs import CALLABLE, VERBS
from dumont.db.rls import APP_ROLE, WORKER_ROLE, grant, protect, where_role

revision = "0013_ledger"
down_revision = "0014_market_moved"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables, then who may read them, the functions and at last the triggers."""
    for statement in TABLES.split(";\n"):
        op.execute(statement)
    for name in NAMES:
        _wall(name)
    functions = {**GUARDS, **POSTING, **VERBS}
    for signature, definition in functions.items():
        op.execute(definition)
        op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
    for signature in (*POSTING_CALLABLE, *CALLABLE):
        for statement in grant(f"EXECUTE ON FUNCTION {signature}", APP_ROLE, WORKER_ROLE):
            op.execute(statement)
    for statement in TRIGGERS.split(";\n"):
        op.execute(statement)
    for name in NAMES:
        _keep(name)


def downgrade() -> None:
    """Take the ledger away, with all that it holds."""
    for name in reversed(NAMES):
        op.execute(f"DROP TABLE {name}")
    for signature in {**GUARDS, **POSTING, **VERBS}:
        op.execute(f"DROP FUNCTION {signature}")
    for domain in DOMAINS:
        op.execute(f"DROP DOMAIN {domain}")


def _wall(name: str) -> None:
    """Let others read their team's rows and write none; the owner, as whom the functions run, sees every row."""
    for statement in protect(name, app="SELECT"):
        op.execute(statement)
    op.execute(where_role(WORKER_ROLE, f"REVOKE INSERT, UPDATE, DELETE ON TABLE {name} FROM {WORKER_ROLE}"))
    op.execute(f"CREATE POLICY {name}_owner ON {name} TO CURRENT_USER USING (true) WITH CHECK (true)")


def _keep(name: str) -> None:
    """Refuse what an append-only table, or any table of the ledger, never needs."""
    events = "UPDATE OR DELETE" if name in APPEND_ONLY else "DELETE"
    refuse = "EXECUTE FUNCTION ledger_refuse()"
    op.execute(f"CREATE TRIGGER {name}_keeps BEFORE {events} ON {name} FOR EACH ROW {refuse}")
    op.execute(f"CREATE TRIGGER {name}_whole_table BEFORE TRUNCATE ON {name} FOR EACH STATEMENT {refuse}")
