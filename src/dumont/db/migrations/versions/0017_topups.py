"""Top-ups of wallets by Pix: charges, the payments that came, money that goes back, and notices to be looked into."""

from alembic import op

from dumont.db.rls import APP_ROLE, WORKER_ROLE, grant, protect, where_role

revision = "0017_topups"
down_revision = "0015_ledger_mends"
branch_labels = None
depends_on = None

_TABLES = """
CREATE TABLE topup (
    id text CONSTRAINT pk_topup PRIMARY KEY,
    team_id text NOT NULL CONSTRAINT fk_topup_team_id_team REFERENCES team (id),
    method text NOT NULL,
    status text NOT NULL CONSTRAINT ck_topup_status
        CHECK (status IN ('pending', 'paid', 'expired', 'cancelled', 'refunded')),
    amount bigint NOT NULL CONSTRAINT ck_topup_amount CHECK (amount > 0),
    credit bigint NOT NULL CONSTRAINT ck_topup_credit CHECK (credit > 0),
    rate_micro bigint NOT NULL CONSTRAINT ck_topup_rate_micro CHECK (rate_micro > 0),
    rate_source text NOT NULL,
    rate_at timestamptz NOT NULL,
    txid text NOT NULL CONSTRAINT uq_topup_txid UNIQUE,
    code text NOT NULL,
    expires_at timestamptz NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL,
    look_at timestamptz NOT NULL,
    paid_at timestamptz,
    end_to_end_id text CONSTRAINT uq_topup_end_to_end_id UNIQUE,
    transfer_id uuid,
    refunded bigint NOT NULL DEFAULT 0,
    refunded_credit bigint NOT NULL DEFAULT 0,
    CONSTRAINT ck_topup_paid CHECK ((status IN ('paid', 'refunded')) = (end_to_end_id IS NOT NULL)),
    CONSTRAINT ck_topup_refunded CHECK
        (refunded >= 0 AND refunded <= amount AND refunded_credit >= 0 AND refunded_credit <= credit
         AND (status = 'refunded') = (refunded = amount))
);
CREATE INDEX ix_topup_team_id ON topup (team_id, created_at);
CREATE INDEX ix_topup_look_at ON topup (look_at) WHERE status = 'pending';
CREATE TABLE topup_payment (
    end_to_end_id text CONSTRAINT pk_topup_payment PRIMARY KEY,
    team_id text NOT NULL CONSTRAINT fk_topup_payment_team_id_team REFERENCES team (id),
    topup_id text CONSTRAINT fk_topup_payment_topup_id_topup REFERENCES topup (id),
    txid text,
    amount bigint NOT NULL CONSTRAINT ck_topup_payment_amount CHECK (amount > 0),
    fate text NOT NULL CONSTRAINT ck_topup_payment_fate CHECK (fate IN ('credited', 'suspense')),
    reason text CONSTRAINT ck_topup_payment_reason CHECK ((fate = 'suspense') = (reason IS NOT NULL)),
    paid_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL
);
CREATE INDEX ix_topup_payment_team_id ON topup_payment (team_id, seen_at);
CREATE TABLE topup_refund (
    id text CONSTRAINT pk_topup_refund PRIMARY KEY,
    team_id text NOT NULL CONSTRAINT fk_topup_refund_team_id_team REFERENCES team (id),
    topup_id text NOT NULL CONSTRAINT fk_topup_refund_topup_id_topup REFERENCES topup (id),
    end_to_end_id text NOT NULL,
    amount bigint NOT NULL CONSTRAINT ck_topup_refund_amount CHECK (amount > 0),
    credit bigint NOT NULL CONSTRAINT ck_topup_refund_credit CHECK (credit >= 0),
    status text NOT NULL CONSTRAINT ck_topup_refund_status CHECK (status IN ('under-way', 'done', 'failed')),
    due_at timestamptz NOT NULL,
    tries integer NOT NULL DEFAULT 0,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL,
    ended_at timestamptz,
    CONSTRAINT ck_topup_refund_ended CHECK ((status = 'under-way') = (ended_at IS NULL))
);
CREATE INDEX ix_topup_refund_topup_id ON topup_refund (topup_id);
CREATE INDEX ix_topup_refund_due_at ON topup_refund (due_at) WHERE status = 'under-way';
CREATE TABLE pix_notice (
    end_to_end_id text CONSTRAINT pk_pix_notice PRIMARY KEY,
    txid text,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    tries integer NOT NULL DEFAULT 0,
    ended_at timestamptz
);
CREATE INDEX ix_pix_notice_due_at ON pix_notice (due_at) WHERE ended_at IS NULL
"""

_NOTE = """
CREATE FUNCTION dumont_note_pix(p_ids text[], p_txids text[]) RETURNS void LANGUAGE sql
SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    INSERT INTO pix_notice (end_to_end_id, txid)
    SELECT DISTINCT ON (n.id) n.id, n.txid FROM unnest(p_ids, p_txids) AS n(id, txid) ORDER BY n.id
        ON CONFLICT DO NOTHING
$$
"""
"""A caller that is a payment service has no team, and writes nothing but that something may have been paid."""

_HOUSE = """
CREATE FUNCTION dumont_house_team(p_now timestamptz) RETURNS text LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    INSERT INTO team (id, name, created_at) VALUES ('team_00000000000000000000000000', 'The installation', p_now)
        ON CONFLICT DO NOTHING;
    RETURN 'team_00000000000000000000000000';
END
$$
"""
"""The team without members that holds what belongs to no team: payments that name no charge of ours."""


def upgrade() -> None:
    """Make the tables and the two functions."""
    for statement in _TABLES.split(";\n"):
        op.execute(statement)
    for definition in (_NOTE, _HOUSE):
        op.execute(definition)
    statements = [
        *protect("topup", app="SELECT, INSERT, UPDATE"),
        *protect("topup_payment", app="SELECT"),
        *protect("topup_refund", app="SELECT, INSERT"),
        "REVOKE ALL ON FUNCTION dumont_note_pix(text[], text[]) FROM PUBLIC",
        "REVOKE ALL ON FUNCTION dumont_house_team(timestamptz) FROM PUBLIC",
        *grant("EXECUTE ON FUNCTION dumont_note_pix(text[], text[])", APP_ROLE, WORKER_ROLE),
        *grant("EXECUTE ON FUNCTION dumont_house_team(timestamptz)", WORKER_ROLE),
        *grant("SELECT, UPDATE ON TABLE pix_notice", WORKER_ROLE),
        where_role(APP_ROLE, f"REVOKE ALL ON TABLE pix_notice FROM {APP_ROLE}"),
    ]
    for statement in statements:
        op.execute(statement)


def downgrade() -> None:
    """Take it away, with what was paid."""
    op.execute("DROP FUNCTION dumont_house_team(timestamptz)")
    op.execute("DROP FUNCTION dumont_note_pix(text[], text[])")
    for table in ("pix_notice", "topup_refund", "topup_payment", "topup"):
        op.execute(f"DROP TABLE {table}")
