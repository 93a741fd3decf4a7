"""SQL of the ledger as revision 0026 has it: an account has a number, and entries and transfers name it by that.

Seven of ten look-ups of a posting are by account, and numbers are compared and kept at a fraction of what texts cost.
What people and other tables name is still the id; `ledger_account_entry` shows each entry with it. The CHECK of an
account, which PostgreSQL reads anew for each statement, says no more than the floor; that nothing below zero is held is
a domain.
"""

from collections.abc import Iterator

from dumont.db.migrations import ledger_batch, ledger_single
from dumont.db.migrations.ledger_functions import CLASSIFY_BOUND, WRITE
from dumont.db.migrations.ledger_guards import GUARDS
from dumont.db.migrations.ledger_tables import keep, wall
from dumont.db.migrations.ledger_verbs import VERBS
from dumont.db.migrations.rewriting import again, everywhere
from dumont.db.rls import APP_ROLE, WORKER_ROLE, grant

_TABLE = """
CREATE TABLE ledger_entry (
    account bigint NOT NULL,
    seq bigint NOT NULL,
    transfer_id uuid NOT NULL,
    amount bigint NOT NULL,
    balance_after bigint NOT NULL,
    created_at timestamptz NOT NULL,
    team_id text NOT NULL,
    CONSTRAINT pk_ledger_entry PRIMARY KEY (account, seq)
)
"""
_TABLE_BEFORE = """
CREATE TABLE ledger_entry (
    account_id text NOT NULL,
    seq bigint NOT NULL,
    team_id text NOT NULL,
    transfer_id uuid NOT NULL,
    amount bigint NOT NULL,
    balance_after bigint NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT pk_ledger_entry PRIMARY KEY (account_id, seq)
)
"""
_CHAIN = (
    "CREATE TRIGGER ledger_entry_chain AFTER INSERT ON ledger_entry REFERENCING NEW TABLE AS fresh "
    "FOR EACH STATEMENT EXECUTE FUNCTION ledger_guard_entries()"
)
_ASIDE = (
    "ALTER TABLE ledger_entry RENAME TO ledger_entry_before",
    "ALTER TABLE ledger_entry_before RENAME CONSTRAINT pk_ledger_entry TO pk_ledger_entry_before",
)
_VALUES = "e.seq, e.transfer_id, e.amount, e.balance_after, e.created_at, e.team_id"
_COLUMNS = _VALUES.replace("e.", "")
_FIXED = """
CREATE OR REPLACE TRIGGER ledger_account_fixed BEFORE UPDATE OF id, team_id, currency, created_at{} ON ledger_account
    FOR EACH ROW EXECUTE FUNCTION ledger_refuse()
"""
_FLOOR = (
    "ALTER TABLE ledger_account DROP CONSTRAINT ck_ledger_account_floor, ADD CONSTRAINT ck_ledger_account_floor CHECK "
)
VIEW = """
CREATE VIEW ledger_account_entry WITH (security_invoker = true) AS
SELECT a.id AS account_id, e.* FROM ledger_entry e JOIN ledger_account a ON a.number = e.account
"""
_TRANSLATE = """
CREATE FUNCTION ledger_translate(p_accounts {old}[]) RETURNS {new}[] LANGUAGE sql AS $$
    SELECT coalesce(array_agg(a.{name} ORDER BY u.place), '{{}}')
      FROM unnest(p_accounts) WITH ORDINALITY AS u(account, place) LEFT JOIN ledger_account a ON a.{key} = u.account
$$
"""
_NO_ORPHAN = """
DO $do$ BEGIN
    IF EXISTS (SELECT FROM ledger_transfer t, unnest(t.accounts) AS n(account)
                WHERE NOT EXISTS (SELECT FROM ledger_account a WHERE a.{key} = n.account)) THEN
        RAISE EXCEPTION 'a transfer names an account that is not there; `dumont ledger audit` says which'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
END $do$
"""
_ALONE = "LOCK TABLE ledger_account, ledger_hold, ledger_transfer, ledger_entry IN ACCESS EXCLUSIVE MODE"
"""Whoever is at work ends first; what cannot be had is found out before anything was written."""


def upgrade() -> Iterator[str]:
    """Say what is to be done, step by step; entries are written anew, transfers in their place."""
    yield _ALONE
    yield "ALTER TABLE ledger_account ADD COLUMN number bigint GENERATED ALWAYS AS IDENTITY"
    yield "ALTER TABLE ledger_account ADD CONSTRAINT uq_ledger_account_number UNIQUE (number)"
    yield _FIXED.format(", number")
    yield "CREATE DOMAIN ledger_held AS bigint CONSTRAINT ck_ledger_held CHECK (VALUE >= 0)"
    yield "DROP TRIGGER ledger_account_held ON ledger_account"
    yield "ALTER TABLE ledger_account ALTER COLUMN held TYPE ledger_held"
    yield f"{_FLOOR}(balance - held >= floor)"
    yield ledger_single.HELD.split(";\n")[1]
    yield from _move(_TABLE, "a.number", "account", "LEFT JOIN ledger_account a ON a.id = e.account_id")
    yield from _translate(old="text", new="bigint", name="number", key="id")
    yield VIEW
    yield from FUNCTIONS
    yield from grant("SELECT ON TABLE ledger_account_entry", APP_ROLE, WORKER_ROLE)


def downgrade() -> Iterator[str]:
    """Say how what there was is put back."""
    yield _ALONE
    yield "DROP VIEW ledger_account_entry"
    yield from _translate(old="bigint", new="text", name="id", key="number")
    yield from _move(_TABLE_BEFORE, "a.id", "account_id", "LEFT JOIN ledger_account a ON a.number = e.account")
    yield from FUNCTIONS_BEFORE
    yield "DROP TRIGGER ledger_account_held ON ledger_account"
    yield f"{_FLOOR}(held >= 0 AND (floor IS NULL OR balance - held >= floor))"
    yield "ALTER TABLE ledger_account ALTER COLUMN held TYPE bigint"
    yield ledger_single.HELD.split(";\n")[1]
    yield "DROP DOMAIN ledger_held"
    yield _FIXED.format("")
    yield "ALTER TABLE ledger_account DROP COLUMN number"


def _move(table: str, account: str, column: str, join: str) -> Iterator[str]:
    """Make the table of entries anew with all its rows, its walls and its guards."""
    yield from _ASIDE
    yield table
    yield (
        f"INSERT INTO ledger_entry ({column}, {_COLUMNS}) SELECT {account}, {_VALUES} FROM ledger_entry_before e {join}"
    )
    yield "DROP TABLE ledger_entry_before"
    yield from wall("ledger_entry")
    yield _CHAIN
    yield from keep("ledger_entry")


def _translate(*, old: str, new: str, name: str, key: str) -> Iterator[str]:
    yield _TRANSLATE.format(old=old, new=new, name=name, key=key)
    yield _NO_ORPHAN.format(key=key)
    yield f"ALTER TABLE ledger_transfer ALTER COLUMN accounts TYPE {new}[] USING ledger_translate(accounts)"
    yield f"DROP FUNCTION ledger_translate({old}[])"
    yield "ANALYZE ledger_account, ledger_entry, ledger_transfer"


def _by_number(guard: str) -> str:
    """Let a guard look for entries by the number of their account."""
    changes = (
        ("e.account_id = f.id", "e.account = f.number"),
        ("n.account_id", "n.account"),
        ("l.account_id", "l.account"),
    )
    for old, new in (*changes, ("l(account_id, seq)", "l(account, seq)")):
        guard = guard.replace(old, new)
    return again(guard)


_ENTRIES_BEFORE = GUARDS["ledger_guard_entries()"]
_NAMED = "USING ERRCODE"
ENTRIES = again(
    everywhere(
        _ENTRIES_BEFORE,
        ("f.account_id", "f.account"),
        ("e.account_id", "e.account"),
        ("a.id = f.account", "a.number = f.account"),
    ),
    ("v_wrong text", "v_wrong bigint"),
    (
        "say', v_wrong",
        "say', coalesce((SELECT a.id FROM public.ledger_account a WHERE a.number = v_wrong), v_wrong::text)",
    ),
)

_ROWS = "    v_rows tid[];\n"
_NUMBERS = f"{_ROWS}    v_numbers bigint[];\n"
POST = again(
    ledger_single.POST,
    (_ROWS, _NUMBERS),
    ("ARRAY[a.ctid, b.ctid], a.currency", "ARRAY[a.ctid, b.ctid], ARRAY[a.number, b.number], a.currency"),
    ("INTO v_rows, v_currency", "INTO v_rows, v_numbers, v_currency"),
    ("ledger_entry (account_id,", "ledger_entry (account,"),
    ("(p_first, v_seqs[1]", "(v_numbers[1], v_seqs[1]"),
    ("(p_second, v_seqs[2]", "(v_numbers[2], v_seqs[2]"),
    ("v_currency, ARRAY[p_first, p_second], v_seqs", "v_currency, v_numbers, v_seqs"),
)
POST_MANY = again(
    ledger_batch.POST_MANY,
    (_ROWS, _NUMBERS),
    (
        "array_agg(n.ctid ORDER BY n.place),",
        "array_agg(n.ctid ORDER BY n.place), array_agg(n.number ORDER BY n.place),",
    ),
    ("INTO v_rows, v_teams", "INTO v_rows, v_numbers, v_teams"),
    ("a.ctid, a.team_id", "a.ctid, a.number, a.team_id"),
    (
        "ARRAY[p_accounts[p_firsts[i.item]], p_accounts[p_seconds[i.item]]]",
        "ARRAY[v_numbers[p_firsts[i.item]], v_numbers[p_seconds[i.item]]]",
    ),
    ("ledger_entry (account_id,", "ledger_entry (account,"),
    ("SELECT p_accounts[p_firsts[i.item]], v_one_seqs", "SELECT v_numbers[p_firsts[i.item]], v_one_seqs"),
    ("SELECT p_accounts[p_seconds[i.item]], v_two_seqs", "SELECT v_numbers[p_seconds[i.item]], v_two_seqs"),
)
_WRITTEN = again(
    WRITE,
    ("        SELECT n.* FROM unnest(", "        SELECT n.*, a.number FROM unnest("),
    (
        "AS n(item, account_id, amount, seq, after, freed) WHERE",
        "AS n(item, account_id, amount, seq, after, freed)\n"
        "          JOIN ledger_account a ON a.id = n.account_id WHERE",
    ),
    ("array_agg(l.account_id)", "array_agg(l.number)"),
    ("ledger_entry (account_id,", "ledger_entry (account,"),
    ("SELECT l.account_id, l.seq,", "SELECT l.number, l.seq,"),
    ("ORDER BY l.account_id, l.seq", "ORDER BY l.number, l.seq"),
)
_PLACES = "AS x(account_id, seq)\n                         JOIN ledger_entry e ON e.account_id = x.account_id AND"
_BOUND = everywhere(
    again(CLASSIFY_BOUND),
    (_PLACES, "AS x(account, seq)\n                         JOIN ledger_account_entry e ON e.account = x.account AND"),
)
_BALANCE_BEFORE = VERBS["ledger_balance_at(text, timestamptz)"]
_BALANCE = again(
    everywhere(_BALANCE_BEFORE, ("e.account_id = p_account", "e.account = v_number")),
    ("    v_high bigint;\n", "    v_high bigint;\n    v_number bigint;\n"),
    ("SELECT a.version INTO v_high", "SELECT a.version, a.number INTO v_high, v_number"),
)
FUNCTIONS = (
    ENTRIES,
    *map(_by_number, (ledger_batch.TRANSFERS, ledger_batch.OPENED, ledger_batch.MOVED)),
    POST,
    POST_MANY,
    _WRITTEN,
    _BOUND,
    _BALANCE,
)
FUNCTIONS_BEFORE = (
    again(_ENTRIES_BEFORE),
    again(ledger_batch.TRANSFERS),
    again(ledger_batch.OPENED),
    again(ledger_batch.MOVED),
    again(ledger_single.POST),
    again(ledger_batch.POST_MANY),
    again(WRITE),
    again(CLASSIFY_BOUND),
    again(_BALANCE_BEFORE),
)
