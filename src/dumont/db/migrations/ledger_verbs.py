"""SQL of the functions that open, change and close accounts, begin and end holds, and read a balance of the past."""

from dumont.db.migrations.ledger_functions import DEFINER

_OWN_TEAM = """
    IF current_setting('dumont.team_id', true) NOT IN ('', p_team) THEN
        RAISE EXCEPTION 'a session of one team does not write for another' USING ERRCODE = 'insufficient_privilege';
    END IF;
"""

VERBS = {
    "ledger_open_account(text, text, text, text, text, bigint, timestamptz)": f"""
CREATE FUNCTION ledger_open_account(p_team text, p_id text, p_type text, p_name text, p_currency text, p_floor bigint,
                                    p_now timestamptz)
RETURNS text LANGUAGE plpgsql {DEFINER} AS $$
DECLARE
    v ledger_account;
BEGIN
    {_OWN_TEAM}
    INSERT INTO ledger_account (id, team_id, type, name, currency, floor, created_at, moved_at)
    VALUES (p_id, p_team, p_type, p_name, p_currency, p_floor, p_now, clock_timestamp()) ON CONFLICT DO NOTHING;
    IF FOUND THEN
        RETURN 'opened';
    END IF;
    SELECT * INTO v FROM ledger_account a WHERE a.id = p_id;
    RETURN CASE WHEN (v.team_id, v.type, v.name, v.currency) = (p_team, p_type, p_name, p_currency) THEN 'replay'
                ELSE 'name-taken' END;
END
$$
""",
    "ledger_change_account(text, text, text, text, bigint, boolean)": f"""
CREATE FUNCTION ledger_change_account(p_team text, p_id text, p_type text, p_name text, p_floor bigint,
                                      p_unfloored boolean)
RETURNS text LANGUAGE plpgsql {DEFINER} AS $$
DECLARE
    v ledger_account;
    v_floor bigint;
BEGIN
    {_OWN_TEAM}
    SELECT * INTO v FROM ledger_account a WHERE a.id = p_id FOR NO KEY UPDATE;
    IF v.id IS NULL OR v.team_id <> p_team THEN
        RETURN 'account-not-found';
    END IF;
    v_floor := CASE WHEN p_unfloored THEN NULL ELSE coalesce(p_floor, v.floor) END;
    RETURN CASE
        WHEN v.closed_at IS NOT NULL THEN 'account-closed'
        WHEN p_type <> v.type AND v.version > 0 THEN 'account-in-use'
        WHEN v.balance - v.held < v_floor THEN 'insufficient'
        ELSE ledger_rename_account(p_id, coalesce(p_type, v.type), coalesce(p_name, v.name), v_floor) END;
END
$$
""",
    "ledger_rename_account(text, text, text, bigint)": """
CREATE FUNCTION ledger_rename_account(p_id text, p_type text, p_name text, p_floor bigint)
RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    UPDATE ledger_account SET type = p_type, name = p_name, floor = p_floor WHERE id = p_id;
    RETURN 'changed';
EXCEPTION WHEN unique_violation THEN
    RETURN 'name-taken';
END
$$
""",
    "ledger_close_account(text, text, timestamptz)": f"""
CREATE FUNCTION ledger_close_account(p_team text, p_id text, p_now timestamptz)
RETURNS text LANGUAGE plpgsql {DEFINER} AS $$
DECLARE
    v ledger_account;
BEGIN
    {_OWN_TEAM}
    SELECT * INTO v FROM ledger_account a WHERE a.id = p_id FOR NO KEY UPDATE;
    IF v.id IS NULL OR v.team_id <> p_team THEN
        RETURN 'account-not-found';
    ELSIF v.closed_at IS NOT NULL THEN
        RETURN 'replay';
    ELSIF v.balance <> 0 OR v.held <> 0 THEN
        RETURN 'account-not-empty';
    END IF;
    UPDATE ledger_account SET closed_at = p_now WHERE id = p_id;
    RETURN 'closed';
END
$$
""",
    "ledger_hold(text, uuid, bytea, text, bigint, text, text, timestamptz)": f"""
CREATE FUNCTION ledger_hold(p_team text, p_id uuid, p_fingerprint bytea, p_account text, p_amount bigint, p_reason text,
                            p_subject text, p_expires timestamptz)
RETURNS TABLE (outcome text, code text, detail jsonb) LANGUAGE plpgsql {DEFINER} AS $$
DECLARE
    v ledger_account;
    v_old ledger_hold;
    v_at timestamptz;
BEGIN
    {_OWN_TEAM}
    SELECT * INTO v FROM ledger_account a WHERE a.id = p_account FOR NO KEY UPDATE;
    SELECT * INTO v_old FROM ledger_hold h WHERE h.id = p_id;
    IF v_old.id IS NOT NULL THEN
        code := CASE WHEN (v_old.fingerprint, v_old.team_id) <> (p_fingerprint, p_team) THEN 'key-reused'
                     WHEN v_old.status = 'refused' THEN 'insufficient' END;
        outcome := CASE WHEN code = 'key-reused' THEN 'bad' ELSE 'replay' END;
        detail := v_old.refusal;
        RETURN NEXT;
        RETURN;
    ELSIF v.id IS NULL OR v.team_id <> p_team OR v.closed_at IS NOT NULL THEN
        outcome := 'bad';
        code := CASE WHEN v.closed_at IS NOT NULL AND v.team_id = p_team THEN 'account-closed'
                     ELSE 'account-not-found' END;
        RETURN NEXT;
        RETURN;
    END IF;
    IF v.balance - v.held - p_amount < v.floor THEN
        code := 'insufficient';
        detail := jsonb_build_object('account_id', p_account, 'type', v.type, 'currency', v.currency,
                                     'needed', p_amount, 'available', v.balance - v.held - v.floor);
    END IF;
    outcome := CASE WHEN code IS NULL THEN 'posted' ELSE 'refused' END;
    v_at := clock_timestamp();
    WITH h AS (
        INSERT INTO ledger_hold (id, team_id, account_id, fingerprint, amount, status, reason, subject, expires_at,
                                 refusal, created_at, ended_at)
        VALUES (p_id, p_team, p_account, p_fingerprint, p_amount,
                CASE WHEN code IS NULL THEN 'open' ELSE 'refused' END, p_reason, p_subject, p_expires,
                detail, v_at, CASE WHEN code IS NOT NULL THEN v_at END)
        ON CONFLICT (id) DO NOTHING RETURNING id, status, amount),
    a AS (
        UPDATE ledger_account u SET held = u.held + h.amount FROM h WHERE u.id = p_account AND h.status = 'open')
    INSERT INTO ledger_hold_event (hold_id, status, team_id, amount, reason, created_at)
    SELECT h.id, h.status, p_team, h.amount, p_reason, v_at FROM h;
    IF NOT FOUND THEN
        outcome := 'bad';
        code := 'key-reused';
        detail := NULL;
    END IF;
    RETURN NEXT;
END
$$
""",
    "ledger_end_holds(text, uuid[], text, text)": """
CREATE FUNCTION ledger_end_holds(p_team text, p_ids uuid[], p_status text, p_reason text)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    v_ended integer;
BEGIN
    PERFORM 1 FROM ledger_account a WHERE a.id IN (SELECT h.account_id FROM ledger_hold h WHERE h.id = ANY (p_ids))
      ORDER BY a.id FOR NO KEY UPDATE;
    PERFORM 1 FROM ledger_hold h WHERE h.id = ANY (p_ids) ORDER BY h.id FOR NO KEY UPDATE;
    WITH h AS (
        UPDATE ledger_hold u SET status = p_status, ended_at = clock_timestamp()
         WHERE u.id = ANY (p_ids) AND u.status = 'open' AND (p_team IS NULL OR u.team_id = p_team)
        RETURNING u.id, u.account_id, u.team_id, u.amount),
    a AS (
        UPDATE ledger_account u SET held = u.held - n.amount
          FROM (SELECT h.account_id, sum(h.amount) AS amount FROM h GROUP BY h.account_id) n
         WHERE u.id = n.account_id)
    INSERT INTO ledger_hold_event (hold_id, status, team_id, amount, reason, created_at)
    SELECT h.id, p_status, h.team_id, h.amount, p_reason, clock_timestamp() FROM h;
    GET DIAGNOSTICS v_ended = ROW_COUNT;
    RETURN v_ended;
END
$$
""",
    "ledger_void(text, uuid, text)": f"""
CREATE FUNCTION ledger_void(p_team text, p_id uuid, p_reason text) RETURNS text LANGUAGE plpgsql {DEFINER} AS $$
DECLARE
    v_status text;
BEGIN
    {_OWN_TEAM}
    IF ledger_end_holds(p_team, ARRAY[p_id], 'voided', p_reason) = 1 THEN
        RETURN 'voided';
    END IF;
    SELECT h.status INTO v_status FROM ledger_hold h WHERE h.id = p_id AND h.team_id = p_team;
    RETURN CASE WHEN v_status IS NULL OR v_status = 'refused' THEN 'hold-not-found'
                WHEN v_status = 'voided' THEN 'replay' ELSE 'hold-ended' END;
END
$$
""",
    "ledger_expire(timestamptz, integer)": f"""
CREATE FUNCTION ledger_expire(p_now timestamptz, p_limit integer) RETURNS integer LANGUAGE plpgsql {DEFINER} AS $$
BEGIN
    RETURN ledger_end_holds(nullif(current_setting('dumont.team_id', true), ''), ARRAY(
        SELECT h.id FROM ledger_hold h WHERE h.status = 'open' AND h.expires_at <= p_now
         ORDER BY h.expires_at LIMIT p_limit), 'expired', NULL);
END
$$
""",
    "ledger_balance_at(text, timestamptz)": """
CREATE FUNCTION ledger_balance_at(p_account text, p_at timestamptz) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_low bigint := 0;
    v_high bigint;
    v_middle bigint;
BEGIN
    SELECT a.version INTO v_high FROM public.ledger_account a WHERE a.id = p_account;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    WHILE v_low < v_high LOOP
        v_middle := (v_low + v_high + 1) / 2;
        IF (SELECT e.created_at FROM public.ledger_entry e WHERE e.account_id = p_account AND e.seq = v_middle) <= p_at
        THEN
            v_low := v_middle;
        ELSE
            v_high := v_middle - 1;
        END IF;
    END LOOP;
    RETURN coalesce((SELECT e.balance_after FROM public.ledger_entry e
                      WHERE e.account_id = p_account AND e.seq = v_low), 0);
END
$$
""",
}

CALLABLE = (
    "ledger_open_account(text, text, text, text, text, bigint, timestamptz)",
    "ledger_change_account(text, text, text, text, bigint, boolean)",
    "ledger_close_account(text, text, timestamptz)",
    "ledger_hold(text, uuid, bytea, text, bigint, text, text, timestamptz)",
    "ledger_void(text, uuid, text)",
    "ledger_expire(timestamptz, integer)",
    "ledger_balance_at(text, timestamptz)",
)
