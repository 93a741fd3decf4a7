"""Refresh tokens, sessions that last, API tokens, several teams per user, and secrets kept sealed for a replay.

`refresh_token` has no grants at all, like `login_session`. Functions that read rows of several teams turn the sweep
setting on for themselves and off again: it has no effect for the application's role.
"""

from alembic import op

from dumont.db.migrations.identity_functions import ENTER, ENTER_BEFORE, FUNCTIONS, OPEN_BEFORE, OPEN_OLD
from dumont.db.rls import APP_ROLE, WORKER_ROLE, grant, protect

revision = "0005_identity_depth"
down_revision = "0004_instances"
branch_labels = None
depends_on = None

_TABLES = """
ALTER TABLE user_account
    ADD COLUMN locale text NOT NULL DEFAULT 'en',
    ADD COLUMN timezone text NOT NULL DEFAULT 'UTC',
    ADD COLUMN currency text NOT NULL DEFAULT 'USD';
ALTER TABLE team ADD COLUMN closed_at timestamptz;
ALTER TABLE login_session
    ADD COLUMN previous_jti text,
    ADD COLUMN last_used_at timestamptz;
CREATE TABLE refresh_token (
    hash bytea CONSTRAINT pk_refresh_token PRIMARY KEY,
    session_id text NOT NULL CONSTRAINT fk_refresh_token_session_id_login_session REFERENCES login_session (id)
        ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    spent_at timestamptz,
    retry_key bytea,
    retry_answer bytea
);
CREATE INDEX ix_refresh_token_session_id ON refresh_token (session_id);
CREATE TABLE api_token (
    id text CONSTRAINT pk_api_token PRIMARY KEY,
    team_id text NOT NULL CONSTRAINT fk_api_token_team_id_team REFERENCES team (id),
    user_id text NOT NULL CONSTRAINT fk_api_token_user_id_user_account REFERENCES user_account (id),
    name text NOT NULL,
    prefix text NOT NULL,
    hash bytea NOT NULL CONSTRAINT uq_api_token_hash UNIQUE,
    scopes text[] NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    last_used_at timestamptz,
    revoked_at timestamptz
);
CREATE INDEX ix_api_token_team_id ON api_token (team_id);
ALTER TABLE idempotency_key ADD COLUMN sealed boolean NOT NULL DEFAULT false;
"""


def upgrade() -> None:
    """Apply this step."""
    for statement in _TABLES.split(";\n"):
        if statement.strip():
            op.execute(statement)
    for statement in protect("api_token", app="SELECT, INSERT, UPDATE"):
        op.execute(statement)
    op.execute(f"DROP FUNCTION {OPEN_OLD}")
    op.execute(ENTER)
    for signature, definition in FUNCTIONS.items():
        op.execute(definition)
        _give(signature)


def downgrade() -> None:
    """Take this step back, with the rows that it brought."""
    for signature in FUNCTIONS:
        op.execute(f"DROP FUNCTION {signature}")
    op.execute(ENTER_BEFORE)
    op.execute(OPEN_BEFORE)
    _give(OPEN_OLD)
    op.execute("DROP TABLE api_token")
    op.execute("DROP TABLE refresh_token")
    op.execute("ALTER TABLE idempotency_key DROP COLUMN sealed")
    op.execute("ALTER TABLE login_session DROP COLUMN previous_jti, DROP COLUMN last_used_at")
    op.execute("ALTER TABLE team DROP COLUMN closed_at")
    op.execute("ALTER TABLE user_account DROP COLUMN locale, DROP COLUMN timezone, DROP COLUMN currency")


def _give(signature: str) -> None:
    op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
    if not signature.startswith("dumont_rotate"):
        for statement in grant(f"EXECUTE ON FUNCTION {signature}", APP_ROLE, WORKER_ROLE):
            op.execute(statement)
