"""The ledger with one guard taken away: the check that is about it must find the damage, or it checks nothing.

Each mutation is made in a database of its own, by the altered source of a function or by dropping a key or a trigger.
Where a second guard would stand in for the first, it is taken away too, so that there is damage to be found.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.ledger import checks
from tests.ledger.books import Books, move
from tests.ledger.checks import Check
from tests.ledger.stage import problems, through_lane
from tests.support.postgres import clone_database, drop_database

from dumont.ledger import audit

pytestmark = pytest.mark.requires_postgres

LOCK = " FOR NO KEY UPDATE"
LOCK_OF = f"{LOCK} OF a"
NO_CHAIN = (
    "DROP TRIGGER ledger_entry_chain ON ledger_entry",
    "ALTER TABLE ledger_entry DROP CONSTRAINT pk_ledger_entry",
)
NO_HEAD = ("DROP TRIGGER ledger_account_moved ON ledger_account",)
NO_WHOLE = ("DROP TRIGGER ledger_transfer_whole ON ledger_transfer",)
NO_FLOOR = ("ALTER TABLE ledger_account DROP CONSTRAINT ck_ledger_account_floor",)
NO_FLOOR_LOOK = tuple(("ledger_post", f"greatest({one}.floor, -1", "greatest(-1") for one in "ab")
NO_KEY = ("ALTER TABLE ledger_transfer DROP CONSTRAINT pk_ledger_transfer",)
SWALLOWED = """FOR v_leg IN SELECT * FROM (VALUES (v_numbers[1], v_seqs[1], p_amount, v_one),
    (v_numbers[2], v_seqs[2], -p_amount, v_two)) AS n(account, seq, amount, after) LOOP
    BEGIN
        INSERT INTO ledger_entry VALUES (v_leg.account, v_leg.seq, p_id, v_leg.amount, v_leg.after, v_at, p_team);
    EXCEPTION WHEN OTHERS THEN
        NULL;
    END;
END LOOP;"""


@dataclass(frozen=True)
class Mutation:
    """A guard that is taken away (in functions or by statements), the check that must notice, and what it says."""

    check: Check
    says: str
    changes: tuple[tuple[str, str, str], ...] = ()
    statements: tuple[str, ...] = ()


MUTATIONS = {
    "no unique key": Mutation(
        checks.ten_threads_same_transaction,
        "'posted' != 'replay'",
        (),
        NO_KEY,
    ),
    "no unique key, other accounts": Mutation(
        checks.same_key_on_other_accounts,
        "'posted' != 'idempotency-key-reused'",
        (),
        NO_KEY,
    ),
    "no lock": Mutation(checks.two_of_eighty, "'UniqueViolation' != 'balance-too-low'", (("ledger_post", LOCK, ""),)),
    "no lock and no chain": Mutation(
        checks.two_of_eighty,
        "'posted' != 'balance-too-low'",
        (("ledger_post", LOCK, ""),),
        (*NO_CHAIN, *NO_HEAD, *NO_WHOLE, *NO_FLOOR),
    ),
    "no lock in batches": Mutation(
        checks.many_on_one_account, "'UniqueViolation' != 'posted'", (("ledger_post_batch", LOCK, ""),)
    ),
    "no lock in batches and no chain": Mutation(
        checks.two_batches_of_eighty,
        "'posted' != 'balance-too-low'",
        (("ledger_post_batch", LOCK, ""),),
        (*NO_CHAIN, *NO_HEAD, *NO_WHOLE, *NO_FLOOR),
    ),
    "no lock in plain batches": Mutation(
        checks.many_plain_on_one_account, "'UniqueViolation' != 'posted'", (("ledger_post_many", LOCK_OF, ""),)
    ),
    "no lock in plain batches and no chain": Mutation(
        checks.two_plain_batches_of_eighty,
        "'posted' != 'balance-too-low'",
        (("ledger_post_many", LOCK_OF, ""),),
        (*NO_CHAIN, *NO_HEAD, *NO_WHOLE, *NO_FLOOR),
    ),
    "wrong lock order": Mutation(
        checks.opposite_transfers, "DeadlockDetected", (("ledger_post", "IF p_first < p_second THEN", "IF true THEN"),)
    ),
    "wrong lock order in batches": Mutation(
        checks.opposite_batches,
        "DeadlockDetected",
        (("ledger_post_batch", "ORDER BY a.id FOR", "ORDER BY array_position(p_accounts, a.id) FOR"),),
    ),
    "wrong lock order in plain batches": Mutation(
        checks.opposite_plain_batches,
        "DeadlockDetected",
        (("ledger_post_many", "ORDER BY a.id FOR", "ORDER BY i.place FOR"),),
    ),
    "no floor check": Mutation(
        checks.two_of_eighty,
        "'posted' != 'balance-too-low'",
        NO_FLOOR_LOOK,
        NO_FLOOR,
    ),
    "no floor check in batches": Mutation(
        checks.two_batches_of_eighty,
        "'posted' != 'balance-too-low'",
        (("ledger_run", "r.amount < 0 AND", "false AND"),),
        NO_FLOOR,
    ),
    "no floor check in plain batches": Mutation(
        checks.two_plain_batches_of_eighty,
        "'posted' != 'balance-too-low'",
        (("ledger_post_many", "coalesce(n.floor + n.held, -1", "coalesce(NULL::bigint, -1"),),
        NO_FLOOR,
    ),
    "no floor but the table's": Mutation(
        checks.two_of_eighty,
        "'CheckViolation' != 'balance-too-low'",
        NO_FLOOR_LOOK,
    ),
    "holds are not counted": Mutation(
        checks.held_money_is_not_spent,
        "'posted' != 'balance-too-low'",
        (("ledger_post", "- a.held", ""), ("ledger_post", "- b.held", "")),
        NO_FLOOR,
    ),
    "holds are not counted in batches": Mutation(
        checks.held_money_is_not_spent,
        "'posted' != 'balance-too-low'",
        (("ledger_run", "a.held - coalesce", "0 - coalesce"),),
        NO_FLOOR,
    ),
    "holds are not counted in plain batches": Mutation(
        checks.held_money_is_not_spent,
        "'posted' != 'balance-too-low'",
        (("ledger_post_many", "n.floor + n.held", "n.floor"),),
        NO_FLOOR,
    ),
    "no zero-sum": Mutation(checks.nothing_out_of_balance, "None == '23000'", (), NO_WHOLE),
    "no zero-sum in batches": Mutation(
        checks.nothing_out_of_balance,
        "unbalanced",
        (("ledger_classify", "WHEN sum(u.amount) <> 0 THEN 'unbalanced'", ""),),
        NO_WHOLE,
    ),
    "no append-only": Mutation(
        checks.nothing_is_rewritten, "UPDATE ledger_entry", (), ("DROP TRIGGER ledger_entry_keeps ON ledger_entry",)
    ),
    "no append-only for transfers": Mutation(
        checks.nothing_is_rewritten,
        "UPDATE ledger_transfer",
        (),
        ("DROP TRIGGER ledger_transfer_keeps ON ledger_transfer",),
    ),
    "no balance without an entry": Mutation(checks.no_balance_by_hand, "None == '23000'", (), NO_HEAD),
    "error swallowed after the first leg": Mutation(
        checks.failure_between_the_legs,
        "'posted' != 'InternalError_'",
        (
            ("ledger_post", "v_at timestamptz;\n", "v_at timestamptz;\n    v_leg record;\n"),
            (
                "ledger_post",
                "WITH a AS (\n                    UPDATE ledger_account",
                "UPDATE ledger_account u SET balance = CASE u.id WHEN p_first THEN v_one ELSE v_two END, "
                "version = u.version + 1, moved_at = v_at WHERE u.id IN (p_first, p_second); "
                "INSERT INTO ledger_transfer (id, team_id, fingerprint, kind, currency, accounts, seqs, date, memo, "
                "created_at) VALUES (p_id, p_team, p_fingerprint, p_kind, v_currency, v_numbers, "
                f"v_seqs, p_date, p_memo, v_at); {SWALLOWED} RETURN NULL;\n"
                "WITH a AS (UPDATE ledger_account",
            ),
        ),
        (*NO_HEAD, *NO_WHOLE, "DROP TRIGGER ledger_entry_chain ON ledger_entry"),
    ),
    "error swallowed in batches": Mutation(
        checks.failure_between_the_legs,
        "'posted' != 'InternalError_'",
        (("ledger_post_batch", "EXCEPTION WHEN unique_violation THEN", "EXCEPTION WHEN OTHERS THEN EXIT;"),),
    ),
    "now() instead of clock_timestamp()": Mutation(
        checks.time_is_taken_after_the_lock, "somebody else's", (("ledger_post", "clock_timestamp()", "now()"),)
    ),
    "now() in batches": Mutation(
        checks.time_is_taken_after_the_lock, "somebody else's", (("ledger_post_batch", "clock_timestamp()", "now()"),)
    ),
    "now() in plain batches": Mutation(
        checks.time_is_taken_after_the_lock, "somebody else's", (("ledger_post_many", "clock_timestamp()", "now()"),)
    ),
    "a key means any request": Mutation(
        checks.same_key_other_request,
        "'replay' != 'idempotency-key-reused'",
        (("ledger_classify", "(t.fingerprint, t.team_id) <> (i.fingerprint, i.team)", "false"),),
    ),
    "refusals are forgotten": Mutation(
        checks.refused_stays_refused,
        "'posted' != 'balance-too-low again'",
        (("ledger_write", "WHERE c.code = 'insufficient'", "WHERE false"),),
    ),
    "reversed as often as one likes": Mutation(
        checks.ten_reversals,
        "'posted' != 'already-reversed'",
        (("ledger_classify_bound", "r.reverses = i.reverses AND r.refusal IS NULL", "false"),),
        ("DROP INDEX uq_ledger_transfer_reverses",),
    ),
}


@pytest.fixture
def mutant() -> Iterator[Books]:
    """A ledger to be broken."""
    urls = clone_database()
    yield Books(urls)
    drop_database(urls)


@pytest.mark.checklist("PIX-05", "PIX-16")
@pytest.mark.parametrize("name", MUTATIONS)
def test_the_check_notices(mutant: Books, name: str) -> None:
    """Without its guard the named check fails."""
    mutation = MUTATIONS[name]
    for function, old, new in mutation.changes:
        [(source,)] = mutant.rows("SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = %s", function)
        assert old in source, f"{function} has no {old!r}"
        mutant.run(source.replace(old, new).replace("%", "%%"))
    for statement in mutation.statements:
        mutant.run(statement)
    with pytest.raises(AssertionError, match=mutation.says):
        mutation.check(mutant)


def test_the_list_names_every_check(books: Books) -> None:
    """Each check of the suites is killed by a mutation at least, and stands over a whole ledger."""
    named = {mutation.check for mutation in MUTATIONS.values()}
    every = {
        value
        for name, value in vars(checks).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == checks.__name__ and callable(value)
    }
    assert every - named <= {checks.ten_batches_same_transaction, checks.two_sessions_of_eighty}
    for check in (checks.nothing_out_of_balance, checks.nothing_is_rewritten, checks.no_balance_by_hand):
        check(books)


def test_the_deadlock_counter_counts(mutant: Books) -> None:
    """A deadlock is seen by the count that is looked at behind every module."""
    [(source,)] = mutant.rows("SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = 'ledger_post'")
    mutant.run(source.replace("IF p_first < p_second THEN", "IF true THEN"))
    with pytest.raises(AssertionError, match="DeadlockDetected"):
        checks.opposite_transfers(mutant)
    assert mutant.deadlocks() == 1


@pytest.mark.checklist("PIX-04")
@pytest.mark.parametrize(
    ("check", "damage"),
    [
        ("trial-balance", "UPDATE ledger_account SET balance = balance + 1, floor = NULL WHERE id = {one}"),
        ("balances", "UPDATE ledger_account SET balance = balance + 1 WHERE id = {one}"),
        ("heads", "UPDATE ledger_account SET version = version + 1 WHERE id = {one}"),
        ("chains", "UPDATE ledger_entry SET balance_after = balance_after + 1 WHERE account = {number} AND seq = 1"),
        (
            "chains",
            "UPDATE ledger_entry SET created_at = now() + interval '1 day' WHERE account = {number} AND seq = 1",
        ),
        ("transfers", "DELETE FROM ledger_entry WHERE account = {number} AND seq = 2"),
        ("transfers", "DELETE FROM ledger_transfer WHERE id = {last}"),
        ("transfers", "UPDATE ledger_transfer SET refusal = '{{}}' WHERE id = {last}"),
        ("teams-and-currencies", "UPDATE ledger_account SET currency = 'USD' WHERE id = {one}"),
        ("floors", "UPDATE ledger_account SET floor = balance + 1 WHERE id = {one}"),
        ("reversals", "UPDATE ledger_transfer SET reverses = {last} WHERE kind = 'opening'"),
        ("holds", "UPDATE ledger_account SET held = held + 1 WHERE id = {one}"),
        ("holds", "UPDATE ledger_hold SET amount = amount + 1 WHERE status = 'open'"),
        ("hold-events", "DELETE FROM ledger_hold_event WHERE status = 'voided'"),
        ("hold-events", "UPDATE ledger_hold SET settled_amount = 1 WHERE status = 'settled'"),
        ("guards", "ALTER TABLE ledger_entry DISABLE TRIGGER ledger_entry_keeps"),
        ("guards", "DROP INDEX uq_ledger_transfer_reverses"),
        ("guards", "ALTER DOMAIN ledger_held DROP CONSTRAINT ck_ledger_held"),
        ("guards", "ALTER TABLE ledger_account DROP CONSTRAINT uq_ledger_account_number"),
        ("guards", "GRANT UPDATE ON ledger_account TO dumont_app"),
        ("clearing", "UPDATE ledger_account SET type = 'clearing' WHERE id = {one}"),
    ],
)
def test_the_audit_notices(marred: tuple[Books, dict[str, str]], check: str, damage: str) -> None:
    """Damage done behind the guards' back is named by the check that is about it."""
    books, names = marred
    with psycopg.connect(books.urls.owner.replace("+psycopg", "")) as connection:
        connection.execute("SET session_replication_role = replica")
        if check == "floors":
            connection.execute("ALTER TABLE ledger_account DROP CONSTRAINT ck_ledger_account_floor")
        connection.execute(damage.format(**names).encode())
        connection.commit()
    found = {item.name for item in audit(books.urls.owner, clearing_quiet_seconds=0).checks if item.broken}
    assert check in found


@pytest.fixture
def marred(mutant: Books, tmp_path: Path) -> Any:
    """A small sound ledger with a transfer, holds of each end, and the names in it; sound before it is marred."""
    team, one, two = mutant.pair()
    last = move(team, one, two, 10)
    holds = [f"00000000-0000-0000-0000-00000000000{number}" for number in range(3)]
    for hold in holds:
        mutant.run("SELECT ledger_hold(%s, %s, '\\x00', %s, 20, 'test', NULL, NULL)", team, hold, one)
    settle = move(team, one, two, 5, settles=holds[0].replace("-", ""))
    assert problems([through_lane(mutant, [last, settle])]) == ["posted", "posted"]
    mutant.run("SELECT ledger_void(%s, %s, NULL)", team, holds[1])
    assert audit(mutant.urls.owner, clearing_quiet_seconds=0).sound
    [(number,)] = mutant.rows("SELECT number FROM ledger_account WHERE id = %s", one)
    return mutant, {"one": f"'{one}'", "number": number, "last": f"'{last.id}'"}
