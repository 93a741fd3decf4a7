"""Instances that lost their machine, whose turn it is to keep the watch, and machines that no row owns."""

from alembic import op

from dumont.db import grant, protect

revision = "0012_sweeps"
down_revision = "0010_offer_cache"
branch_labels = None
depends_on = None

_OLD = (
    "'creating', 'running', 'pausing', 'paused', 'resuming', 'hibernating', 'hibernated', 'waking', 'migrating', "
    "'destroying', 'destroyed', 'failed'"
)

_TURN = """
CREATE TABLE watch_turn (
    name text CONSTRAINT pk_watch_turn PRIMARY KEY,
    next_at timestamptz NOT NULL,
    ended_at timestamptz,
    detail jsonb
)
"""

_STRAY = """
CREATE TABLE stray_machine (
    id text CONSTRAINT pk_stray_machine PRIMARY KEY,
    team_id text CONSTRAINT fk_stray_machine_team_id_team REFERENCES team (id),
    provider text NOT NULL,
    provider_machine_id text NOT NULL,
    label text,
    rental_id text,
    kind text NOT NULL CONSTRAINT ck_stray_machine_kind CHECK
        (kind IN ('late', 'twin', 'unfinished', 'superseded', 'other-installation', 'foreign')),
    action text NOT NULL CONSTRAINT ck_stray_machine_action CHECK (action IN ('destroyed', 'left', 'reported')),
    state text NOT NULL,
    price_hour_nano bigint,
    first_seen_at timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,
    CONSTRAINT uq_stray_machine_provider UNIQUE (provider, provider_machine_id)
)
"""


def _statuses(words: str) -> None:
    op.execute("ALTER TABLE instance DROP CONSTRAINT ck_instance_status")
    op.execute(f"ALTER TABLE instance ADD CONSTRAINT ck_instance_status CHECK (status IN ({words}))")


def upgrade() -> None:
    """Allow the new states and create the two tables; a stray of no team is for worker and owner alone."""
    _statuses(_OLD + ", 'interrupted', 'offline'")
    op.execute(_TURN)
    op.execute(_STRAY)
    op.execute("CREATE INDEX ix_stray_machine_team_id ON stray_machine (team_id, id)")
    op.execute("CREATE INDEX ix_rental_open ON rental (instance_id) WHERE state <> 'released'")
    for statement in [
        *grant("SELECT, INSERT, UPDATE ON watch_turn", "dumont_worker"),
        *protect("stray_machine", app="SELECT"),
    ]:
        op.execute(statement)


def downgrade() -> None:
    """Take it back; instances in a new state become running, which they were before."""
    op.execute("DROP INDEX ix_rental_open")
    op.execute("DROP TABLE stray_machine")
    op.execute("DROP TABLE watch_turn")
    op.execute("UPDATE instance SET status = 'running' WHERE status IN ('interrupted', 'offline')")
    _statuses(_OLD)
