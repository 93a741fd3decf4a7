"""Wallets of teams, meters of what costs, and what was charged of each."""

from datetime import datetime, timezone

import sqlalchemy as sa
from alembic import op

from dumont.core import new_id
from dumont.db import grant, protect

revision = "0018_billing"
down_revision = "0019_bookkeeping"
branch_labels = None
depends_on = None

_WALLET = """
CREATE TABLE wallet (
    team_id text CONSTRAINT pk_wallet PRIMARY KEY CONSTRAINT fk_wallet_team_id_team REFERENCES team (id),
    currency text NOT NULL,
    account_id text NOT NULL CONSTRAINT fk_wallet_account_id_ledger_account REFERENCES ledger_account (id),
    showback_id text NOT NULL CONSTRAINT fk_wallet_showback_id_ledger_account REFERENCES ledger_account (id),
    receivable_id text NOT NULL CONSTRAINT fk_wallet_receivable_id_ledger_account REFERENCES ledger_account (id),
    revenue_id text NOT NULL CONSTRAINT fk_wallet_revenue_id_ledger_account REFERENCES ledger_account (id),
    mode text NOT NULL DEFAULT 'showback' CONSTRAINT ck_wallet_mode CHECK (mode IN ('showback', 'prepaid')),
    credit_limit bigint NOT NULL DEFAULT 0 CONSTRAINT ck_wallet_credit_limit CHECK (credit_limit >= 0),
    low_threshold bigint NOT NULL DEFAULT 5000000 CONSTRAINT ck_wallet_low_threshold CHECK (low_threshold >= 0),
    auto_hibernate boolean NOT NULL DEFAULT true,
    limit_hour bigint CONSTRAINT ck_wallet_limit_hour CHECK (limit_hour > 0),
    limit_day bigint CONSTRAINT ck_wallet_limit_day CHECK (limit_day > 0),
    limit_month bigint CONSTRAINT ck_wallet_limit_month CHECK (limit_month > 0),
    hibernate_over_limit boolean NOT NULL DEFAULT false,
    low_since timestamptz,
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL
)
"""
_METER = """
CREATE TABLE meter (
    id text CONSTRAINT pk_meter PRIMARY KEY,
    team_id text NOT NULL CONSTRAINT fk_meter_team_id_team REFERENCES team (id),
    instance_id text NOT NULL,
    rental_id text NOT NULL,
    kind text NOT NULL CONSTRAINT ck_meter_kind CHECK (kind IN ('gpu', 'disk')),
    rate_hour_nano bigint NOT NULL,
    from_at timestamptz NOT NULL,
    to_at timestamptz CONSTRAINT ck_meter_order CHECK (to_at >= from_at),
    charged bigint NOT NULL DEFAULT 0,
    charged_to timestamptz NOT NULL,
    pending bigint,
    pending_to timestamptz,
    pending_paid bigint,
    payer_id text,
    hold_id uuid,
    held bigint NOT NULL DEFAULT 0,
    short_since timestamptz,
    CONSTRAINT ck_meter_pending CHECK
        ((pending IS NULL) = (pending_to IS NULL) AND (pending IS NULL) = (pending_paid IS NULL)),
    CONSTRAINT ck_meter_held CHECK ((hold_id IS NULL) = (held = 0))
)
"""
_CHARGE = """
CREATE TABLE usage_charge (
    id text CONSTRAINT pk_usage_charge PRIMARY KEY,
    team_id text NOT NULL CONSTRAINT fk_usage_charge_team_id_team REFERENCES team (id),
    instance_id text NOT NULL,
    rental_id text NOT NULL,
    meter_id text,
    kind text NOT NULL,
    amount bigint NOT NULL,
    from_at timestamptz NOT NULL,
    to_at timestamptz NOT NULL
)
"""
_TRUE_UP = """
CREATE TABLE true_up (
    rental_id text CONSTRAINT pk_true_up PRIMARY KEY,
    team_id text NOT NULL CONSTRAINT fk_true_up_team_id_team REFERENCES team (id),
    stated_nano bigint,
    metered_nano bigint NOT NULL,
    at timestamptz NOT NULL
)
"""
_TOTAL = """
CREATE FUNCTION meter_total(p_rate_hour_nano bigint, p_from timestamptz, p_to timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT div(2 * p_rate_hour_nano * greatest(0, floor(extract(epoch FROM p_to - p_from) * 1000000))
               + 3600000000000, 7200000000000)::bigint
$$
"""
"""Millionths of a dollar for a rate and a stretch of time, rounded half up once, of whole numbers only."""
_UNFINISHED = "to_at IS NULL OR charged_to <> to_at OR pending IS NOT NULL OR hold_id IS NOT NULL"
_SPANS = """
INSERT INTO meter (id, team_id, instance_id, rental_id, kind, rate_hour_nano, from_at, to_at, charged_to)
SELECT s.id, s.team_id, r.instance_id, s.rental_id, s.kind, s.rate_hour_nano, s.from_at, s.to_at, s.from_at
  FROM rental_span s JOIN rental r ON r.id = s.rental_id
"""
_ACCOUNTS = {"account_id": ("wallet", 0), "showback_id": ("showback", None), "receivable_id": ("receivable", None)}
_ACCOUNTS["revenue_id"] = ("revenue", None)


def upgrade() -> None:
    """Make the tables, a wallet for each team that is there, and a meter for each stretch of cost."""
    for statement in (_WALLET, _METER, _CHARGE, _TRUE_UP, _TOTAL):
        op.execute(statement)
    op.execute(f"CREATE INDEX ix_meter_unfinished ON meter (team_id, instance_id) WHERE {_UNFINISHED}")
    op.execute("CREATE INDEX ix_meter_rental_id ON meter (rental_id)")
    op.execute("CREATE INDEX ix_usage_charge_team_id ON usage_charge (team_id, to_at)")
    op.execute("CREATE INDEX ix_usage_charge_rental_id ON usage_charge (rental_id)")
    op.execute("REVOKE ALL ON FUNCTION meter_total(bigint, timestamptz, timestamptz) FROM PUBLIC")
    for statement in [
        *protect("wallet", app="SELECT, INSERT, UPDATE"),
        *protect("meter", app="SELECT"),
        *protect("usage_charge", app="SELECT"),
        *protect("true_up", app="SELECT"),
        *grant("EXECUTE ON FUNCTION meter_total(bigint, timestamptz, timestamptz)", "dumont_app", "dumont_worker"),
    ]:
        op.execute(statement)
    op.execute("SELECT set_config('dumont.sweep', 'on', true)")
    bind = op.get_bind()
    for (team,) in bind.execute(sa.text("SELECT id FROM team WHERE closed_at IS NULL ORDER BY id")).all():
        _make_wallet(bind, str(team))
    op.execute(_SPANS)


def downgrade() -> None:
    """Remove what upgrade made; the ledger keeps its accounts and entries."""
    for table in ("true_up", "usage_charge", "meter", "wallet"):
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP FUNCTION meter_total(bigint, timestamptz, timestamptz)")


def _make_wallet(bind: sa.Connection, team: str) -> None:
    now = datetime.now(timezone.utc)
    ids = {column: new_id("acc") for column in _ACCOUNTS}
    for column, (kind, floor) in _ACCOUNTS.items():
        bind.execute(
            sa.text("SELECT ledger_open_account(:team, :id, :kind, :kind, 'USD', CAST(:floor AS bigint), :now)"),
            {"team": team, "id": ids[column], "kind": kind, "floor": floor, "now": now},
        )
    bind.execute(
        sa.text(
            "INSERT INTO wallet (team_id, currency, account_id, showback_id, receivable_id, revenue_id, created_at) "
            "VALUES (:team, 'USD', :account_id, :showback_id, :receivable_id, :revenue_id, :now)"
        ),
        {"team": team, "now": now, **ids},
    )
