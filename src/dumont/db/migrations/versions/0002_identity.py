"""Users, teams, sessions, SSH keys and idempotency keys, with the functions that are the only way to the first two.

`user_account` and `login_session` have no grants at all: the application reaches them through SECURITY DEFINER
functions with a fixed search_path. Tables that belong to a team are under row-level security.
"""

from alembic import op

from dumont.db.rls import APP_ROLE, WORKER_ROLE, grant, protect

revision = "0002_identity"
down_revision = "0001_base"
branch_labels = None
depends_on = None

_TABLES = """
CREATE TABLE user_account (
    id text CONSTRAINT pk_user_account PRIMARY KEY,
    email text NOT NULL,
    email_key text NOT NULL CONSTRAINT uq_user_account_email_key UNIQUE,
    username text CONSTRAINT uq_user_account_username UNIQUE,
    name text,
    password_hash text NOT NULL,
    current_team_id text NOT NULL,
    settings jsonb NOT NULL DEFAULT '{}',
    is_operator boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL,
    email_verified_at timestamptz,
    disabled_at timestamptz
);
CREATE TABLE team (
    id text CONSTRAINT pk_team PRIMARY KEY,
    name text NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE TABLE membership (
    team_id text NOT NULL CONSTRAINT fk_membership_team_id_team REFERENCES team (id),
    user_id text NOT NULL CONSTRAINT fk_membership_user_id_user_account REFERENCES user_account (id),
    role text NOT NULL CONSTRAINT ck_membership_role CHECK (role IN ('viewer', 'developer', 'admin')),
    created_at timestamptz NOT NULL,
    CONSTRAINT pk_membership PRIMARY KEY (team_id, user_id)
);
CREATE INDEX ix_membership_user_id ON membership (user_id);
CREATE TABLE login_session (
    id text CONSTRAINT pk_login_session PRIMARY KEY,
    user_id text NOT NULL CONSTRAINT fk_login_session_user_id_user_account REFERENCES user_account (id),
    team_id text NOT NULL CONSTRAINT fk_login_session_team_id_team REFERENCES team (id),
    jti text NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz,
    ip text,
    user_agent text
);
CREATE INDEX ix_login_session_user_id ON login_session (user_id);
CREATE TABLE ssh_key (
    id text CONSTRAINT pk_ssh_key PRIMARY KEY,
    user_id text NOT NULL CONSTRAINT fk_ssh_key_user_id_user_account REFERENCES user_account (id),
    name text NOT NULL,
    public_key text NOT NULL,
    fingerprint text NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT uq_ssh_key_user_id UNIQUE (user_id, fingerprint)
);
CREATE TABLE idempotency_key (
    scope text CONSTRAINT pk_idempotency_key PRIMARY KEY,
    team_id text NOT NULL CONSTRAINT fk_idempotency_key_team_id_team REFERENCES team (id) ON DELETE CASCADE,
    fingerprint bytea NOT NULL,
    status smallint NOT NULL,
    headers jsonb NOT NULL,
    body bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ix_idempotency_key_created_at ON idempotency_key (created_at);
"""

_DEFINER = "SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp"

_FUNCTIONS = {
    "dumont_enter(text, text, text, text, timestamptz)": f"""
CREATE FUNCTION dumont_enter(p_session text, p_user text, p_jti text, p_team text, p_now timestamptz)
RETURNS TABLE (outcome text, email text, username text, team_id text, team_name text, role text)
LANGUAGE plpgsql {_DEFINER} AS $$
#variable_conflict use_column
DECLARE
    v record;
    v_team text;
BEGIN
    SELECT s.user_id, s.jti, s.team_id, s.expires_at, s.revoked_at, u.email, u.username, u.disabled_at INTO v
      FROM login_session s JOIN user_account u ON u.id = s.user_id WHERE s.id = p_session;
    IF NOT FOUND OR v.user_id <> p_user THEN
        RETURN QUERY SELECT 'unknown', NULL::text, NULL::text, NULL::text, NULL::text, NULL::text;
    ELSIF v.revoked_at IS NOT NULL OR v.disabled_at IS NOT NULL OR v.jti <> p_jti THEN
        RETURN QUERY SELECT 'revoked', NULL::text, NULL::text, NULL::text, NULL::text, NULL::text;
    ELSIF v.expires_at <= p_now THEN
        RETURN QUERY SELECT 'expired', NULL::text, NULL::text, NULL::text, NULL::text, NULL::text;
    ELSE
        v_team := coalesce(p_team, v.team_id);
        PERFORM set_config('dumont.team_id', v_team, true), set_config('dumont.user_id', p_user, true);
        RETURN QUERY SELECT 'welcome', v.email, v.username, t.id, t.name, m.role
          FROM membership m JOIN team t ON t.id = m.team_id WHERE m.team_id = v_team AND m.user_id = p_user;
        IF NOT FOUND THEN
            PERFORM set_config('dumont.team_id', '', true), set_config('dumont.user_id', '', true);
            RETURN QUERY SELECT 'stranger', NULL::text, NULL::text, NULL::text, NULL::text, NULL::text;
        END IF;
    END IF;
END
$$
""",
    "dumont_register(text, text, text, text, text, text, text, boolean, timestamptz)": f"""
CREATE FUNCTION dumont_register(p_user text, p_email text, p_username text, p_name text, p_hash text,
                                p_team text, p_team_name text, p_operator boolean, p_now timestamptz)
RETURNS void LANGUAGE plpgsql {_DEFINER} AS $$
BEGIN
    PERFORM set_config('dumont.team_id', p_team, true), set_config('dumont.user_id', p_user, true);
    INSERT INTO user_account (id, email, email_key, username, name, password_hash, current_team_id, is_operator,
                              created_at)
    VALUES (p_user, p_email, lower(p_email), p_username, p_name, p_hash, p_team, p_operator, p_now);
    INSERT INTO team (id, name, created_at) VALUES (p_team, p_team_name, p_now);
    INSERT INTO membership (team_id, user_id, role, created_at) VALUES (p_team, p_user, 'admin', p_now);
END
$$
""",
    "dumont_find_user(text)": f"""
CREATE FUNCTION dumont_find_user(p_identifier text)
RETURNS TABLE (id text, email text, password_hash text, team_id text) LANGUAGE sql STABLE {_DEFINER} AS $$
    SELECT u.id, u.email, u.password_hash, u.current_team_id FROM user_account u
     WHERE u.disabled_at IS NULL AND (u.email_key = lower(p_identifier) OR u.username = lower(p_identifier))
$$
""",
    "dumont_account(text)": f"""
CREATE FUNCTION dumont_account(p_user text)
RETURNS TABLE (id text, email text, username text, name text, settings jsonb, is_operator boolean,
               created_at timestamptz, email_verified_at timestamptz) LANGUAGE sql STABLE {_DEFINER} AS $$
    SELECT u.id, u.email, u.username, u.name, u.settings, u.is_operator, u.created_at, u.email_verified_at
      FROM user_account u WHERE u.id = p_user
$$
""",
    "dumont_open_session(text, text, text, timestamptz, timestamptz, text, text)": f"""
CREATE FUNCTION dumont_open_session(p_session text, p_user text, p_jti text, p_created timestamptz,
                                    p_expires timestamptz, p_ip text, p_agent text)
RETURNS TABLE (email text, team_id text, role text) LANGUAGE plpgsql {_DEFINER} AS $$
#variable_conflict use_column
DECLARE
    v_team text;
    v_email text;
BEGIN
    SELECT u.current_team_id, u.email INTO v_team, v_email FROM user_account u
     WHERE u.id = p_user AND u.disabled_at IS NULL;
    PERFORM set_config('dumont.team_id', coalesce(v_team, ''), true), set_config('dumont.user_id', p_user, true);
    RETURN QUERY SELECT v_email, m.team_id, m.role FROM membership m WHERE m.team_id = v_team AND m.user_id = p_user;
    IF FOUND THEN
        INSERT INTO login_session (id, user_id, team_id, jti, created_at, expires_at, ip, user_agent)
        VALUES (p_session, p_user, v_team, p_jti, p_created, p_expires, p_ip, p_agent);
    END IF;
END
$$
""",
    "dumont_close_sessions(text, text, timestamptz)": f"""
CREATE FUNCTION dumont_close_sessions(p_user text, p_session text, p_now timestamptz)
RETURNS integer LANGUAGE plpgsql {_DEFINER} AS $$
DECLARE
    v_closed integer;
BEGIN
    UPDATE login_session SET revoked_at = p_now
     WHERE user_id = p_user AND revoked_at IS NULL AND (p_session IS NULL OR id = p_session);
    GET DIAGNOSTICS v_closed = ROW_COUNT;
    RETURN v_closed;
END
$$
""",
    "dumont_ssh_keys(text)": f"""
CREATE FUNCTION dumont_ssh_keys(p_user text) RETURNS TABLE (public_key text)
LANGUAGE plpgsql {_DEFINER} AS $$
#variable_conflict use_column
DECLARE
    v_before text := coalesce(current_setting('dumont.user_id', true), '');
BEGIN
    PERFORM set_config('dumont.user_id', p_user, true);
    RETURN QUERY SELECT k.public_key FROM ssh_key k WHERE k.user_id = p_user ORDER BY k.id;
    PERFORM set_config('dumont.user_id', v_before, true);
END
$$
""",
}

_OWN_ID = "id = current_setting('dumont.team_id', true)"
_OWN_USER = "user_id = current_setting('dumont.user_id', true)"


def upgrade() -> None:
    """Apply this step."""
    for statement in _TABLES.split(";\n"):
        if statement.strip():
            op.execute(statement)
    for statements in (
        protect("team", app="SELECT, UPDATE", team=_OWN_ID),
        protect("membership"),
        protect("ssh_key", team=_OWN_USER),
        protect("idempotency_key"),
    ):
        for statement in statements:
            op.execute(statement)
    for signature, definition in _FUNCTIONS.items():
        op.execute(definition)
        op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
        for statement in grant(f"EXECUTE ON FUNCTION {signature}", APP_ROLE, WORKER_ROLE):
            op.execute(statement)


def downgrade() -> None:
    """Take this step back, with the rows that it brought."""
    for signature in _FUNCTIONS:
        op.execute(f"DROP FUNCTION {signature}")
    for table in ("idempotency_key", "ssh_key", "login_session", "membership", "team", "user_account"):
        op.execute(f"DROP TABLE {table}")
