"""A function with which the worker forgets login sessions, refresh tokens and API tokens that ended long ago."""

from alembic import op

from dumont.db.rls import WORKER_ROLE, grant

revision = "0009_forget_access"
down_revision = "0008_kept_disks"
branch_labels = None
depends_on = None

_FORGET = """
CREATE FUNCTION dumont_forget_access(p_before timestamptz) RETURNS bigint LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    v_sweep text := coalesce(current_setting('dumont.sweep', true), '');
    v_count bigint;
    v_total bigint := 0;
BEGIN
    DELETE FROM refresh_token WHERE expires_at < p_before;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    v_total := v_total + v_count;
    DELETE FROM login_session WHERE expires_at < p_before OR revoked_at < p_before;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    v_total := v_total + v_count;
    PERFORM set_config('dumont.sweep', 'on', true);
    DELETE FROM api_token WHERE expires_at < p_before OR revoked_at < p_before;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    PERFORM set_config('dumont.sweep', v_sweep, true);
    RETURN v_total + v_count;
END
$$
"""
_SIGNATURE = "dumont_forget_access(timestamptz)"


def upgrade() -> None:
    """Apply this step."""
    op.execute(_FORGET)
    op.execute(f"REVOKE ALL ON FUNCTION {_SIGNATURE} FROM PUBLIC")
    for statement in grant(f"EXECUTE ON FUNCTION {_SIGNATURE}", WORKER_ROLE):
        op.execute(statement)


def downgrade() -> None:
    """Take this step back."""
    op.execute(f"DROP FUNCTION {_SIGNATURE}")
