"""The audit: everything that must hold in the ledger, proved anew from its rows, by nothing that wrote them."""

from dataclasses import dataclass

import psycopg

from dumont.db import KEEPALIVE, psycopg_url, translated

SHOWN = 5
"""How many offenders of one check are named."""

_COUNTS = """
SELECT (SELECT count(*) FROM ledger_account), (SELECT count(*) FROM ledger_transfer WHERE refusal IS NULL),
       (SELECT count(*) FROM ledger_transfer WHERE refusal IS NOT NULL), (SELECT count(*) FROM ledger_entry),
       (SELECT count(*) FROM ledger_hold)
"""
CHECKS = {
    "trial-balance": """
SELECT a.team_id || ' ' || a.currency || ' ' || sum(a.balance) FROM ledger_account a
 GROUP BY a.team_id, a.currency HAVING sum(a.balance) <> 0""",
    "balances": """
SELECT a.id FROM ledger_account a
  LEFT JOIN (SELECT account, sum(amount) AS total FROM ledger_entry GROUP BY account) e ON e.account = a.number
 WHERE a.balance <> coalesce(e.total, 0)""",
    "heads": """
SELECT coalesce(a.id, 'number ' || e.account) FROM ledger_account a
  FULL JOIN (SELECT DISTINCT ON (account) account, seq, balance_after FROM ledger_entry
              ORDER BY account, seq DESC) e ON e.account = a.number
 WHERE a.id IS NULL OR a.version <> coalesce(e.seq, 0) OR a.balance <> coalesce(e.balance_after, 0)""",
    "chains": """
SELECT coalesce((SELECT n.id FROM ledger_account n WHERE n.number = account), 'number ' || account) || '#' || seq FROM (
    SELECT account, seq, amount, balance_after, created_at, lag(balance_after) OVER w AS last_balance,
           lag(seq) OVER w AS last_seq, lag(created_at) OVER w AS last_at
      FROM ledger_entry WINDOW w AS (PARTITION BY account ORDER BY seq)) e
 WHERE seq <> coalesce(last_seq, 0) + 1 OR balance_after <> coalesce(last_balance, 0) + amount
    OR created_at < last_at OR amount = 0""",
    "transfers": """
SELECT coalesce(t.id, e.transfer_id)::text FROM ledger_transfer t
  FULL JOIN (SELECT transfer_id, sum(amount) AS total, count(*) AS legs, min(team_id) AS low, max(team_id) AS high,
                    array_agg(account || '#' || seq ORDER BY account, seq) AS places
               FROM ledger_entry GROUP BY transfer_id) e ON e.transfer_id = t.id
 WHERE t.id IS NULL
    OR t.refusal IS NULL AND (e.transfer_id IS NULL OR e.total <> 0 OR e.legs < 2 OR e.low <> t.team_id
       OR e.high <> t.team_id OR e.places <> ARRAY(SELECT l.account || '#' || l.seq
            FROM unnest(t.accounts, t.seqs) AS l(account, seq) ORDER BY l.account, l.seq))
    OR t.refusal IS NOT NULL AND e.transfer_id IS NOT NULL""",
    "teams-and-currencies": """
SELECT a.id || '#' || e.seq FROM ledger_entry e JOIN ledger_account a ON a.number = e.account
  JOIN ledger_transfer t ON t.id = e.transfer_id
 WHERE a.team_id <> e.team_id OR a.team_id <> t.team_id OR a.currency <> t.currency""",
    "floors": """
SELECT a.id FROM ledger_account a WHERE a.balance - a.held < a.floor OR a.held < 0
    OR a.closed_at IS NOT NULL AND (a.balance <> 0 OR a.held <> 0)""",
    "reversals": """
SELECT r.id::text FROM ledger_transfer r LEFT JOIN ledger_transfer t ON t.id = r.reverses
 WHERE r.reverses IS NOT NULL AND r.refusal IS NULL AND (t.id IS NULL OR t.team_id <> r.team_id OR EXISTS (
       SELECT FROM (SELECT account, amount FROM ledger_entry WHERE transfer_id = r.id) b
         FULL JOIN (SELECT account, amount FROM ledger_entry WHERE transfer_id = t.id) f USING (account)
        WHERE b.amount IS DISTINCT FROM -f.amount))
 UNION ALL
SELECT min(id::text) FROM ledger_transfer WHERE reverses IS NOT NULL AND refusal IS NULL
 GROUP BY reverses HAVING count(*) > 1""",
    "holds": """
SELECT a.id FROM ledger_account a
  LEFT JOIN (SELECT account_id, sum(amount) AS total FROM ledger_hold WHERE status = 'open' GROUP BY account_id) h
       ON h.account_id = a.id
 WHERE a.held <> coalesce(h.total, 0)
 UNION ALL
SELECT h.id::text FROM ledger_hold h JOIN ledger_account a ON a.id = h.account_id WHERE a.team_id <> h.team_id""",
    "hold-events": """
SELECT h.id::text FROM ledger_hold h
  LEFT JOIN ledger_transfer t ON t.id = h.transfer_id
  LEFT JOIN ledger_account_entry e ON e.transfer_id = h.transfer_id AND e.account_id = h.account_id
 WHERE (SELECT string_agg(v.status, ' ' ORDER BY v.status = 'open' DESC) FROM ledger_hold_event v
         WHERE v.hold_id = h.id)
       IS DISTINCT FROM CASE WHEN h.status IN ('open', 'refused') THEN h.status ELSE 'open ' || h.status END
    OR h.status = 'settled' AND (t.settles IS DISTINCT FROM h.id OR e.amount IS DISTINCT FROM -h.settled_amount)""",
    "guards": """
SELECT w.name FROM unnest(%(guards)s::text[]) AS w(name)
 WHERE NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgname = w.name AND g.tgenabled = 'O')
   AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conname = w.name AND c.convalidated)
   AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indexrelid = to_regclass(w.name) AND i.indisunique AND i.indisvalid)
 UNION ALL
SELECT r.rolname || ' may write ' || c.relname FROM pg_class c, pg_roles r
 WHERE c.relname LIKE 'ledger\\_%%' AND c.relkind = 'r' AND r.rolname IN ('dumont_app', 'dumont_worker')
   AND (has_table_privilege(r.oid, c.oid, 'INSERT') OR has_table_privilege(r.oid, c.oid, 'UPDATE')
        OR has_table_privilege(r.oid, c.oid, 'DELETE') OR has_table_privilege(r.oid, c.oid, 'TRUNCATE'))""",
}
CLEARING = """
SELECT a.id || ' ' || a.balance FROM ledger_account a WHERE a.type = 'clearing' AND a.balance <> 0
   AND NOT EXISTS (SELECT FROM ledger_entry e WHERE e.account = a.number AND e.seq = a.version
                      AND e.created_at > clock_timestamp() - %(quiet)s * interval '1 second')
"""
"""Clearing accounts return to zero; one that moved a moment ago may be on its way."""

GUARDS = (
    "ledger_transfer_whole",
    "ledger_entry_chain",
    "ledger_account_opened",
    "ledger_account_moved",
    "ledger_account_held",
    "ledger_account_fixed",
    "ledger_hold_begun",
    "ledger_hold_ended",
    "ledger_hold_once",
    "ledger_account_keeps",
    "ledger_transfer_keeps",
    "ledger_entry_keeps",
    "ledger_hold_keeps",
    "ledger_hold_event_keeps",
    "ledger_account_whole_table",
    "ledger_transfer_whole_table",
    "ledger_entry_whole_table",
    "ledger_hold_whole_table",
    "ledger_hold_event_whole_table",
    "pk_ledger_account",
    "uq_ledger_account_number",
    "pk_ledger_transfer",
    "pk_ledger_entry",
    "pk_ledger_hold",
    "pk_ledger_hold_event",
    "ck_ledger_account_floor",
    "ck_ledger_held",
    "uq_ledger_transfer_reverses",
)
"""What must be in place for the database to refuse what does not add up."""


@dataclass(frozen=True)
class Check:
    """One rule: how many break it, and who the first of them are."""

    name: str
    broken: int
    first: list[str]


@dataclass(frozen=True)
class Audit:
    """What an audit found in one moment of the ledger."""

    accounts: int
    transfers: int
    refusals: int
    entries: int
    holds: int
    checks: list[Check]

    @property
    def sound(self) -> bool:
        """Whether every rule holds."""
        return not any(check.broken for check in self.checks)


def audit(owner_url: str, *, clearing_quiet_seconds: float = 300.0) -> Audit:
    """Prove the whole ledger as of one moment; `owner_url` is the owner's, or the worker's.

    A clearing account that holds something counts as broken once it has been quiet for `clearing_quiet_seconds`.
    Guarantees: reads only, in one snapshot, and waits for nobody.
    Errors: DatabaseUnavailable.
    """
    with translated(), psycopg.connect(psycopg_url(owner_url), **KEEPALIVE) as connection:  # type: ignore[arg-type]
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        connection.execute("SELECT set_config('dumont.sweep', 'on', true), set_config('jit', 'off', true)")
        counts = connection.execute(_COUNTS.encode()).fetchone()
        assert counts is not None
        values = {"guards": list(GUARDS), "quiet": clearing_quiet_seconds}
        checks = []
        for name, query in {**CHECKS, "clearing": CLEARING}.items():
            found = [str(row[0]) for row in connection.execute(query.encode(), values)]
            checks.append(Check(name, len(found), sorted(found)[:SHOWN]))
    accounts, transfers, refusals, entries, holds = (int(str(count)) for count in counts)
    return Audit(accounts, transfers, refusals, entries, holds, checks)
