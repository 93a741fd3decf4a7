"""Accounts get numbers, and entries and transfers name accounts by them."""

from alembic import op

from dumont.db.migrations import ledger_numbers as numbers

revision = "0026_ledger_numbers"
down_revision = "0025_ledger_single"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Give the numbers, write entries and transfers anew, and put functions in place that use them."""
    for statement in numbers.upgrade():
        op.execute(statement)


def downgrade() -> None:
    """Put back entries and transfers that name accounts by their ids."""
    for statement in numbers.downgrade():
        op.execute(statement)
