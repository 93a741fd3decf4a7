"""What becomes of payments that were set aside: credited to a wallet after all, or sent back to their payers."""

from alembic import op

revision = "0024_suspense"
down_revision = "0021_collection"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Let a payment have more fates, and say when its return is due and how often it was begun."""
    op.execute("ALTER TABLE topup_payment DROP CONSTRAINT ck_topup_payment_fate")
    op.execute("ALTER TABLE topup_payment DROP CONSTRAINT ck_topup_payment_reason")
    op.execute(
        "ALTER TABLE topup_payment ADD COLUMN resolved_at timestamptz, ADD COLUMN due_at timestamptz, "
        "ADD COLUMN tries integer NOT NULL DEFAULT 0, ADD COLUMN attempts integer NOT NULL DEFAULT 0, "
        "ADD CONSTRAINT ck_topup_payment_fate CHECK (fate IN ('credited', 'suspense', 'returning', 'returned')), "
        "ADD CONSTRAINT ck_topup_payment_reason CHECK (fate = 'credited' OR reason IS NOT NULL), "
        "ADD CONSTRAINT ck_topup_payment_due CHECK ((fate = 'returning') = (due_at IS NOT NULL))"
    )
    op.execute("CREATE INDEX ix_topup_payment_due_at ON topup_payment (due_at) WHERE fate = 'returning'")
    op.execute(
        "CREATE INDEX ix_topup_payment_waiting ON topup_payment (seen_at) WHERE fate IN ('suspense', 'returning')"
    )


def downgrade() -> None:
    """Take it back; what was resolved counts as credited without a reason."""
    op.execute("DROP INDEX ix_topup_payment_waiting")
    op.execute("ALTER TABLE topup_payment DROP CONSTRAINT ck_topup_payment_due")
    op.execute("ALTER TABLE topup_payment DROP CONSTRAINT ck_topup_payment_reason")
    op.execute("ALTER TABLE topup_payment DROP CONSTRAINT ck_topup_payment_fate")
    op.execute("UPDATE topup_payment SET fate = 'suspense' WHERE fate IN ('returning', 'returned')")
    op.execute("UPDATE topup_payment SET reason = NULL WHERE fate = 'credited'")
    op.execute(
        "ALTER TABLE topup_payment DROP COLUMN resolved_at, DROP COLUMN due_at, DROP COLUMN tries, "
        "DROP COLUMN attempts, ADD CONSTRAINT ck_topup_payment_fate CHECK (fate IN ('credited', 'suspense')), "
        "ADD CONSTRAINT ck_topup_payment_reason CHECK ((fate = 'suspense') = (reason IS NOT NULL))"
    )
