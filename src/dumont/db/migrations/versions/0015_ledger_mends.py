"""Mend the ledger's functions: items of a batch that hang on each other, the greatest balance, holds of one team."""

from alembic import op

from dumont.db.migrations.ledger_mends import BEFORE, MENDED, PARTS, PARTS_NAME

revision = "0015_ledger_mends"
down_revision = "0018_billing"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make what cuts a batch into parts, and put the mended functions in place of the old ones."""
    op.execute(PARTS)
    op.execute(f"REVOKE ALL ON FUNCTION {PARTS_NAME} FROM PUBLIC")
    for definition in MENDED.values():
        op.execute(definition)


def downgrade() -> None:
    """Put the functions back as they were."""
    for definition in BEFORE.values():
        op.execute(definition)
    op.execute(f"DROP FUNCTION {PARTS_NAME}")
