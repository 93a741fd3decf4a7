"""What is pointed out to people about their books: budgets, insights kept for each user, and notifications."""

from alembic import op

from dumont.db.rls import protect

revision = "0020_insights"
down_revision = "0017_topups"
branch_labels = None
depends_on = None

_TABLES = """
CREATE TABLE bookkeeping_budget (
    team_id text NOT NULL CONSTRAINT fk_bookkeeping_budget_team_id_team REFERENCES team (id),
    category_id text NOT NULL,
    currency text NOT NULL,
    amount bigint NOT NULL CONSTRAINT ck_bookkeeping_budget_amount CHECK (amount > 0),
    updated_at timestamptz NOT NULL,
    CONSTRAINT pk_bookkeeping_budget PRIMARY KEY (category_id, currency)
);
CREATE INDEX ix_bookkeeping_budget_team_id ON bookkeeping_budget (team_id);
CREATE TABLE insight_cache (
    team_id text NOT NULL,
    user_id text NOT NULL,
    month date NOT NULL,
    document jsonb NOT NULL,
    computed_at timestamptz NOT NULL,
    CONSTRAINT pk_insight_cache PRIMARY KEY (team_id, user_id)
);
CREATE TABLE insight_choice (
    team_id text NOT NULL,
    user_id text NOT NULL,
    enabled jsonb NOT NULL,
    CONSTRAINT pk_insight_choice PRIMARY KEY (team_id, user_id)
);
CREATE TABLE insight_feedback (
    team_id text NOT NULL,
    user_id text NOT NULL,
    insight_hash text NOT NULL,
    insight_type text NOT NULL,
    status text NOT NULL CONSTRAINT ck_insight_feedback_status CHECK (status IN ('seen', 'ignored')),
    at timestamptz NOT NULL,
    CONSTRAINT pk_insight_feedback PRIMARY KEY (team_id, user_id, insight_hash)
);
CREATE TABLE notification (
    id text CONSTRAINT pk_notification PRIMARY KEY,
    team_id text NOT NULL,
    user_id text NOT NULL,
    type text NOT NULL,
    subject text NOT NULL,
    period date NOT NULL,
    title text NOT NULL,
    body text,
    metadata jsonb NOT NULL,
    read_at timestamptz,
    created_at timestamptz NOT NULL
);
CREATE UNIQUE INDEX uq_notification_once ON notification (team_id, user_id, type, subject, period);
CREATE INDEX ix_notification_created_at ON notification (team_id, user_id, created_at, id)
"""
_APP = {
    "bookkeeping_budget": "SELECT, INSERT, UPDATE, DELETE",
    "insight_cache": "SELECT, INSERT, UPDATE",
    "insight_choice": "SELECT, INSERT, UPDATE",
    "insight_feedback": "SELECT, INSERT, UPDATE",
    "notification": "SELECT, INSERT, UPDATE",
}


def upgrade() -> None:
    """Create the tables behind the teams' wall."""
    for statement in _TABLES.split(";\n"):
        op.execute(statement)
    for name, rights in _APP.items():
        for statement in protect(name, app=rights):
            op.execute(statement)


def downgrade() -> None:
    """Drop the tables."""
    for name in reversed(_APP):
        op.execute(f"DROP TABLE {name}")
