"""A function of its own for many plain postings at once, no second owner of the rows that a batch locks, and lines of
use that say what was given back.
"""

from alembic import op

from dumont.db.migrations import ledger_batch as batch
from dumont.db.rls import APP_ROLE, WORKER_ROLE, grant, where_role

revision = "0023_ledger_batch"
down_revision = "0022_sync"
_PLAIN = "ledger_post(text, uuid, bytea, text, date, text, text, bigint, text)"
_PLAIN_SETTINGS = ("plan_cache_mode", "enable_seqscan")
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Put the leaner batch and guards in place of the old ones, and make the function for plain postings."""
    for definition in (batch.LEAN, batch.OPENED, batch.TRANSFERS, batch.POST_MANY, batch.MOVED, batch.HELD, batch.POST):
        op.execute(definition)
    for setting in _PLAIN_SETTINGS:
        op.execute(f"ALTER FUNCTION {_PLAIN} RESET {setting}")
    for name in (batch.POST_MANY_NAME, batch.MOVED_NAME, batch.HELD_NAME):
        op.execute(f"REVOKE ALL ON FUNCTION {name} FROM PUBLIC")
    for statement in batch.TRIGGERS.split(";\n"):
        op.execute(statement)
    for statement in grant(f"EXECUTE ON FUNCTION {batch.POST_MANY_NAME}", APP_ROLE, WORKER_ROLE):
        op.execute(statement)
    for statement in grant("INSERT ON TABLE usage_charge", APP_ROLE):
        op.execute(statement)


def downgrade() -> None:
    """Take the functions away and put back what there was."""
    op.execute(where_role(APP_ROLE, f"REVOKE INSERT ON TABLE usage_charge FROM {APP_ROLE}"))
    for statement in batch.TRIGGERS_BEFORE.split(";\n"):
        op.execute(statement)
    for name in (batch.HELD_NAME, batch.MOVED_NAME, batch.POST_MANY_NAME):
        op.execute(f"DROP FUNCTION {name}")
    for definition in (batch.OPENED_BEFORE, batch.TRANSFERS_BEFORE, batch.BEFORE, batch.POST_BEFORE):
        op.execute(definition)
    for setting in _PLAIN_SETTINGS:
        op.execute(f"ALTER FUNCTION {_PLAIN} RESET {setting}")
