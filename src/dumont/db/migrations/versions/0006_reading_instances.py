"""Indexes for what people read most: the list of instances, newest first, and what a machine has cost."""

from alembic import op

revision = "0006_reading_instances"
down_revision = "0005_identity_depth"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the indexes."""
    op.execute("CREATE INDEX ix_instance_created_at ON instance (team_id, created_at, id)")
    op.execute("CREATE INDEX ix_rental_span_rental_id ON rental_span (rental_id)")


def downgrade() -> None:
    """Remove the indexes."""
    op.execute("DROP INDEX ix_rental_span_rental_id")
    op.execute("DROP INDEX ix_instance_created_at")
