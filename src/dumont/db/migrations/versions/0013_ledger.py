"""The ledger: accounts, transfers, entries and holds, what guards them, and the functions that alone write them.

Application and worker may read the tables and execute the functions; they have no right to write a row.
"""

from alembic import op

from dumont.db.migrations.ledger_functions import POSTING, POSTING_CALLABLE
from dumont.db.migrations.ledger_guards import GUARDS, TRIGGERS
from dumont.db.migrations.ledger_tables import DOMAINS, NAMES, TABLES, keep, wall
from dumont.db.migrations.ledger_verbs import CALLABLE, VERBS
from dumont.db.rls import APP_ROLE, WORKER_ROLE, grant

revision = "0013_ledger"
down_revision = "0014_market_moved"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables, then who may read them, the functions and at last the triggers."""
    for statement in TABLES.split(";\n"):
        op.execute(statement)
    for name in NAMES:
        for statement in wall(name):
            op.execute(statement)
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
        for statement in keep(name):
            op.execute(statement)


def downgrade() -> None:
    """Take the ledger away, with all that it holds."""
    for name in reversed(NAMES):
        op.execute(f"DROP TABLE {name}")
    for signature in {**GUARDS, **POSTING, **VERBS}:
        op.execute(f"DROP FUNCTION {signature}")
    for domain in DOMAINS:
        op.execute(f"DROP DOMAIN {domain}")
