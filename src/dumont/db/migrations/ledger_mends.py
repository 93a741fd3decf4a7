"""SQL of the ledger's functions as revision 0015 mends them.

A batch decides each item as it would stand alone in its turn, where it takes back or settles what an earlier item of
the batch did; the plain form knows the greatest balance; the end of holds is looked for in the session's team alone.
"""

from dumont.db.migrations.ledger_functions import POST, POST_BATCH
from dumont.db.migrations.ledger_verbs import VERBS
from dumont.db.migrations.rewriting import again

PARTS_NAME = "ledger_parts(uuid[], uuid[], uuid[])"
PARTS = """
CREATE FUNCTION ledger_parts(p_ids uuid[], p_reverses uuid[], p_settles uuid[])
RETURNS TABLE (low integer, high integer) LANGUAGE sql AS $$
    SELECT c.item::integer, (lead(c.item, 1, cardinality(p_ids) + 1::bigint) OVER (ORDER BY c.item) - 1)::integer
      FROM (SELECT i.item, i.item = 1 OR i.reverses = ANY (p_ids)
                   OR i.reverses IS NOT NULL AND row_number() OVER (PARTITION BY i.reverses ORDER BY i.item) > 1
                   OR i.settles IS NOT NULL AND row_number() OVER (PARTITION BY i.settles ORDER BY i.item) > 1 AS begins
              FROM unnest(p_ids, p_reverses, p_settles) WITH ORDINALITY AS i(id, reverses, settles, item)) c
     WHERE c.begins
$$
"""
"""Where a batch is cut, so that no item reverses or settles what another item of the same part posts or ends."""

_CUT = """
    IF (p_reverses IS NOT NULL OR p_settles IS NOT NULL)
       AND (SELECT count(*) FROM ledger_parts(p_ids, p_reverses, p_settles)) > 1 THEN
        PERFORM 1 FROM ledger_account a WHERE a.id = ANY (p_accounts) ORDER BY a.id FOR NO KEY UPDATE;
        PERFORM 1 FROM ledger_hold h WHERE h.id = ANY (p_settles) ORDER BY h.id FOR NO KEY UPDATE;
        FOR v_part IN SELECT * FROM ledger_parts(p_ids, p_reverses, p_settles) ORDER BY 1 LOOP
            RETURN QUERY SELECT b.item + v_part.low - 1, b.outcome, b.code, b.detail
              FROM (SELECT array_agg(u.item - v_part.low + 1 ORDER BY u.leg) AS legs,
                           array_agg(u.account_id ORDER BY u.leg) AS accounts,
                           array_agg(u.amount ORDER BY u.leg) AS amounts
                      FROM unnest(p_legs, p_accounts, p_amounts) WITH ORDINALITY AS u(item, account_id, amount, leg)
                     WHERE u.item BETWEEN v_part.low AND v_part.high) n,
                   LATERAL ledger_post_batch(
                       p_teams[v_part.low:v_part.high], p_ids[v_part.low:v_part.high],
                       p_fingerprints[v_part.low:v_part.high], p_kinds[v_part.low:v_part.high],
                       p_dates[v_part.low:v_part.high], p_memos[v_part.low:v_part.high],
                       p_reverses[v_part.low:v_part.high], p_settles[v_part.low:v_part.high],
                       n.legs, n.accounts, n.amounts) b;
        END LOOP;
        RETURN;
    END IF;
"""
_LOOP = "    FOR v_attempt IN 1 .. 5 LOOP\n"
_DECLARED = "    v_at timestamptz;\n    v_plain"
_FITS = ">= a.floor)\n           AND abs(a.balance {} p_amount) <= 1000000000000000000 FOR NO KEY UPDATE"


EXPIRE_NAME = "ledger_expire(timestamptz, integer)"

BEFORE = {
    "ledger_post": again(POST),
    "ledger_post_batch": again(POST_BATCH),
    "ledger_expire": again(VERBS[EXPIRE_NAME]),
}

MENDED = {
    "ledger_post": again(
        POST,
        ("+ p_amount >= a.floor) FOR NO KEY UPDATE", "+ p_amount " + _FITS.format("+")),
        ("- p_amount >= a.floor) FOR NO KEY UPDATE", "- p_amount " + _FITS.format("-")),
    ),
    "ledger_post_batch": again(POST_BATCH, (_DECLARED, f"    v_part record;\n{_DECLARED}"), (_LOOP, _CUT + _LOOP)),
    "ledger_expire": again(
        VERBS[EXPIRE_NAME],
        (
            "AND h.expires_at <= p_now",
            "AND h.expires_at <= p_now\n           "
            "AND h.team_id = coalesce(nullif(current_setting('dumont.team_id', true), ''), h.team_id)",
        ),
    ),
}
