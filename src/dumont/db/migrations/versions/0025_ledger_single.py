"""The plain posting with fewer questions, and the guard of what is held told by the column that a statement names."""

from alembic import op

from dumont.db.migrations import ledger_single as single

revision = "0025_ledger_single"
down_revision = "0024_suspense"
branch_labels = None
depends_on = None
_NAME = "ledger_post(text, uuid, bytea, text, date, text, text, bigint, text)"


def upgrade() -> None:
    """Put the leaner function and trigger in place of the old ones."""
    _put(single.POST, single.HELD)


def downgrade() -> None:
    """Put back what there was."""
    _put(single.BEFORE, single.HELD_BEFORE)


def _put(function: str, trigger: str) -> None:
    op.execute(function)
    for setting in ("plan_cache_mode", "enable_seqscan"):
        op.execute(f"ALTER FUNCTION {_NAME} RESET {setting}")
    for statement in trigger.split(";\n"):
        op.execute(statement)
