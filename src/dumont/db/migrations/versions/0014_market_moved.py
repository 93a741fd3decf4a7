"""When we last took a machine from a marketplace or gave one back: an older listing tells what is no longer so."""

from alembic import op

from dumont.db.rls import APP_ROLE, WORKER_ROLE, grant

revision = "0014_market_moved"
down_revision = "0011_lifecycle"
branch_labels = None
depends_on = None

_FUNCTION = """
CREATE FUNCTION dumont_market_moved(of_provider text) RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE
    before text := current_setting('dumont.sweep', true);
    moved timestamptz;
BEGIN
    PERFORM set_config('dumont.sweep', 'on', true);
    SELECT greatest(
        (SELECT max(rented_at) FROM public.rental WHERE provider = of_provider),
        (SELECT max(released_at) FROM public.rental WHERE provider = of_provider)
    ) INTO moved;
    PERFORM set_config('dumont.sweep', coalesce(before, ''), true);
    RETURN moved;
END
$$
"""


def upgrade() -> None:
    """Tell of all teams' machines nothing but the moment of the last change."""
    op.execute("CREATE INDEX ix_rental_rented ON rental (provider, rented_at)")
    op.execute("CREATE INDEX ix_rental_released ON rental (provider, released_at)")
    op.execute(_FUNCTION)
    op.execute("REVOKE ALL ON FUNCTION dumont_market_moved(text) FROM PUBLIC")
    for statement in grant("EXECUTE ON FUNCTION dumont_market_moved(text)", APP_ROLE, WORKER_ROLE):
        op.execute(statement)


def downgrade() -> None:
    """Drop the function and its indexes."""
    op.execute("DROP FUNCTION dumont_market_moved(text)")
    op.execute("DROP INDEX ix_rental_released")
    op.execute("DROP INDEX ix_rental_rented")
