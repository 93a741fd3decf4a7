"""Versioned sync: what of an instance is synced and how often, and every piece of work on its history."""

from alembic import op

from dumont.db.rls import protect

revision = "0022_sync"
down_revision = "0016_ledger_speed"
branch_labels = None
depends_on = None

_POLICY = """
CREATE TABLE sync_policy (
    instance_id text CONSTRAINT pk_sync_policy PRIMARY KEY
        CONSTRAINT fk_sync_policy_instance_id_instance REFERENCES instance (id),
    team_id text NOT NULL CONSTRAINT fk_sync_policy_team_id_team REFERENCES team (id),
    workspace_id text NOT NULL CONSTRAINT fk_sync_policy_workspace_id_workspace REFERENCES workspace (id),
    enabled boolean NOT NULL,
    interval_seconds integer NOT NULL CONSTRAINT ck_sync_policy_interval CHECK (interval_seconds >= 30),
    paths jsonb NOT NULL,
    exclude jsonb NOT NULL,
    keep_last integer NOT NULL CONSTRAINT ck_sync_policy_keep CHECK (keep_last >= 1),
    bandwidth_mbps_max double precision,
    deletion_guard_percent integer NOT NULL
        CONSTRAINT ck_sync_policy_guard CHECK (deletion_guard_percent BETWEEN 1 AND 100),
    guard_run_id text,
    consecutive_failures integer NOT NULL,
    next_run_at timestamptz,
    pruned_at timestamptz
)
"""

_RUN = """
CREATE TABLE sync_run (
    id text CONSTRAINT pk_sync_run PRIMARY KEY,
    team_id text NOT NULL CONSTRAINT fk_sync_run_team_id_team REFERENCES team (id),
    workspace_id text NOT NULL CONSTRAINT fk_sync_run_workspace_id_workspace REFERENCES workspace (id),
    instance_id text NOT NULL,
    operation_id text,
    kind text NOT NULL CONSTRAINT ck_sync_run_kind CHECK (kind IN ('sync', 'restore', 'list', 'check', 'prune')),
    status text NOT NULL CONSTRAINT ck_sync_run_status CHECK
        (status IN ('running', 'ready', 'held', 'failed', 'stopped')),
    snapshot_id text,
    parent_id text,
    paths jsonb NOT NULL,
    exclude jsonb NOT NULL,
    files_new bigint,
    files_changed bigint,
    files_unmodified bigint,
    files_total bigint,
    files_vanished bigint,
    bytes_read bigint,
    bytes_added bigint,
    bytes_uploaded bigint,
    bytes_resumed bigint,
    repository_bytes bigint,
    seconds double precision,
    unreadable jsonb NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    forgotten_at timestamptz,
    pruned_at timestamptz,
    problem jsonb,
    CONSTRAINT ck_sync_run_ended CHECK ((status = 'running') = (finished_at IS NULL)),
    CONSTRAINT ck_sync_run_point CHECK
        (kind <> 'sync' OR status NOT IN ('ready', 'held') OR snapshot_id IS NOT NULL)
)
"""


def upgrade() -> None:
    """Create the tables behind the teams' wall; one piece of work at a time on a workspace's history."""
    op.execute(_POLICY)
    op.execute(_RUN)
    op.execute("CREATE UNIQUE INDEX uq_sync_run_live ON sync_run (workspace_id) WHERE finished_at IS NULL")
    op.execute("CREATE INDEX ix_sync_run_instance_id ON sync_run (instance_id, id)")
    op.execute("CREATE INDEX ix_sync_run_workspace_id ON sync_run (workspace_id, id)")
    op.execute("CREATE INDEX ix_sync_policy_next_run_at ON sync_policy (next_run_at) WHERE enabled")
    for table in ("sync_policy", "sync_run"):
        for statement in protect(table, app="SELECT, INSERT, UPDATE"):
            op.execute(statement)


def downgrade() -> None:
    """Drop the tables."""
    op.execute("DROP TABLE sync_run")
    op.execute("DROP TABLE sync_policy")
