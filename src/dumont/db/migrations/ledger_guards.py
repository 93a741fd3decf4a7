"""SQL of the triggers by which the database itself proves every write to the ledger, whoever writes.

The postings' functions write accounts, transfer and entries in one statement, so each trigger sees all of it. A
sub-query for one row by its key stays an index look-up in whatever plan the session keeps.
"""

_PROOF = """
CREATE FUNCTION {name} RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_wrong {kind};
BEGIN
{query};
    IF v_wrong IS NOT NULL THEN
        RAISE EXCEPTION '{says}', v_wrong
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END
$$
"""
"""A guard of a statement: `query` finds the first row that is wrong, and `says` what is wrong with it."""


def _proof(name: str, kind: str, says: str, query: str) -> dict[str, str]:
    return {name: _PROOF.format(name=name, kind=kind, says=says, query=query)}


GUARDS = {
    "ledger_refuse()": """
CREATE FUNCTION ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger keeps what it has: no % on %', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END
$$
""",
    **_proof(
        "ledger_guard_transfers()",
        "uuid",
        "the entries of transfer % are not all there, or do not sum to zero",
        """    SELECT t.id INTO v_wrong FROM fresh t
     WHERE cardinality(t.seqs) <> cardinality(t.accounts) OR length(t.memo) > 500 OR length(t.kind) NOT BETWEEN 1 AND 32
        OR t.date NOT BETWEEN '1900-01-01' AND '2199-12-31'
        OR CASE WHEN t.refusal IS NOT NULL THEN cardinality(t.accounts) <> 0
           WHEN cardinality(t.accounts) NOT BETWEEN 2 AND 100 THEN true
           ELSE (SELECT count(e.amount) = cardinality(t.accounts) AND sum(e.amount) = 0 FROM (
                    SELECT (SELECT n.amount FROM public.ledger_entry n
                             WHERE n.account_id = l.account_id AND n.seq = l.seq AND n.transfer_id = t.id) AS amount
                      FROM unnest(t.accounts, t.seqs) AS l(account_id, seq)) e) IS NOT TRUE END LIMIT 1""",
    ),
    **_proof(
        "ledger_guard_entries()",
        "text",
        "an entry of account % does not chain, or is not what its account and transfer say",
        """    SELECT f.account_id INTO v_wrong FROM fresh f
     WHERE (f.amount <> 0 AND f.amount BETWEEN -1000000000000000 AND 1000000000000000
            AND (SELECT t.currency FROM public.ledger_transfer t
                  WHERE t.id = f.transfer_id AND t.team_id = f.team_id
                    AND t.seqs[array_position(t.accounts, f.account_id)] = f.seq)
              = (SELECT a.currency FROM public.ledger_account a
                  WHERE a.id = f.account_id AND a.team_id = f.team_id AND a.closed_at IS NULL
                    AND (a.version > f.seq OR a.version = f.seq AND a.balance = f.balance_after))
            AND CASE f.seq WHEN 1 THEN f.balance_after = f.amount
                ELSE (SELECT e.balance_after + f.amount = f.balance_after AND e.created_at <= f.created_at
                        FROM public.ledger_entry e WHERE e.account_id = f.account_id AND e.seq = f.seq - 1) END
           ) IS NOT TRUE LIMIT 1""",
    ),
    **_proof(
        "ledger_guard_accounts()",
        "text",
        "account % would have a balance without an entry, or hold what no hold says",
        """    SELECT f.id INTO v_wrong FROM fresh f
     WHERE f.balance IS DISTINCT FROM CASE f.version WHEN 0 THEN 0 ELSE
               (SELECT e.balance_after FROM public.ledger_entry e WHERE e.account_id = f.id AND e.seq = f.version) END
        OR (SELECT true FROM public.ledger_entry e WHERE e.account_id = f.id AND e.seq = f.version + 1)
        OR f.closed_at IS NOT NULL AND (f.balance <> 0 OR f.held <> 0)
        OR f.held <> coalesce((SELECT sum(h.amount) FROM public.ledger_hold h
                                WHERE h.account_id = f.id AND h.status = 'open'), 0) LIMIT 1""",
    ),
    "ledger_guard_holds()": """
CREATE FUNCTION ledger_guard_holds() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_id uuid;
BEGIN
    SELECT f.id INTO v_id FROM fresh f
     WHERE (SELECT a.team_id = f.team_id AND a.held = (SELECT coalesce(sum(h.amount), 0) FROM public.ledger_hold h
                    WHERE h.account_id = f.account_id AND h.status = 'open')
              FROM public.ledger_account a WHERE a.id = f.account_id LIMIT 1) IS NOT TRUE
        OR NOT EXISTS (SELECT FROM public.ledger_hold_event v
                        WHERE v.hold_id = f.id AND v.status = f.status AND v.team_id = f.team_id)
        OR f.status = 'settled' AND NOT EXISTS (SELECT FROM public.ledger_transfer t
                        WHERE t.id = f.transfer_id AND t.settles = f.id AND t.refusal IS NULL)
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'hold % and its account or its events do not agree', v_id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END
$$
""",
    "ledger_guard_hold_change()": """
CREATE FUNCTION ledger_guard_hold_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.status <> 'open' OR NEW.status IN ('open', 'refused')
       OR (OLD.id, OLD.team_id, OLD.account_id, OLD.amount, OLD.fingerprint, OLD.created_at)
          IS DISTINCT FROM (NEW.id, NEW.team_id, NEW.account_id, NEW.amount, NEW.fingerprint, NEW.created_at) THEN
        RAISE EXCEPTION 'hold % ends once and stays what it was', OLD.id USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END
$$
""",
}

TRIGGERS = """
CREATE TRIGGER ledger_transfer_whole AFTER INSERT ON ledger_transfer REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_guard_transfers();
CREATE TRIGGER ledger_entry_chain AFTER INSERT ON ledger_entry REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_guard_entries();
CREATE TRIGGER ledger_account_opened AFTER INSERT ON ledger_account REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_guard_accounts();
CREATE TRIGGER ledger_account_moved AFTER UPDATE ON ledger_account REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_guard_accounts();
CREATE TRIGGER ledger_account_fixed BEFORE UPDATE OF id, team_id, currency, created_at ON ledger_account
    FOR EACH ROW EXECUTE FUNCTION ledger_refuse();
CREATE TRIGGER ledger_hold_begun AFTER INSERT ON ledger_hold REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_guard_holds();
CREATE TRIGGER ledger_hold_ended AFTER UPDATE ON ledger_hold REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_guard_holds();
CREATE TRIGGER ledger_hold_once BEFORE UPDATE ON ledger_hold
    FOR EACH ROW EXECUTE FUNCTION ledger_guard_hold_change()
"""
