"""SQL of the functions that post to the ledger: one transfer in its plain form, and a batch in any form.

Both lock the accounts in the order of their ids, then look at the keys, and write accounts, transfers and entries in
one statement. Plans are kept (`force_generic_plan`) and rest on keys, however small the tables were at the time.
"""

DEFINER = (
    "SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET plan_cache_mode = force_generic_plan "
    "SET enable_seqscan = off"
)

POST = f"""
CREATE FUNCTION ledger_post(
    p_team text, p_id uuid, p_fingerprint bytea, p_kind text, p_date date, p_memo text,
    p_first text, p_amount bigint, p_second text)
RETURNS jsonb LANGUAGE plpgsql {DEFINER} AS $$
DECLARE
    v_currency text;
    v_one bigint;
    v_two bigint;
    v_one_seq bigint;
    v_two_seq bigint;
    v_one_at timestamptz;
    v_at timestamptz;
BEGIN
    IF current_setting('dumont.team_id', true) NOT IN ('', p_team) THEN
        RAISE EXCEPTION 'a session of one team does not post for another' USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF p_first < p_second THEN
        SELECT a.balance + p_amount, a.version + 1, a.currency, a.moved_at
          INTO v_one, v_one_seq, v_currency, v_one_at FROM ledger_account a
         WHERE a.id = p_first AND a.team_id = p_team AND a.closed_at IS NULL
           AND (p_amount > 0 OR a.floor IS NULL OR a.balance - a.held + p_amount >= a.floor) FOR NO KEY UPDATE;
        IF FOUND THEN
            SELECT a.balance - p_amount, a.version + 1, greatest(a.moved_at, v_one_at)
              INTO v_two, v_two_seq, v_at FROM ledger_account a
             WHERE a.id = p_second AND a.team_id = p_team AND a.closed_at IS NULL AND a.currency = v_currency
               AND (p_amount < 0 OR a.floor IS NULL OR a.balance - a.held - p_amount >= a.floor) FOR NO KEY UPDATE;
        END IF;
        IF FOUND THEN
            v_at := greatest(v_at, clock_timestamp());
            WITH t AS (
                INSERT INTO ledger_transfer (id, team_id, fingerprint, kind, currency, accounts, seqs, date, memo,
                                             created_at)
                VALUES (p_id, p_team, p_fingerprint, p_kind, v_currency, ARRAY[p_first, p_second],
                        ARRAY[v_one_seq, v_two_seq], p_date, p_memo, v_at)
                ON CONFLICT (id) DO NOTHING RETURNING id),
            a AS (
                UPDATE ledger_account u SET balance = CASE u.id WHEN p_first THEN v_one ELSE v_two END,
                       version = u.version + 1, moved_at = v_at
                 WHERE u.id IN (p_first, p_second) AND EXISTS (SELECT FROM t))
            INSERT INTO ledger_entry (account_id, seq, team_id, transfer_id, amount, balance_after, created_at)
            SELECT n.id, n.seq, p_team, t.id, n.amount, n.after, v_at
              FROM t, (VALUES (p_first, v_one_seq, p_amount, v_one), (p_second, v_two_seq, -p_amount, v_two))
                      AS n(id, seq, amount, after);
            IF FOUND THEN
                RETURN NULL;
            END IF;
        END IF;
    END IF;
    RETURN (SELECT jsonb_build_object('outcome', b.outcome, 'code', b.code, 'detail', b.detail)
      FROM ledger_post_batch(ARRAY[p_team], ARRAY[p_id], ARRAY[p_fingerprint], ARRAY[p_kind], ARRAY[p_date],
               ARRAY[p_memo], NULL, NULL, ARRAY[1, 1], ARRAY[p_first, p_second], ARRAY[p_amount, -p_amount]) b);
END
$$
"""

POST_BATCH = f"""
CREATE FUNCTION ledger_post_batch(
    p_teams text[], p_ids uuid[], p_fingerprints bytea[], p_kinds text[], p_dates date[], p_memos text[],
    p_reverses uuid[], p_settles uuid[], p_legs integer[], p_accounts text[], p_amounts bigint[])
RETURNS TABLE (item integer, outcome text, code text, detail jsonb) LANGUAGE plpgsql {DEFINER}
SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    v_codes text[];
    v_details jsonb[];
    v_currencies text[];
    v_seqs bigint[];
    v_after bigint[];
    v_freed bigint[];
    v_short boolean;
    v_at timestamptz;
    v_plain boolean := p_settles IS NULL OR NOT EXISTS (SELECT FROM unnest(p_settles) s WHERE s IS NOT NULL);
BEGIN
    IF current_setting('dumont.team_id', true) <> ''
       AND EXISTS (SELECT FROM unnest(p_teams) t WHERE t IS DISTINCT FROM current_setting('dumont.team_id', true)) THEN
        RAISE EXCEPTION 'a session of one team does not post for another' USING ERRCODE = 'insufficient_privilege';
    END IF;
    FOR v_attempt IN 1 .. 5 LOOP
        PERFORM 1 FROM ledger_account a WHERE a.id = ANY (p_accounts) ORDER BY a.id FOR NO KEY UPDATE;
        IF NOT v_plain THEN
            PERFORM 1 FROM ledger_hold h WHERE h.id = ANY (p_settles) ORDER BY h.id FOR NO KEY UPDATE;
        END IF;
        SELECT c.codes, c.details, c.currencies, c.freed INTO v_codes, v_details, v_currencies, v_freed
          FROM ledger_classify(p_teams, p_ids, p_fingerprints, p_reverses, p_settles, p_legs, p_accounts, p_amounts) c;
        SELECT r.seqs, r.after, r.short INTO v_seqs, v_after, v_short
          FROM ledger_run(v_codes, v_freed, p_legs, p_accounts, p_amounts) r;
        IF v_short THEN
            SELECT s.codes, s.details INTO v_codes, v_details
              FROM ledger_refuse_short(v_codes, v_details, v_freed, p_legs, p_accounts, p_amounts) s;
            SELECT r.seqs, r.after INTO v_seqs, v_after
              FROM ledger_run(v_codes, v_freed, p_legs, p_accounts, p_amounts) r;
        END IF;
        SELECT greatest(max(a.moved_at), clock_timestamp()) INTO v_at
          FROM ledger_account a WHERE a.id = ANY (p_accounts);
        BEGIN
            PERFORM ledger_write(p_teams, p_ids, p_fingerprints, p_kinds, p_dates, p_memos, p_reverses, p_settles,
                                 p_legs, p_accounts, p_amounts, v_codes, v_details, v_currencies, v_seqs, v_after,
                                 v_freed, v_at);
            EXIT;
        EXCEPTION WHEN unique_violation THEN
            -- Another one took one of the keys, with other accounts, and has committed: look again.
            IF v_attempt = 5 THEN
                RAISE;
            END IF;
        END;
    END LOOP;
    RETURN QUERY SELECT i.item::integer, CASE
               WHEN i.code IN ('replay', 'replay-refused') THEN 'replay'
               WHEN i.code = 'insufficient' THEN 'refused'
               ELSE 'bad' END,
           CASE i.code WHEN 'replay' THEN NULL WHEN 'replay-refused' THEN 'insufficient' ELSE i.code END, i.detail
      FROM unnest(v_codes, v_details) WITH ORDINALITY AS i(code, detail, item)
     WHERE i.code IS NOT NULL ORDER BY i.item;
END
$$
"""

CLASSIFY = """
CREATE FUNCTION ledger_classify(
    p_teams text[], p_ids uuid[], p_fingerprints bytea[], p_reverses uuid[], p_settles uuid[],
    p_legs integer[], p_accounts text[], p_amounts bigint[],
    OUT codes text[], OUT details jsonb[], OUT currencies text[], OUT freed bigint[]) LANGUAGE plpgsql AS $$
DECLARE
    v_items integer[];
BEGIN
    SELECT array_agg(l.item ORDER BY l.item), array_agg(l.code ORDER BY l.item), array_agg(l.currency ORDER BY l.item)
      INTO v_items, codes, currencies FROM (
        SELECT u.item, min(a.currency) AS currency, CASE
                 WHEN count(*) NOT BETWEEN 2 AND 100 THEN 'bad-legs'
                 WHEN NOT bool_and(u.amount <> 0 AND u.amount BETWEEN -1000000000000000 AND 1000000000000000)
                      THEN 'bad-amount'
                 WHEN sum(u.amount) <> 0 THEN 'unbalanced'
                 WHEN bool_and(a.team_id = p_teams[u.item]) IS NOT TRUE OR count(a.id) < count(*)
                      THEN 'account-not-found'
                 WHEN min(a.currency) <> max(a.currency) THEN 'currency-mismatch'
                 WHEN count(a.closed_at) > 0 THEN 'account-closed' END AS code
          FROM unnest(p_legs, p_accounts, p_amounts) AS u(item, account_id, amount)
          LEFT JOIN ledger_account a ON a.id = u.account_id GROUP BY u.item) l;
    IF cardinality(v_items) IS DISTINCT FROM cardinality(p_ids)
       OR v_items[cardinality(p_ids)] <> cardinality(p_ids) THEN
        RAISE EXCEPTION 'each item has legs, and is one of the items' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT array_agg(CASE
                 WHEN t.id IS NULL THEN i.code
                 WHEN (t.fingerprint, t.team_id) <> (i.fingerprint, i.team) THEN 'key-reused'
                 WHEN t.refusal IS NOT NULL THEN 'replay-refused' ELSE 'replay' END ORDER BY i.item),
           array_agg(t.refusal ORDER BY i.item) INTO codes, details
      FROM unnest(p_ids, p_teams, p_fingerprints, codes) WITH ORDINALITY AS i(id, team, fingerprint, code, item)
      LEFT JOIN ledger_transfer t ON t.id = i.id;
    IF p_reverses IS NOT NULL OR p_settles IS NOT NULL THEN
        SELECT c.codes, c.freed INTO codes, freed
          FROM ledger_classify_bound(codes, p_teams, p_reverses, p_settles, p_legs, p_accounts, p_amounts) c;
    END IF;
END
$$
"""

CLASSIFY_BOUND = """
CREATE FUNCTION ledger_classify_bound(
    p_codes text[], p_teams text[], p_reverses uuid[], p_settles uuid[],
    p_legs integer[], p_accounts text[], p_amounts bigint[],
    OUT codes text[], OUT freed bigint[]) LANGUAGE sql AS $$
    WITH i AS (
        SELECT n.item::integer AS item, n.code, n.team, n.reverses, n.settles,
               row_number() OVER (PARTITION BY n.reverses, n.code IS NULL ORDER BY n.item) AS reversal,
               row_number() OVER (PARTITION BY n.settles, n.code IS NULL ORDER BY n.item) AS settlement
          FROM unnest(p_codes, p_teams, p_reverses, p_settles) WITH ORDINALITY
               AS n(code, team, reverses, settles, item)),
    b AS (
        SELECT i.item, i.settles, h.account_id, h.amount, CASE
                 WHEN i.code IS NOT NULL THEN i.code
                 WHEN i.reverses IS NOT NULL AND t.id IS NULL THEN 'transfer-not-found'
                 WHEN i.reverses IS NOT NULL AND (i.reversal > 1 OR EXISTS (SELECT FROM ledger_transfer r
                      WHERE r.reverses = i.reverses AND r.refusal IS NULL)) THEN 'already-reversed'
                 WHEN i.reverses IS NOT NULL AND EXISTS (
                      (SELECT e.account_id, -e.amount FROM unnest(t.accounts, t.seqs) AS x(account_id, seq)
                         JOIN ledger_entry e ON e.account_id = x.account_id AND e.seq = x.seq
                       EXCEPT SELECT u.account_id, u.amount
                         FROM unnest(p_legs, p_accounts, p_amounts) AS u(item, account_id, amount)
                        WHERE u.item = i.item)
                      UNION ALL
                      (SELECT u.account_id, u.amount
                         FROM unnest(p_legs, p_accounts, p_amounts) AS u(item, account_id, amount)
                        WHERE u.item = i.item
                       EXCEPT SELECT e.account_id, -e.amount FROM unnest(t.accounts, t.seqs) AS x(account_id, seq)
                         JOIN ledger_entry e ON e.account_id = x.account_id AND e.seq = x.seq))
                      THEN 'reversal-differs'
                 WHEN i.settles IS NOT NULL AND h.id IS NULL THEN 'hold-not-found'
                 WHEN i.settles IS NOT NULL AND (h.status <> 'open' OR i.settlement > 1) THEN 'hold-ended'
                 WHEN i.settles IS NOT NULL AND NOT EXISTS (
                      SELECT FROM unnest(p_legs, p_accounts, p_amounts) AS u(item, account_id, amount)
                       WHERE u.item = i.item AND u.account_id = h.account_id AND -u.amount BETWEEN 1 AND h.amount)
                      THEN 'hold-exceeded'
                 END AS code
          FROM i
          LEFT JOIN ledger_transfer t ON t.id = i.reverses AND t.team_id = i.team AND t.refusal IS NULL
          LEFT JOIN ledger_hold h ON h.id = i.settles AND h.team_id = i.team AND h.status <> 'refused')
    SELECT (SELECT array_agg(b.code ORDER BY b.item) FROM b),
           (SELECT array_agg(CASE WHEN b.code IS NULL AND b.account_id = u.account_id THEN b.amount ELSE 0 END
                             ORDER BY u.leg)
              FROM unnest(p_legs, p_accounts) WITH ORDINALITY AS u(item, account_id, leg) JOIN b ON b.item = u.item)
$$
"""

RUN = """
CREATE FUNCTION ledger_run(
    p_codes text[], p_freed bigint[], p_legs integer[], p_accounts text[], p_amounts bigint[],
    OUT seqs bigint[], OUT after bigint[], OUT short boolean) LANGUAGE plpgsql AS $$
BEGIN
    SELECT array_agg(r.seq ORDER BY r.leg), array_agg(r.after ORDER BY r.leg),
           bool_or(r.amount < 0 AND r.after - r.held < r.floor
                   OR r.after NOT BETWEEN -1000000000000000000 AND 1000000000000000000)
      INTO seqs, after, short
      FROM (SELECT u.leg, u.amount, a.floor,
                   CASE WHEN u.goes THEN a.version + sum(u.goes::integer) OVER w END AS seq,
                   CASE WHEN u.goes THEN a.balance + sum(u.amount) FILTER (WHERE u.goes) OVER w END AS after,
                   a.held - coalesce(sum(u.freed) FILTER (WHERE u.goes) OVER w, 0) AS held
              FROM (SELECT n.*, p_codes[n.item] IS NULL AS goes
                      FROM unnest(p_legs, p_accounts, p_amounts, p_freed) WITH ORDINALITY
                           AS n(item, account_id, amount, freed, leg)) u
              LEFT JOIN ledger_account a ON a.id = u.account_id
            WINDOW w AS (PARTITION BY u.account_id ORDER BY u.leg)) r;
END
$$
"""

REFUSE_SHORT = """
CREATE FUNCTION ledger_refuse_short(
    p_codes text[], p_details jsonb[], p_freed bigint[], p_legs integer[], p_accounts text[], p_amounts bigint[],
    OUT codes text[], OUT details jsonb[]) LANGUAGE plpgsql AS $$
DECLARE
    v_places integer[];
    v_balance bigint[];
    v_held bigint[];
    v_floor bigint[];
    v_types text[];
    v_currencies text[];
    v_leg integer := 1;
    v_first integer;
    v_place integer;
    v_legs integer := cardinality(p_legs);
    v_item integer;
    v_code text;
BEGIN
    codes := p_codes;
    details := p_details;
    SELECT array_agg(a.balance ORDER BY a.id), array_agg(a.held ORDER BY a.id), array_agg(a.floor ORDER BY a.id),
           array_agg(a.type ORDER BY a.id), array_agg(a.currency ORDER BY a.id)
      INTO v_balance, v_held, v_floor, v_types, v_currencies FROM ledger_account a WHERE a.id = ANY (p_accounts);
    SELECT array_agg(u.place ORDER BY u.leg) INTO v_places FROM (
        SELECT n.leg, CASE WHEN a.id IS NOT NULL THEN dense_rank() OVER (ORDER BY a.id NULLS LAST) END AS place
          FROM unnest(p_accounts) WITH ORDINALITY AS n(account_id, leg)
          LEFT JOIN ledger_account a ON a.id = n.account_id) u;
    WHILE v_leg <= v_legs LOOP
        v_item := p_legs[v_leg];
        v_first := v_leg;
        v_code := codes[v_item];
        IF v_code IS NULL THEN
            FOR v_at IN v_first .. v_legs LOOP
                EXIT WHEN p_legs[v_at] <> v_item;
                v_place := v_places[v_at];
                IF v_balance[v_place] + p_amounts[v_at] NOT BETWEEN -1000000000000000000 AND 1000000000000000000 THEN
                    v_code := 'balance-out-of-range';
                ELSIF p_amounts[v_at] < 0 AND v_balance[v_place] + p_amounts[v_at] - v_held[v_place]
                      + coalesce(p_freed[v_at], 0) < v_floor[v_place] THEN
                    v_code := 'insufficient';
                    details[v_item] := jsonb_build_object('account_id', p_accounts[v_at], 'type', v_types[v_place],
                        'currency', v_currencies[v_place], 'needed', -p_amounts[v_at],
                        'available', v_balance[v_place] - v_held[v_place] + coalesce(p_freed[v_at], 0)
                                     - v_floor[v_place]);
                END IF;
                EXIT WHEN v_code IS NOT NULL;
            END LOOP;
            codes[v_item] := v_code;
        END IF;
        WHILE v_leg <= v_legs AND p_legs[v_leg] = v_item LOOP
            IF v_code IS NULL THEN
                v_place := v_places[v_leg];
                v_balance[v_place] := v_balance[v_place] + p_amounts[v_leg];
                v_held[v_place] := v_held[v_place] - coalesce(p_freed[v_leg], 0);
            END IF;
            v_leg := v_leg + 1;
        END LOOP;
    END LOOP;
END
$$
"""

WRITE = """
CREATE FUNCTION ledger_write(
    p_teams text[], p_ids uuid[], p_fingerprints bytea[], p_kinds text[], p_dates date[], p_memos text[],
    p_reverses uuid[], p_settles uuid[], p_legs integer[], p_accounts text[], p_amounts bigint[],
    p_codes text[], p_details jsonb[], p_currencies text[], p_seqs bigint[], p_after bigint[], p_freed bigint[],
    p_at timestamptz)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    WITH l AS MATERIALIZED (
        SELECT n.* FROM unnest(p_legs, p_accounts, p_amounts, p_seqs, p_after, p_freed)
               AS n(item, account_id, amount, seq, after, freed) WHERE n.seq IS NOT NULL),
    t AS (
        INSERT INTO ledger_transfer (id, team_id, fingerprint, kind, currency, accounts, seqs, date, memo, reverses,
                                     settles, refusal, created_at)
        SELECT p_ids[i.item], p_teams[i.item], p_fingerprints[i.item], p_kinds[i.item], p_currencies[i.item],
               i.accounts, i.seqs, p_dates[i.item], p_memos[i.item], p_reverses[i.item], p_settles[i.item],
               i.refusal, p_at
          FROM (SELECT l.item, array_agg(l.account_id) AS accounts, array_agg(l.seq) AS seqs, NULL::jsonb AS refusal
                  FROM l GROUP BY l.item
                 UNION ALL
                SELECT c.item::integer, '{}', '{}', p_details[c.item]
                  FROM unnest(p_codes) WITH ORDINALITY AS c(code, item) WHERE c.code = 'insufficient') i
         ORDER BY p_ids[i.item]),
    a AS (
        UPDATE ledger_account u SET balance = n.after, version = n.seq, held = u.held - n.freed, moved_at = p_at
          FROM (SELECT l.account_id, max(l.seq) AS seq, coalesce(sum(l.freed), 0) AS freed,
                       (array_agg(l.after ORDER BY l.seq DESC))[1] AS after FROM l GROUP BY l.account_id) n
         WHERE u.id = n.account_id),
    s AS (
        SELECT p_ids[l.item] AS id, p_settles[l.item] AS settles, p_teams[l.item] AS team, -l.amount AS amount
          FROM l WHERE l.freed > 0),
    h AS (
        UPDATE ledger_hold u SET status = 'settled', settled_amount = s.amount, transfer_id = s.id, ended_at = p_at
          FROM s WHERE u.id = s.settles),
    v AS (
        INSERT INTO ledger_hold_event (hold_id, status, team_id, amount, created_at)
        SELECT s.settles, 'settled', s.team, s.amount, p_at FROM s)
    INSERT INTO ledger_entry (account_id, seq, team_id, transfer_id, amount, balance_after, created_at)
    SELECT l.account_id, l.seq, p_teams[l.item], p_ids[l.item], l.amount, l.after, p_at
      FROM l ORDER BY l.account_id, l.seq;
END
$$
"""

BUSY = f"""
CREATE FUNCTION ledger_busy(p_accounts text[]) RETURNS SETOF text LANGUAGE sql {DEFINER} AS $$
    SELECT a.id FROM ledger_account a WHERE a.id = ANY (p_accounts) EXCEPT
    SELECT f.id FROM (SELECT l.id FROM ledger_account l WHERE l.id = ANY (p_accounts) ORDER BY l.id
                      FOR NO KEY UPDATE SKIP LOCKED) f
$$
"""

_ITEMS = "text[], uuid[], bytea[], text[], date[], text[], uuid[], uuid[], integer[], text[], bigint[]"

POSTING = {
    "ledger_classify_bound(text[], text[], uuid[], uuid[], integer[], text[], bigint[])": CLASSIFY_BOUND,
    "ledger_classify(text[], uuid[], bytea[], uuid[], uuid[], integer[], text[], bigint[])": CLASSIFY,
    "ledger_run(text[], bigint[], integer[], text[], bigint[])": RUN,
    "ledger_refuse_short(text[], jsonb[], bigint[], integer[], text[], bigint[])": REFUSE_SHORT,
    f"ledger_write({_ITEMS}, text[], jsonb[], text[], bigint[], bigint[], bigint[], timestamptz)": WRITE,
    "ledger_busy(text[])": BUSY,
    f"ledger_post_batch({_ITEMS})": POST_BATCH,
    "ledger_post(text, uuid, bytea, text, date, text, text, bigint, text)": POST,
}

POSTING_CALLABLE = (
    "ledger_busy(text[])",
    f"ledger_post_batch({_ITEMS})",
    "ledger_post(text, uuid, bytea, text, date, text, text, bigint, text)",
)
