"""Offers, workspaces, snapshots, instances, the machines rented for them and what those machines cost."""

from alembic import op

from dumont.db import grant, protect

revision = "0004_instances"
down_revision = "0003_operations"
branch_labels = None
depends_on = None

_OFFER = """
CREATE TABLE offer (
    id text CONSTRAINT pk_offer PRIMARY KEY,
    provider text NOT NULL,
    machine_id text NOT NULL,
    num_gpus integer NOT NULL,
    machine_type text NOT NULL,
    document jsonb NOT NULL,
    as_of timestamptz NOT NULL,
    CONSTRAINT uq_offer_provider UNIQUE (provider, machine_id, num_gpus, machine_type)
)
"""

_WORKSPACE = """
CREATE TABLE workspace (
    id text CONSTRAINT pk_workspace PRIMARY KEY,
    team_id text NOT NULL CONSTRAINT fk_workspace_team_id_team REFERENCES team (id),
    epoch bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL
)
"""

_SNAPSHOT = """
CREATE TABLE snapshot (
    id text CONSTRAINT pk_snapshot PRIMARY KEY,
    team_id text NOT NULL CONSTRAINT fk_snapshot_team_id_team REFERENCES team (id),
    workspace_id text NOT NULL CONSTRAINT fk_snapshot_workspace_id_workspace REFERENCES workspace (id),
    instance_id text NOT NULL,
    operation_id text NOT NULL,
    parent_id text,
    kind text NOT NULL,
    status text NOT NULL CONSTRAINT ck_snapshot_status CHECK (status IN ('creating', 'ready', 'failed')),
    manifest text,
    merkle_root text,
    files bigint,
    bytes_total bigint,
    bytes_new bigint,
    bytes_stored bigint,
    seconds double precision,
    unstable jsonb NOT NULL DEFAULT '[]',
    read_errors jsonb NOT NULL DEFAULT '[]',
    bytes_verified bigint,
    created_at timestamptz NOT NULL,
    completed_at timestamptz,
    verified_at timestamptz,
    problem jsonb,
    CONSTRAINT ck_snapshot_ready CHECK (status <> 'ready' OR (manifest IS NOT NULL AND verified_at IS NOT NULL))
)
"""

_INSTANCE = """
CREATE TABLE instance (
    id text CONSTRAINT pk_instance PRIMARY KEY,
    team_id text NOT NULL CONSTRAINT fk_instance_team_id_team REFERENCES team (id),
    workspace_id text NOT NULL CONSTRAINT fk_instance_workspace_id_workspace REFERENCES workspace (id),
    created_by text NOT NULL,
    status text NOT NULL,
    status_detail text,
    provider text NOT NULL,
    label text,
    image text NOT NULL,
    env jsonb NOT NULL,
    onstart_cmd text,
    disk_gb double precision NOT NULL,
    gpu_name text NOT NULL,
    num_gpus integer NOT NULL,
    gpu_memory_mib integer NOT NULL,
    price_hour_nano bigint NOT NULL,
    max_price_hour_nano bigint,
    rental_id text,
    last_snapshot_id text,
    protected boolean NOT NULL DEFAULT false,
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    started_at timestamptz,
    paused_at timestamptz,
    hibernated_at timestamptz,
    destroyed_at timestamptz,
    CONSTRAINT ck_instance_status CHECK (status IN ('creating', 'running', 'pausing', 'paused', 'resuming',
        'hibernating', 'hibernated', 'waking', 'migrating', 'destroying', 'destroyed', 'failed'))
)
"""

_RENTAL = """
CREATE TABLE rental (
    id text CONSTRAINT pk_rental PRIMARY KEY,
    team_id text NOT NULL CONSTRAINT fk_rental_team_id_team REFERENCES team (id),
    instance_id text NOT NULL CONSTRAINT fk_rental_instance_id_instance REFERENCES instance (id),
    operation_id text NOT NULL,
    provider text NOT NULL,
    label text NOT NULL CONSTRAINT uq_rental_label UNIQUE,
    state text NOT NULL CONSTRAINT ck_rental_state CHECK
        (state IN ('intended', 'asked', 'rented', 'released')),
    offer jsonb NOT NULL,
    provider_machine_id text,
    machine_id text NOT NULL,
    address jsonb,
    host_key text,
    workspace_root text,
    geolocation text,
    country text,
    created_at timestamptz NOT NULL,
    rented_at timestamptz,
    released_at timestamptz,
    reason text,
    CONSTRAINT ck_rental_rented CHECK (state <> 'rented' OR provider_machine_id IS NOT NULL)
)
"""

_SPAN = """
CREATE TABLE rental_span (
    id text CONSTRAINT pk_rental_span PRIMARY KEY,
    team_id text NOT NULL CONSTRAINT fk_rental_span_team_id_team REFERENCES team (id),
    rental_id text NOT NULL CONSTRAINT fk_rental_span_rental_id_rental REFERENCES rental (id),
    kind text NOT NULL CONSTRAINT ck_rental_span_kind CHECK (kind IN ('gpu', 'disk')),
    rate_hour_nano bigint NOT NULL,
    from_at timestamptz NOT NULL,
    to_at timestamptz,
    CONSTRAINT ck_rental_span_order CHECK (to_at IS NULL OR to_at >= from_at)
)
"""


def upgrade() -> None:
    """Create the tables of market, snapshots and instances, with their walls."""
    for table in (_OFFER, _WORKSPACE, _SNAPSHOT, _INSTANCE, _RENTAL, _SPAN):
        op.execute(table)
    op.execute("CREATE INDEX ix_snapshot_instance_id ON snapshot (team_id, instance_id, id)")
    op.execute("CREATE INDEX ix_instance_team_id ON instance (team_id, id)")
    op.execute("CREATE INDEX ix_rental_instance_id ON rental (instance_id)")
    op.execute("CREATE UNIQUE INDEX uq_rental_span_open ON rental_span (rental_id, kind) WHERE to_at IS NULL")
    for table in ("workspace", "snapshot", "instance", "rental", "rental_span"):
        for statement in protect(table):
            op.execute(statement)
    for statement in grant("SELECT, INSERT, UPDATE ON offer", "dumont_app", "dumont_worker"):
        op.execute(statement)


def downgrade() -> None:
    """Remove what upgrade made."""
    for table in ("rental_span", "rental", "instance", "snapshot", "workspace", "offer"):
        op.execute(f"DROP TABLE {table}")
