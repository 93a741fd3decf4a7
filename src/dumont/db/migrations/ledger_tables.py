"""SQL of the ledger's tables that revision 0013 brings.

PostgreSQL reads every CHECK of a table anew for each statement that writes to it, which costs a posting more than the
posting itself. So only what a moving balance can break is a CHECK; what is written once is a domain, which is looked at
when its column is written, and the rules of transfers and entries are in their triggers.
"""

from dumont.db.rls import WORKER_ROLE, protect, where_role

TABLES = """
CREATE DOMAIN ledger_word AS text CHECK (VALUE ~ '^[a-z][a-z-]{0,31}$');
CREATE DOMAIN ledger_name AS text CHECK (length(VALUE) BETWEEN 1 AND 200);
CREATE DOMAIN ledger_currency AS text CHECK (VALUE ~ '^[A-Z]{3}$');
CREATE TABLE ledger_account (
    id text CONSTRAINT pk_ledger_account PRIMARY KEY,
    team_id text NOT NULL CONSTRAINT fk_ledger_account_team_id_team REFERENCES team (id),
    type ledger_word NOT NULL,
    name ledger_name NOT NULL,
    currency ledger_currency NOT NULL,
    balance bigint NOT NULL DEFAULT 0,
    held bigint NOT NULL DEFAULT 0,
    floor bigint,
    version bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    moved_at timestamptz NOT NULL,
    closed_at timestamptz,
    CONSTRAINT ck_ledger_account_floor CHECK (held >= 0 AND (floor IS NULL OR balance - held >= floor))
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX uq_ledger_account_name ON ledger_account (team_id, type, currency, name)
    WHERE closed_at IS NULL;
CREATE TABLE ledger_transfer (
    id uuid CONSTRAINT pk_ledger_transfer PRIMARY KEY,
    team_id text NOT NULL,
    fingerprint bytea NOT NULL,
    kind text NOT NULL,
    currency text NOT NULL,
    accounts text[] NOT NULL,
    seqs bigint[] NOT NULL,
    date date NOT NULL,
    memo text,
    reverses uuid,
    settles uuid,
    refusal jsonb,
    created_at timestamptz NOT NULL
);
CREATE UNIQUE INDEX uq_ledger_transfer_reverses ON ledger_transfer (reverses)
    WHERE reverses IS NOT NULL AND refusal IS NULL;
CREATE TABLE ledger_entry (
    account_id text NOT NULL,
    seq bigint NOT NULL,
    team_id text NOT NULL,
    transfer_id uuid NOT NULL,
    amount bigint NOT NULL,
    balance_after bigint NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT pk_ledger_entry PRIMARY KEY (account_id, seq)
);
CREATE TABLE ledger_hold (
    id uuid CONSTRAINT pk_ledger_hold PRIMARY KEY,
    team_id text NOT NULL,
    account_id text NOT NULL CONSTRAINT fk_ledger_hold_account_id_ledger_account REFERENCES ledger_account (id),
    fingerprint bytea NOT NULL,
    amount bigint NOT NULL CONSTRAINT ck_ledger_hold_amount CHECK (amount BETWEEN 1 AND 1000000000000000),
    status text NOT NULL CONSTRAINT ck_ledger_hold_status
        CHECK (status IN ('open', 'settled', 'voided', 'expired', 'refused')),
    reason text NOT NULL CONSTRAINT ck_ledger_hold_reason CHECK (length(reason) BETWEEN 1 AND 200),
    subject text CONSTRAINT ck_ledger_hold_subject CHECK (length(subject) <= 100),
    expires_at timestamptz,
    settled_amount bigint CONSTRAINT ck_ledger_hold_settled_amount CHECK (settled_amount BETWEEN 1 AND amount),
    transfer_id uuid,
    refusal jsonb,
    created_at timestamptz NOT NULL,
    ended_at timestamptz,
    CONSTRAINT ck_ledger_hold_settled CHECK
        ((status = 'settled') = (settled_amount IS NOT NULL) AND (status = 'settled') = (transfer_id IS NOT NULL)),
    CONSTRAINT ck_ledger_hold_ended CHECK ((status = 'open') = (ended_at IS NULL)),
    CONSTRAINT ck_ledger_hold_refused CHECK ((status = 'refused') = (refusal IS NOT NULL))
);
CREATE INDEX ix_ledger_hold_open ON ledger_hold (account_id, id) WHERE status = 'open';
CREATE INDEX ix_ledger_hold_team_id ON ledger_hold (team_id, created_at);
CREATE INDEX ix_ledger_hold_expires_at ON ledger_hold (expires_at) WHERE status = 'open' AND expires_at IS NOT NULL;
CREATE TABLE ledger_hold_event (
    hold_id uuid NOT NULL,
    status text NOT NULL,
    team_id text NOT NULL,
    amount bigint NOT NULL,
    reason text,
    created_at timestamptz NOT NULL,
    CONSTRAINT pk_ledger_hold_event PRIMARY KEY (hold_id, status)
)
"""

NAMES = ("ledger_account", "ledger_transfer", "ledger_entry", "ledger_hold", "ledger_hold_event")
APPEND_ONLY = ("ledger_transfer", "ledger_entry", "ledger_hold_event")
DOMAINS = ("ledger_word", "ledger_name", "ledger_currency")


def wall(name: str) -> list[str]:
    """Return what lets others read their team's rows and write none; the owner, as whom functions run, sees all."""
    return [
        *protect(name, app="SELECT"),
        where_role(WORKER_ROLE, f"REVOKE INSERT, UPDATE, DELETE ON TABLE {name} FROM {WORKER_ROLE}"),
        f"CREATE POLICY {name}_owner ON {name} TO CURRENT_USER USING (true) WITH CHECK (true)",
    ]


def keep(name: str) -> list[str]:
    """Return what refuses all that an append-only table, or any table of the ledger, never needs."""
    events = "UPDATE OR DELETE" if name in APPEND_ONLY else "DELETE"
    refuse = "EXECUTE FUNCTION ledger_refuse()"
    return [
        f"CREATE TRIGGER {name}_keeps BEFORE {events} ON {name} FOR EACH ROW {refuse}",
        f"CREATE TRIGGER {name}_whole_table BEFORE TRUNCATE ON {name} FOR EACH STATEMENT {refuse}",
    ]
