"""Remember when a kept disk may be newer than its snapshot; give destroys a queue that nothing else can fill."""

from alembic import op

revision = "0008_kept_disks"
down_revision = "0007_sweep_by_role"
branch_labels = None
depends_on = None

_ENQUEUE = """
CREATE OR REPLACE FUNCTION dumont_enqueue(p_operation_id text) RETURNS void
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
        queue_name => CASE WHEN v_operation.kind = 'destroy' THEN 'urgent' ELSE 'operations' END,
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
    """Add the columns and change the function."""
    op.execute("ALTER TABLE instance ADD COLUMN disk_newer boolean NOT NULL DEFAULT false")
    op.execute("ALTER TABLE rental ADD COLUMN released_real_at timestamptz")
    op.execute(_ENQUEUE)


def downgrade() -> None:
    """Drop the column; the function with two queues serves the earlier schema as well."""
    op.execute("ALTER TABLE rental DROP COLUMN released_real_at")
    op.execute("ALTER TABLE instance DROP COLUMN disk_newer")
