"""SQL of the posting of many plain transfers as revision 0023 brings it.

A plain transfer moves one amount from one account to another and nothing else. Where all of a batch are plain and
stand, one look decides it, one walk gives each entry its place, and one statement writes it. Where anything else comes
up, `ledger_post_batch` decides item by item. Locks are taken in the sub-transaction that writes: a row that is locked
outside of it and changed within gets two owners, which PostgreSQL must write down for each account. What is locked
stays where it is, so it is changed by its place in the table.
"""

from textwrap import indent

from dumont.db.migrations.ledger_mends import MENDED
from dumont.db.migrations.ledger_speed import FASTER, LEG
from dumont.db.migrations.rewriting import again

DEFINER = "SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp"

POST_MANY_NAME = (
    "ledger_post_many(text[], uuid[], bytea[], text[], date[], text[], text[], integer[], integer[], bigint[])"
)
POST_MANY = f"""
CREATE FUNCTION ledger_post_many(
    p_teams text[], p_ids uuid[], p_fingerprints bytea[], p_kinds text[], p_dates date[], p_memos text[],
    p_accounts text[], p_firsts integer[], p_seconds integer[], p_amounts bigint[])
RETURNS TABLE (item integer, outcome text, code text, detail jsonb) LANGUAGE plpgsql {DEFINER} AS $$
DECLARE
    v_items integer := cardinality(p_ids);
    v_rows tid[];
    v_teams text[];
    v_currencies text[];
    v_least bigint[];
    v_balances bigint[];
    v_versions bigint[];
    v_at timestamptz;
    v_one integer;
    v_two integer;
    v_one_seqs bigint[] := p_amounts;
    v_two_seqs bigint[] := p_amounts;
    v_one_after bigint[] := p_amounts;
    v_two_after bigint[] := p_amounts;
    v_plain boolean;
    v_broken text;
BEGIN
    IF current_setting('dumont.team_id', true) <> ''
       AND EXISTS (SELECT FROM unnest(p_teams) t WHERE t IS DISTINCT FROM current_setting('dumont.team_id', true)) THEN
        RAISE EXCEPTION 'a session of one team does not post for another' USING ERRCODE = 'insufficient_privilege';
    END IF;
    BEGIN
        SELECT array_agg(n.ctid ORDER BY n.place), array_agg(n.team_id ORDER BY n.place),
               array_agg(n.currency ORDER BY n.place), array_agg(n.balance ORDER BY n.place),
               array_agg(n.version ORDER BY n.place),
               array_agg(coalesce(n.floor + n.held, -1000000000000000000) ORDER BY n.place),
               greatest(max(n.moved_at), clock_timestamp())
          INTO v_rows, v_teams, v_currencies, v_balances, v_versions, v_least, v_at
          FROM (SELECT i.place, a.ctid, a.team_id, a.currency, a.balance, a.version, a.floor, a.held, a.moved_at
                  FROM unnest(p_accounts) WITH ORDINALITY AS i(id, place) JOIN ledger_account a ON a.id = i.id
                 WHERE a.closed_at IS NULL ORDER BY a.id FOR NO KEY UPDATE OF a) n;
        v_plain := cardinality(v_balances) = cardinality(p_accounts) AND NOT EXISTS (
            SELECT FROM generate_series(1, v_items) AS i(item)
             WHERE (v_teams[p_firsts[i.item]] = p_teams[i.item] AND v_teams[p_seconds[i.item]] = p_teams[i.item]
                    AND v_currencies[p_firsts[i.item]] = v_currencies[p_seconds[i.item]]) IS NOT TRUE);
        IF v_plain THEN
            FOR v_item IN 1 .. v_items LOOP
                v_one := p_firsts[v_item];
                v_two := p_seconds[v_item];
                v_one_after[v_item] := v_balances[v_one] + p_amounts[v_item];
                v_two_after[v_item] := v_balances[v_two] - p_amounts[v_item];
                v_plain := v_one_after[v_item] BETWEEN v_least[v_one] AND 1000000000000000000
                           AND v_two_after[v_item] BETWEEN v_least[v_two] AND 1000000000000000000;
                EXIT WHEN NOT v_plain;
                v_balances[v_one] := v_one_after[v_item];
                v_balances[v_two] := v_two_after[v_item];
                v_one_seqs[v_item] := v_versions[v_one] + 1;
                v_two_seqs[v_item] := v_versions[v_two] + 1;
                v_versions[v_one] := v_one_seqs[v_item];
                v_versions[v_two] := v_two_seqs[v_item];
            END LOOP;
        END IF;
        IF v_plain THEN
            WITH t AS (
                INSERT INTO ledger_transfer (id, team_id, fingerprint, kind, currency, accounts, seqs, date, memo,
                                             created_at)
                SELECT p_ids[i.item], p_teams[i.item], p_fingerprints[i.item], p_kinds[i.item],
                       v_currencies[p_firsts[i.item]],
                       ARRAY[p_accounts[p_firsts[i.item]], p_accounts[p_seconds[i.item]]],
                       ARRAY[v_one_seqs[i.item], v_two_seqs[i.item]], p_dates[i.item], p_memos[i.item], v_at
                  FROM generate_series(1, v_items) AS i(item) ORDER BY p_ids[i.item]),
            a AS (
                UPDATE ledger_account u
                   SET balance = v_balances[n.place], version = v_versions[n.place], moved_at = v_at
                  FROM unnest(v_rows) WITH ORDINALITY AS n(row, place) WHERE u.ctid = n.row)
            INSERT INTO ledger_entry (account_id, seq, team_id, transfer_id, amount, balance_after, created_at)
            SELECT p_accounts[p_firsts[i.item]], v_one_seqs[i.item], p_teams[i.item], p_ids[i.item],
                   p_amounts[i.item], v_one_after[i.item], v_at FROM generate_series(1, v_items) AS i(item)
             UNION ALL
            SELECT p_accounts[p_seconds[i.item]], v_two_seqs[i.item], p_teams[i.item], p_ids[i.item],
                   -p_amounts[i.item], v_two_after[i.item], v_at FROM generate_series(1, v_items) AS i(item);
            RETURN;
        END IF;
    EXCEPTION WHEN unique_violation THEN
        -- One of the keys was used before: it must be told what became of it.
        GET STACKED DIAGNOSTICS v_broken = CONSTRAINT_NAME;
        IF v_broken <> 'pk_ledger_transfer' THEN
            RAISE;
        END IF;
    END;
    RETURN QUERY SELECT b.item, b.outcome, b.code, b.detail FROM ledger_post_batch(
        p_teams, p_ids, p_fingerprints, p_kinds, p_dates, p_memos, NULL, NULL,
        ARRAY(SELECT (l.leg + 1) / 2 FROM generate_series(1, 2 * v_items) AS l(leg) ORDER BY l.leg),
        ARRAY(SELECT p_accounts[CASE l.leg % 2 WHEN 1 THEN p_firsts[(l.leg + 1) / 2] ELSE p_seconds[l.leg / 2] END]
                FROM generate_series(1, 2 * v_items) AS l(leg) ORDER BY l.leg),
        ARRAY(SELECT CASE l.leg % 2 WHEN 1 THEN p_amounts[(l.leg + 1) / 2] ELSE -p_amounts[l.leg / 2] END
                FROM generate_series(1, 2 * v_items) AS l(leg) ORDER BY l.leg)) b;
END
$$
"""

BEFORE = MENDED["ledger_post_batch"]
_LOOP, _WRITE = "    FOR v_attempt IN 1 .. 5 LOOP\n", "            PERFORM ledger_write"
_HEAD, _REST = BEFORE.split(_LOOP)
_LOCKED, _WRITTEN = _REST.split(f"        BEGIN\n{_WRITE}")
LEAN = f"{_HEAD}{_LOOP}        BEGIN\n{indent(_LOCKED, '    ')}{_WRITE}{_WRITTEN}"
"""The batch that takes its locks in the same sub-transaction that writes."""


_HELD = """
        OR f.held <> coalesce((SELECT sum(h.amount) FROM public.ledger_hold h
                                WHERE h.account_id = f.id AND h.status = 'open'), 0)"""
_NO_ENTRY = "NOT EXISTS (SELECT FROM public.ledger_entry e WHERE e.account_id = f.id)"
_FIRST_ENTRY = "(SELECT e.seq FROM public.ledger_entry e WHERE e.account_id = f.id ORDER BY e.seq LIMIT 1) IS NULL"
_BEGIN = "\nBEGIN\n"
_LOOK = """
BEGIN
    IF NOT EXISTS (SELECT FROM fresh {looked}) THEN
        RETURN NULL;
    END IF;
"""
"""What plain rows pass at a look costs less than all that must be made ready to judge any row."""
_SOUND_PAIR = f"""t WHERE CASE
        WHEN t.refusal IS NULL AND cardinality(t.accounts) = 2 AND cardinality(t.seqs) = 2
             AND coalesce(length(t.memo) <= 500, true) AND length(t.kind) BETWEEN 1 AND 32
             AND t.date BETWEEN '1900-01-01' AND '2199-12-31' THEN
        {LEG.format(1)}
        + {LEG.format(2)} = 0
        ELSE false END IS NOT TRUE"""
_SOUND_HEAD = """f WHERE (f.closed_at IS NULL
        AND (SELECT e.seq = f.version AND e.balance_after = f.balance FROM public.ledger_entry e
              WHERE e.account_id = f.id ORDER BY e.seq DESC LIMIT 1)) IS NOT TRUE"""

TRANSFERS_BEFORE, OPENED_BEFORE = FASTER
TRANSFERS = again(TRANSFERS_BEFORE, (_BEGIN, _LOOK.format(looked=_SOUND_PAIR)))
OPENED = again(OPENED_BEFORE, (_NO_ENTRY, _FIRST_ENTRY))
"""A guard of accounts that are opened: that there is no entry is seen by one look, not by reading all entries."""

MOVED_NAME, HELD_NAME = "ledger_guard_moved()", "ledger_guard_held()"
MOVED = again(OPENED, (_HELD, ""), (_BEGIN, _LOOK.format(looked=_SOUND_HEAD))).replace(
    "CREATE OR REPLACE FUNCTION ledger_guard_accounts()", f"CREATE FUNCTION {MOVED_NAME}"
)
"""The same for accounts that move, but for what they hold."""

HELD = f"""
CREATE FUNCTION {HELD_NAME} RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.held <> coalesce((SELECT sum(h.amount) FROM public.ledger_hold h
                              WHERE h.account_id = NEW.id AND h.status = 'open'), 0) THEN
        RAISE EXCEPTION 'account % would hold what no hold says', NEW.id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END
$$
"""
"""What an account holds is summed where it changes; where holds change their own guard sums it."""

TRIGGERS = """
DROP TRIGGER ledger_account_moved ON ledger_account;
CREATE TRIGGER ledger_account_moved AFTER UPDATE ON ledger_account REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_guard_moved();
CREATE TRIGGER ledger_account_held AFTER UPDATE ON ledger_account FOR EACH ROW
    WHEN (OLD.held IS DISTINCT FROM NEW.held) EXECUTE FUNCTION ledger_guard_held()
"""
TRIGGERS_BEFORE = """
DROP TRIGGER ledger_account_held ON ledger_account;
DROP TRIGGER ledger_account_moved ON ledger_account;
CREATE TRIGGER ledger_account_moved AFTER UPDATE ON ledger_account REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_guard_accounts()
"""

POST_BEFORE = MENDED["ledger_post"]
_FROM, _TO = "        SELECT a.balance + p_amount", "            v_at := greatest"
_UPDATED = "                 WHERE u.id IN (p_first, p_second) AND EXISTS (SELECT FROM t))"
_DECLARED = "    v_one_at timestamptz;\n"
_LOCKED_PAIR = """        SELECT a.ctid, a.balance + p_amount, a.version + 1, a.currency,
               b.ctid, b.balance - p_amount, b.version + 1, greatest(a.moved_at, b.moved_at)
          INTO v_one_row, v_one, v_one_seq, v_currency, v_two_row, v_two, v_two_seq, v_at
          FROM ledger_account a, ledger_account b
         WHERE a.id = p_first AND a.team_id = p_team AND a.closed_at IS NULL
           AND (p_amount > 0 OR a.floor IS NULL OR a.balance - a.held + p_amount >= a.floor)
           AND abs(a.balance + p_amount) <= 1000000000000000000
           AND b.id = p_second AND b.team_id = p_team AND b.closed_at IS NULL AND b.currency = a.currency
           AND (p_amount < 0 OR b.floor IS NULL OR b.balance - b.held - p_amount >= b.floor)
           AND abs(b.balance - p_amount) <= 1000000000000000000 FOR NO KEY UPDATE;
        IF FOUND THEN
"""
_BETWEEN = POST_BEFORE[POST_BEFORE.index(_FROM) : POST_BEFORE.index(_TO)]
POST = again(
    POST_BEFORE,
    (_BETWEEN, _LOCKED_PAIR),
    (_DECLARED, "    v_one_row tid;\n    v_two_row tid;\n"),
    (_UPDATED, "                 WHERE u.ctid IN (v_one_row, v_two_row) AND EXISTS (SELECT FROM t))"),
)
"""Both accounts are locked by one statement, the first of the two first."""
