"""The ledger's guards with fewer look-ups, and the plain posting without settings that each call would make and undo.

The connection that posts has those settings from its beginning.
"""

from alembic import op

from dumont.db.migrations.ledger_speed import BEFORE, FASTER

revision = "0016_ledger_speed"
down_revision = "0020_insights"
_PLAIN = "ledger_post(text, uuid, bytea, text, date, text, text, bigint, text)"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Replace the guards of transfers and accounts, and take the settings away."""
    for definition in FASTER:
        op.execute(definition)
    op.execute(f"ALTER FUNCTION {_PLAIN} RESET plan_cache_mode")
    op.execute(f"ALTER FUNCTION {_PLAIN} RESET enable_seqscan")


def downgrade() -> None:
    """Put back what they were."""
    op.execute(f"ALTER FUNCTION {_PLAIN} SET plan_cache_mode = force_generic_plan")
    op.execute(f"ALTER FUNCTION {_PLAIN} SET enable_seqscan = off")
    for definition in BEFORE:
        op.execute(definition)
