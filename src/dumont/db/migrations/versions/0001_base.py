"""Rights of the two roles, and the outbox with its bell."""

from alembic import op

from dumont.db.rls import APP_ROLE, WORKER_ROLE, grant, protect, where_role

revision = "0001_base"
down_revision = None
branch_labels = None
depends_on = None

_OUTBOX = """
CREATE TABLE outbox_event (
    id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_outbox_event PRIMARY KEY,
    team_id text,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    topic text NOT NULL,
    resource_type text NOT NULL,
    resource_id text NOT NULL,
    operation_id text,
    data jsonb NOT NULL,
    delivered_at timestamptz,
    due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts integer NOT NULL DEFAULT 0
)
"""
_BELL = """
CREATE FUNCTION dumont_ring() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('dumont_events', coalesce(NEW.operation_id, '') || ':' || NEW.id);
    RETURN NULL;
END
$$
"""


def upgrade() -> None:
    """Apply this step."""
    op.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    for statement in grant("USAGE ON SCHEMA public", APP_ROLE, WORKER_ROLE):
        op.execute(statement)
    for role in (APP_ROLE, WORKER_ROLE):
        defaults = f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO {role}"
        op.execute(where_role(role, defaults))
    op.execute(_OUTBOX)
    op.execute("CREATE INDEX ix_outbox_event_due ON outbox_event (id) WHERE delivered_at IS NULL")
    op.execute(
        "CREATE INDEX ix_outbox_event_operation ON outbox_event (operation_id, id) WHERE operation_id IS NOT NULL"
    )
    op.execute("CREATE INDEX ix_outbox_event_team ON outbox_event (team_id, id)")
    op.execute(_BELL)
    op.execute(
        "CREATE TRIGGER outbox_event_ring AFTER INSERT ON outbox_event FOR EACH ROW EXECUTE FUNCTION dumont_ring()"
    )
    for statement in protect("outbox_event", app="SELECT, INSERT"):
        op.execute(statement)
