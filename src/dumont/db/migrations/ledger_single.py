"""SQL of the plain posting as revision 0025 brings it.

What a posting costs the database is mostly the making ready of expressions, so it asks in few words: an account near a
limit needs the long way, even if it is given money. It does not look for the key: the insert finds one that is taken,
and then all is undone and `ledger_post_batch` says what became of it. The transfer is what the statement itself
inserts, for that is done first. Locks are taken in the sub-transaction that writes, as in a batch.
"""

from dumont.db.migrations.ledger_batch import DEFINER, HELD_NAME
from dumont.db.migrations.ledger_batch import POST as BEFORE

POST = f"""
CREATE OR REPLACE FUNCTION ledger_post(
    p_team text, p_id uuid, p_fingerprint bytea, p_kind text, p_date date, p_memo text,
    p_first text, p_amount bigint, p_second text)
RETURNS jsonb LANGUAGE plpgsql {DEFINER} AS $$
DECLARE
    v_rows tid[];
    v_currency text;
    v_one bigint;
    v_two bigint;
    v_seqs bigint[];
    v_at timestamptz;
    v_broken text;
BEGIN
    IF current_setting('dumont.team_id', true) NOT IN ('', p_team) THEN
        RAISE EXCEPTION 'a session of one team does not post for another' USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF p_first < p_second THEN
        BEGIN
            SELECT ARRAY[a.ctid, b.ctid], a.currency, a.balance + p_amount, b.balance - p_amount,
                   ARRAY[a.version + 1, b.version + 1], greatest(a.moved_at, b.moved_at)
              INTO v_rows, v_currency, v_one, v_two, v_seqs, v_at
              FROM ledger_account a, ledger_account b
             WHERE a.id = p_first AND a.team_id = p_team AND a.closed_at IS NULL
               AND b.id = p_second AND b.team_id = p_team AND b.closed_at IS NULL AND b.currency = a.currency
               AND a.balance - a.held + p_amount >= greatest(a.floor, -1000000000000000000)
               AND b.balance - b.held - p_amount >= greatest(b.floor, -1000000000000000000)
               AND greatest(a.balance, b.balance) <= 999000000000000000 FOR NO KEY UPDATE;
            IF FOUND THEN
                v_at := greatest(v_at, clock_timestamp());
                WITH a AS (
                    UPDATE ledger_account u SET balance = CASE u.id WHEN p_first THEN v_one ELSE v_two END,
                           version = u.version + 1, moved_at = v_at
                     WHERE u.ctid = ANY (v_rows)),
                e AS (
                    INSERT INTO ledger_entry (account_id, seq, team_id, transfer_id, amount, balance_after, created_at)
                    VALUES (p_first, v_seqs[1], p_team, p_id, p_amount, v_one, v_at),
                           (p_second, v_seqs[2], p_team, p_id, -p_amount, v_two, v_at))
                INSERT INTO ledger_transfer (id, team_id, fingerprint, kind, currency, accounts, seqs, date, memo,
                                             created_at)
                VALUES (p_id, p_team, p_fingerprint, p_kind, v_currency, ARRAY[p_first, p_second], v_seqs, p_date,
                        p_memo, v_at);
                RETURN NULL;
            END IF;
        EXCEPTION WHEN unique_violation THEN
            -- The key was used before: it must be told what became of it.
            GET STACKED DIAGNOSTICS v_broken = CONSTRAINT_NAME;
            IF v_broken <> 'pk_ledger_transfer' THEN
                RAISE;
            END IF;
        END;
    END IF;
    RETURN (SELECT jsonb_build_object('outcome', b.outcome, 'code', b.code, 'detail', b.detail)
      FROM ledger_post_batch(ARRAY[p_team], ARRAY[p_id], ARRAY[p_fingerprint], ARRAY[p_kind], ARRAY[p_date],
               ARRAY[p_memo], NULL, NULL, ARRAY[1, 1], ARRAY[p_first, p_second], ARRAY[p_amount, -p_amount]) b);
END
$$
"""

_HELD = f"""
DROP TRIGGER ledger_account_held ON ledger_account;
CREATE TRIGGER ledger_account_held AFTER UPDATE{{}} ON ledger_account FOR EACH ROW{{}} EXECUTE FUNCTION {HELD_NAME}
"""
HELD = _HELD.format(" OF held", "")
"""A condition of a trigger is read anew by each statement; which columns a statement names is known at once."""
HELD_BEFORE = _HELD.format("", "\n    WHEN (OLD.held IS DISTINCT FROM NEW.held)")

__all__ = ["BEFORE", "HELD", "HELD_BEFORE", "POST"]
