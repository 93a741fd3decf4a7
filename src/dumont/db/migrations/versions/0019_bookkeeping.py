"""What people record about their money: categories, transactions, and every change of a transaction.

Amounts and balances are the ledger's; a transaction names the transfers by which it was posted. No foreign keys to
accounts and categories: checking one locks its row, and the posting in the same commit proves that they are there.
"""

from alembic import op

from dumont.db.rls import WORKER_ROLE, protect, where_role

revision = "0019_bookkeeping"
down_revision = "0013_ledger"
branch_labels = None
depends_on = None

_TABLES = """
CREATE TABLE bookkeeping_category (
    id text CONSTRAINT pk_bookkeeping_category PRIMARY KEY,
    team_id text NOT NULL CONSTRAINT fk_bookkeeping_category_team_id_team REFERENCES team (id),
    name text NOT NULL CONSTRAINT ck_bookkeeping_category_name CHECK (length(name) BETWEEN 1 AND 100),
    type text NOT NULL CONSTRAINT ck_bookkeeping_category_type CHECK (type IN ('income', 'expense')),
    color text NOT NULL,
    icon text,
    created_at timestamptz NOT NULL,
    closed_at timestamptz
);
CREATE UNIQUE INDEX uq_bookkeeping_category_name ON bookkeeping_category (team_id, type, name) WHERE closed_at IS NULL;
CREATE TABLE bookkeeping_transaction (
    id text CONSTRAINT pk_bookkeeping_transaction PRIMARY KEY,
    team_id text NOT NULL CONSTRAINT fk_bookkeeping_transaction_team_id_team REFERENCES team (id),
    type text NOT NULL CONSTRAINT ck_bookkeeping_transaction_type CHECK (type IN ('income', 'expense', 'transfer')),
    status text NOT NULL CONSTRAINT ck_bookkeeping_transaction_status CHECK (status IN ('posted', 'reversed')),
    version integer NOT NULL,
    date date NOT NULL,
    account_id text NOT NULL,
    to_account_id text,
    category_id text,
    amount bigint NOT NULL CONSTRAINT ck_bookkeeping_transaction_amount CHECK (amount > 0),
    currency text NOT NULL,
    description text NOT NULL,
    tags text[] NOT NULL,
    source text NOT NULL,
    content bytea NOT NULL,
    origin uuid NOT NULL,
    transfer_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz,
    reversed_at timestamptz,
    CONSTRAINT ck_bookkeeping_transaction_sides
        CHECK ((type = 'transfer') = (to_account_id IS NOT NULL) AND (type = 'transfer') = (category_id IS NULL))
);
CREATE UNIQUE INDEX uq_bookkeeping_transaction_origin ON bookkeeping_transaction (origin);
CREATE INDEX ix_bookkeeping_transaction_date ON bookkeeping_transaction (team_id, date, id);
CREATE INDEX ix_bookkeeping_transaction_created_at ON bookkeeping_transaction (team_id, created_at, id);
CREATE INDEX ix_bookkeeping_transaction_content ON bookkeeping_transaction (team_id, content);
CREATE TABLE bookkeeping_change (
    transaction_id text NOT NULL,
    version integer NOT NULL,
    team_id text NOT NULL,
    action text NOT NULL CONSTRAINT ck_bookkeeping_change_action CHECK (action IN ('created', 'edited', 'reversed')),
    facts jsonb NOT NULL,
    posting_id uuid,
    reversal_id uuid,
    user_id text NOT NULL,
    reason text,
    at timestamptz NOT NULL,
    CONSTRAINT pk_bookkeeping_change PRIMARY KEY (transaction_id, version)
);
CREATE UNIQUE INDEX uq_bookkeeping_change_posting_id ON bookkeeping_change (posting_id) WHERE posting_id IS NOT NULL;
CREATE UNIQUE INDEX uq_bookkeeping_change_reversal_id ON bookkeeping_change (reversal_id) WHERE reversal_id IS NOT NULL
"""
_APP = {
    "bookkeeping_category": "SELECT, INSERT, UPDATE",
    "bookkeeping_transaction": "SELECT, INSERT, UPDATE",
    "bookkeeping_change": "SELECT, INSERT",
}


def upgrade() -> None:
    """Create the tables; nobody deletes from them, and a change stays what it was."""
    for statement in _TABLES.split(";\n"):
        op.execute(statement)
    for name, rights in _APP.items():
        for statement in protect(name, app=rights):
            op.execute(statement)
        taken = "DELETE" if "UPDATE" in rights else "UPDATE, DELETE"
        op.execute(where_role(WORKER_ROLE, f"REVOKE {taken} ON TABLE {name} FROM {WORKER_ROLE}"))


def downgrade() -> None:
    """Drop the tables; what was posted stays in the ledger."""
    for name in reversed(_APP):
        op.execute(f"DROP TABLE {name}")
