"""Which snapshots are kept, who is at work on a workspace, what verification found, and what collection freed."""

from alembic import op

from dumont.db.rls import protect

revision = "0021_collection"
down_revision = "0023_ledger_batch"
branch_labels = None
depends_on = None

_SNAPSHOT = """
ALTER TABLE snapshot
    ADD COLUMN epoch bigint,
    ADD COLUMN begun_at timestamptz DEFAULT clock_timestamp(),
    ADD COLUMN name text,
    ADD COLUMN keep_forever boolean NOT NULL DEFAULT false,
    ADD COLUMN restore_point boolean NOT NULL DEFAULT false,
    ADD COLUMN damaged_at timestamptz,
    ADD COLUMN deleted_at timestamptz,
    DROP CONSTRAINT ck_snapshot_status,
    ADD CONSTRAINT ck_snapshot_status CHECK (status IN ('creating', 'ready', 'failed', 'deleting', 'deleted'));
CREATE INDEX ix_snapshot_workspace_id ON snapshot (workspace_id, id);
CREATE TABLE workspace_lease (
    id text CONSTRAINT pk_workspace_lease PRIMARY KEY,
    team_id text NOT NULL CONSTRAINT fk_workspace_lease_team_id_team REFERENCES team (id),
    workspace_id text NOT NULL CONSTRAINT fk_workspace_lease_workspace_id_workspace REFERENCES workspace (id),
    kind text NOT NULL CONSTRAINT ck_workspace_lease_kind CHECK (kind IN ('write', 'read', 'collect')),
    subject text NOT NULL,
    epoch bigint,
    taken_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL
);
CREATE INDEX ix_workspace_lease_workspace_id ON workspace_lease (workspace_id);
CREATE UNIQUE INDEX uq_workspace_lease_collect ON workspace_lease (workspace_id) WHERE kind = 'collect';
CREATE TABLE snapshot_policy (
    team_id text NOT NULL CONSTRAINT fk_snapshot_policy_team_id_team REFERENCES team (id),
    instance_id text NOT NULL,
    enabled boolean NOT NULL,
    keep_last integer NOT NULL CONSTRAINT ck_snapshot_policy_keep_last CHECK (keep_last BETWEEN 1 AND 1000),
    keep_daily integer NOT NULL CONSTRAINT ck_snapshot_policy_keep_daily CHECK (keep_daily BETWEEN 0 AND 3650),
    keep_weekly integer NOT NULL CONSTRAINT ck_snapshot_policy_keep_weekly CHECK (keep_weekly BETWEEN 0 AND 520),
    quick_hours integer NOT NULL CONSTRAINT ck_snapshot_policy_quick CHECK (quick_hours BETWEEN 0 AND 8760),
    sample_hours integer NOT NULL CONSTRAINT ck_snapshot_policy_sample CHECK (sample_hours BETWEEN 0 AND 8760),
    updated_at timestamptz NOT NULL,
    CONSTRAINT pk_snapshot_policy PRIMARY KEY (team_id, instance_id)
);
CREATE TABLE snapshot_check (
    id text CONSTRAINT pk_snapshot_check PRIMARY KEY,
    team_id text NOT NULL CONSTRAINT fk_snapshot_check_team_id_team REFERENCES team (id),
    workspace_id text NOT NULL,
    snapshot_id text NOT NULL CONSTRAINT fk_snapshot_check_snapshot_id_snapshot REFERENCES snapshot (id),
    depth text NOT NULL CONSTRAINT ck_snapshot_check_depth CHECK (depth IN ('quick', 'sample', 'full')),
    outcome text NOT NULL CONSTRAINT ck_snapshot_check_outcome CHECK (outcome IN ('whole', 'damaged', 'unknown')),
    bytes_checked bigint,
    chunks_checked bigint,
    packs_checked bigint,
    missing jsonb NOT NULL,
    damaged jsonb NOT NULL,
    touched jsonb NOT NULL,
    detail text,
    seconds double precision NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ix_snapshot_check_snapshot_id ON snapshot_check (snapshot_id, at);
CREATE INDEX ix_snapshot_check_team_id ON snapshot_check (team_id, id);
CREATE TABLE collection (
    id text CONSTRAINT pk_collection PRIMARY KEY,
    team_id text NOT NULL CONSTRAINT fk_collection_team_id_team REFERENCES team (id),
    workspace_id text NOT NULL,
    packs_marked bigint NOT NULL,
    bytes_marked bigint NOT NULL,
    packs_deleted bigint NOT NULL,
    bytes_freed bigint NOT NULL,
    packs_repacked bigint NOT NULL,
    problem text,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ix_collection_team_id ON collection (team_id, at)
"""
_TABLES = ("workspace_lease", "snapshot_policy", "snapshot_check", "collection")


def upgrade() -> None:
    """Add the columns and the tables behind the teams' wall."""
    for statement in _SNAPSHOT.split(";\n"):
        op.execute(statement)
    for name in _TABLES:
        for statement in protect(name):
            op.execute(statement)


def downgrade() -> None:
    """Take both away; snapshots that were forgotten count as failed."""
    for name in reversed(_TABLES):
        op.execute(f"DROP TABLE {name}")
    op.execute("UPDATE snapshot SET status = 'failed' WHERE status IN ('deleting', 'deleted')")
    op.execute("DROP INDEX ix_snapshot_workspace_id")
    op.execute("ALTER TABLE snapshot DROP CONSTRAINT ck_snapshot_status")
    op.execute(
        "ALTER TABLE snapshot ADD CONSTRAINT ck_snapshot_status CHECK (status IN ('creating', 'ready', 'failed'))"
    )
    for name in ("epoch", "begun_at", "name", "keep_forever", "restore_point", "damaged_at", "deleted_at"):
        op.execute(f"ALTER TABLE snapshot DROP COLUMN {name}")
