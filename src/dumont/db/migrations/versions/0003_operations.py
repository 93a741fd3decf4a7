"""Operations and the only door through which the API role may enqueue durable work."""

from alembic import op

from dumont.db import grant, protect

revision = "0003_operations"
down_revision = "0002_identity"
branch_labels = None
depends_on = None

_TABLE = """
CREATE TABLE operation (
    id text CONSTRAINT pk_operation PRIMARY KEY,
    team_id text NOT NULL CONSTRAINT fk_operation_team_id_team REFERENCES team (id),
    kind text NOT NULL,
    workflow text NOT NULL,
    resource_type text NOT NULL,
    resource_id text NOT NULL,
    instance_id text,
    status text NOT NULL CONSTRAINT ck_operation_status CHECK
        (status IN ('queued', 'running', 'cancelling', 'succeeded', 'failed', 'cancelled')),
    percent integer CONSTRAINT ck_operation_percent CHECK (percent BETWEEN 0 AND 100),
    current_step text,
    steps jsonb NOT NULL,
    input jsonb NOT NULL,
    result jsonb,
    problem jsonb,
    cancellable boolean NOT NULL,
    cancel_requested boolean NOT NULL,
    requested_by text,
    created_at timestamptz NOT NULL,
    started_at timestamptz,
    finished_at timestamptz,
    deadline_at timestamptz NOT NULL,
    alarmed_at timestamptz
)
"""

_ENQUEUE = """
CREATE FUNCTION dumont_enqueue(p_operation_id text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_operation public.operation%ROWTYPE;
BEGIN
    SELECT * INTO v_operation FROM public.operation
     WHERE id = p_operation_id AND status = 'queued'
       AND team_id = current_setting('dumont.team_id', true);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'operation % is not a queued operation of this team', p_operation_id
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF NOT EXISTS (SELECT 1 FROM public.durable_workflow WHERE name = v_operation.workflow) THEN
        RAISE EXCEPTION 'workflow % is not on the list of workflows', v_operation.workflow
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM dbos.enqueue_workflow(
        workflow_name => v_operation.workflow,
        queue_name => 'operations',
        positional_args => ARRAY[to_json(p_operation_id)],
        workflow_id => p_operation_id,
        app_version => '1',
        queue_partition_key => coalesce(v_operation.instance_id, p_operation_id),
        application_name => 'dumont'
    );
END
$$
"""


def upgrade() -> None:
    """Create the operation table, its indexes, the list of workflows and `dumont_enqueue`."""
    op.execute(_TABLE)
    op.execute(
        "CREATE UNIQUE INDEX uq_operation_live_instance ON operation (instance_id) "
        "WHERE status IN ('queued', 'running')"
    )
    op.execute("CREATE INDEX ix_operation_team_id ON operation (team_id, id)")
    op.execute("CREATE INDEX ix_operation_live ON operation (deadline_at) WHERE finished_at IS NULL")
    for statement in protect("operation"):
        op.execute(statement)
    op.execute("CREATE TABLE durable_workflow (name text CONSTRAINT pk_durable_workflow PRIMARY KEY)")
    op.execute(_ENQUEUE)
    op.execute("REVOKE ALL ON FUNCTION dumont_enqueue(text) FROM PUBLIC")
    for statement in grant("EXECUTE ON FUNCTION dumont_enqueue(text)", "dumont_app", "dumont_worker"):
        op.execute(statement)


def downgrade() -> None:
    """Remove what upgrade made."""
    op.execute("DROP FUNCTION dumont_enqueue(text)")
    op.execute("DROP TABLE durable_workflow")
    op.execute("DROP TABLE operation")
