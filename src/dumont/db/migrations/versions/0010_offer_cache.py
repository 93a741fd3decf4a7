"""What the marketplaces answered, kept for a while, and the one function by which offers are written."""

from alembic import op

from dumont.db.rls import APP_ROLE, WORKER_ROLE, grant, where_role

revision = "0010_offer_cache"
down_revision = "0009_forget_access"
branch_labels = None
depends_on = None

_LISTING = """
CREATE TABLE offer_listing (
    id text CONSTRAINT pk_offer_listing PRIMARY KEY,
    provider text NOT NULL,
    machine_type text NOT NULL,
    wish text NOT NULL,
    as_of timestamptz NOT NULL,
    complete boolean NOT NULL,
    offers jsonb NOT NULL,
    kept_at timestamptz NOT NULL DEFAULT now()
)
"""

_PRICE = """
CREATE TABLE offer_price (
    offer_id text NOT NULL,
    at timestamptz NOT NULL,
    gpu_hour_nano bigint NOT NULL,
    storage_gb_month_nano bigint,
    CONSTRAINT pk_offer_price PRIMARY KEY (offer_id, at)
)
"""

_KEEP = """
CREATE FUNCTION dumont_keep_offers(
    p_id text, p_provider text, p_machine_type text, p_wish text, p_as_of timestamptz, p_complete boolean,
    p_offers jsonb
) RETURNS TABLE (machine_id text, num_gpus integer, id text) LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
BEGIN
    IF EXISTS (
        SELECT FROM jsonb_array_elements(p_offers) AS i (d)
        WHERE d->>'provider' IS DISTINCT FROM p_provider OR d->>'machine_type' IS DISTINCT FROM p_machine_type
           OR coalesce((d->>'gpu_hour_nano')::bigint, -1) < 0 OR coalesce((d->>'price_hour_nano')::bigint, 0) <= 0
    ) THEN
        RAISE EXCEPTION 'these are not offers of % for %', p_provider, p_machine_type USING ERRCODE = '22023';
    END IF;
    INSERT INTO offer (id, provider, machine_id, num_gpus, machine_type, document, as_of)
    SELECT d->>'id', p_provider, d->>'machine_id', (d->>'num_gpus')::integer, p_machine_type, d - 'id', p_as_of
    FROM jsonb_array_elements(p_offers) AS i (d)
    ORDER BY 3, 4
    ON CONFLICT ON CONSTRAINT uq_offer_provider DO UPDATE SET document = excluded.document, as_of = excluded.as_of;

    DELETE FROM offer_listing WHERE kept_at < now() - interval '15 minutes';
    DELETE FROM offer_price WHERE at < p_as_of - interval '48 hours';
    DELETE FROM offer WHERE as_of < p_as_of - interval '30 days';
    RETURN QUERY
    WITH kept AS (
        SELECT o.id, o.machine_id, o.num_gpus, o.document, (o.document->>'gpu_hour_nano')::bigint AS gpu,
               (o.document->>'storage_gb_month_nano')::bigint AS storage
        FROM jsonb_array_elements(p_offers) AS i (d)
        JOIN offer o ON o.provider = p_provider AND o.machine_id = d->>'machine_id'
            AND o.num_gpus = (d->>'num_gpus')::integer AND o.machine_type = p_machine_type
    ), listed AS (
        INSERT INTO offer_listing (id, provider, machine_type, wish, as_of, complete, offers)
        SELECT p_id, p_provider, p_machine_type, p_wish, p_as_of, p_complete,
               coalesce(jsonb_agg(kept.document || jsonb_build_object('id', kept.id)), '[]')
        FROM kept
    ), priced AS (
        INSERT INTO offer_price (offer_id, at, gpu_hour_nano, storage_gb_month_nano)
        SELECT kept.id, p_as_of, kept.gpu, kept.storage FROM kept
        WHERE NOT EXISTS (
            SELECT FROM (
                SELECT gpu_hour_nano, storage_gb_month_nano FROM offer_price
                WHERE offer_id = kept.id ORDER BY at DESC LIMIT 1
            ) AS last
            WHERE last.gpu_hour_nano = kept.gpu AND last.storage_gb_month_nano IS NOT DISTINCT FROM kept.storage
        )
        ON CONFLICT DO NOTHING
    )
    SELECT kept.machine_id, kept.num_gpus, kept.id FROM kept;
END
$$
"""
_SIGNATURE = "dumont_keep_offers(text, text, text, text, timestamptz, boolean, jsonb)"


def upgrade() -> None:
    """Create the tables and the function; the application and the worker only read what it wrote."""
    op.execute(_LISTING)
    op.execute("CREATE INDEX ix_offer_listing_as_of ON offer_listing (provider, machine_type, wish, as_of)")
    op.execute(_PRICE)
    op.execute(_KEEP)
    op.execute(f"REVOKE ALL ON FUNCTION {_SIGNATURE} FROM PUBLIC")
    statements = grant("SELECT ON TABLE offer_listing, offer_price", APP_ROLE, WORKER_ROLE)
    statements += grant(f"EXECUTE ON FUNCTION {_SIGNATURE}", APP_ROLE, WORKER_ROLE)
    for statement in statements:
        op.execute(statement)
    for role in (APP_ROLE, WORKER_ROLE):
        op.execute(where_role(role, f"REVOKE INSERT, UPDATE ON TABLE offer FROM {role}"))


def downgrade() -> None:
    """Let both roles write offers again, and drop the function with its tables."""
    for statement in grant("INSERT, UPDATE ON TABLE offer", APP_ROLE, WORKER_ROLE):
        op.execute(statement)
    op.execute(f"DROP FUNCTION {_SIGNATURE}")
    op.execute("DROP TABLE offer_price")
    op.execute("DROP TABLE offer_listing")
