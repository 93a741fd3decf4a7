"""How an instance is called and rented: labels, ports, machine type and bid; and the open ports of its machine."""

from alembic import op

revision = "0011_lifecycle"
down_revision = "0012_sweeps"
branch_labels = None
depends_on = None

_INSTANCE = """
ALTER TABLE instance
    ADD COLUMN labels jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN ports jsonb NOT NULL DEFAULT '[]',
    ADD COLUMN machine_type text NOT NULL DEFAULT 'on-demand'
        CONSTRAINT ck_instance_machine_type CHECK (machine_type IN ('on-demand', 'interruptible')),
    ADD COLUMN bid_hour_nano bigint
"""


def upgrade() -> None:
    """Add the columns."""
    op.execute(_INSTANCE)
    op.execute("ALTER TABLE rental ADD COLUMN ports jsonb, ADD COLUMN public_ip text")


def downgrade() -> None:
    """Drop the columns."""
    op.execute("ALTER TABLE rental DROP COLUMN ports, DROP COLUMN public_ip")
    for column in ("labels", "ports", "machine_type", "bid_hour_nano"):
        op.execute(f"ALTER TABLE instance DROP COLUMN {column}")
