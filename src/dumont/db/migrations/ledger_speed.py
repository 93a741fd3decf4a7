"""SQL of the ledger's guards as revision 0016 has them: the same rules with fewer look-ups.

Most transfers have two legs, so those are looked at without unnesting and summing; and the last entry of an account
says at once that there is one for its version, that its balance is right, and that there is none beyond.
"""

from dumont.db.migrations.ledger_guards import GUARDS
from dumont.db.migrations.rewriting import again

LEG = (
    "(SELECT n.amount FROM public.ledger_entry n WHERE n.account_id = t.accounts[{0}] AND n.seq = t.seqs[{0}] "
    "AND n.transfer_id = t.id)"
)
_PAIR = (
    "           WHEN cardinality(t.accounts) = 2 THEN\n"
    f"               ({LEG.format(1)}\n                + {LEG.format(2)} = 0) IS NOT TRUE\n"
)
_MANY = "           WHEN cardinality(t.accounts) NOT BETWEEN 2 AND 100 THEN true\n"
_HEAD = """     WHERE CASE f.version WHEN 0 THEN
               f.balance = 0 AND NOT EXISTS (SELECT FROM public.ledger_entry e WHERE e.account_id = f.id)
           ELSE (SELECT e.seq = f.version AND e.balance_after = f.balance FROM public.ledger_entry e
                  WHERE e.account_id = f.id ORDER BY e.seq DESC LIMIT 1) END IS NOT TRUE
"""
_TWO_LOOKS = """     WHERE f.balance IS DISTINCT FROM CASE f.version WHEN 0 THEN 0 ELSE
               (SELECT e.balance_after FROM public.ledger_entry e WHERE e.account_id = f.id AND e.seq = f.version) END
        OR (SELECT true FROM public.ledger_entry e WHERE e.account_id = f.id AND e.seq = f.version + 1)
"""


_TRANSFERS, _ACCOUNTS = GUARDS["ledger_guard_transfers()"], GUARDS["ledger_guard_accounts()"]
BEFORE = (again(_TRANSFERS), again(_ACCOUNTS))
FASTER = (again(_TRANSFERS, (_MANY, _PAIR + _MANY)), again(_ACCOUNTS, (_TWO_LOOKS, _HEAD)))
