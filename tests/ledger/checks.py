"""The checks that the suites make and that a ledger without its guards must fail: each raises AssertionError.

They are functions, so that `test_mutations` can run them over a database of which one guard was taken away.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import psycopg
from tests.ledger.books import Books, move, posting
from tests.ledger.stage import (
    all_at_once,
    at_once,
    held,
    problems,
    raising,
    through_lane,
    through_session,
    trapped,
    until,
)

from dumont.db import psycopg_url
from dumont.ledger import Leg, Posting

Check = Callable[[Books], None]
TEN = 10


def ten_threads_same_transaction(books: Books) -> None:
    """Ten threads ask for the same transfer: it stands once, and nine are told that it was done before."""
    team, one, two = books.pair()
    asked = move(team, one, two, 10)
    answers = at_once(books, [one], [[asked]] * TEN)
    assert sorted(problems(answers)) == ["posted", *["replay"] * 9]
    _stands_once(books, asked, one, two, 10)


def ten_batches_same_transaction(books: Books) -> None:
    """The same in batches, each with a transfer of its own beside the common one."""
    team, one, two = books.pair()
    asked = move(team, one, two, 10)
    answers = at_once(books, [one], [[move(team, one, two, 1), asked] for _ in range(TEN)])
    assert sorted(problems(answers)) == [*["posted"] * 11, *["replay"] * 9]
    assert (books.balance(one), books.balance(two)) == (80, 20)
    assert len(books.entries(one)) == 1 + 11


def same_key_on_other_accounts(books: Books) -> None:
    """One key for transfers between different accounts at once: one stands, the others are told that it is taken."""
    team = books.team()
    pairs = [(books.account(team, funds=50), books.account(team)) for _ in range(5)]
    asked = [move(team, one, two, 10, key="the same") for one, two in pairs]
    answers = at_once(books, [one for one, _ in pairs], [[item] for item in asked])
    assert sorted(problems(answers)) == [*["idempotency-key-reused"] * 4, "posted"]
    assert sorted(books.balance(two) for _, two in pairs) == [0, 0, 0, 0, 10]


def two_of_eighty(books: Books) -> None:
    """Two transfers of 80 out of 100 at once: one stands, the other is refused for want of funds."""
    team, one, two = books.pair()
    answers = at_once(books, [one], [[move(team, one, two, 80)], [move(team, one, two, 80)]])
    _one_of_two(books, problems(answers), one, two)


def two_batches_of_eighty(books: Books) -> None:
    """The same through the batches' function."""
    team, one, two = books.pair()
    third = books.account(team)
    asked = [[posting(team, [Leg(one, -80), Leg(two, 79), Leg(third, 1)])] for _ in range(2)]
    answers = at_once(books, [one], asked)
    _one_of_two(books, problems(answers), one, two, got=79)


def two_plain_batches_of_eighty(books: Books) -> None:
    """The same in batches of plain transfers, each with a transfer on the same account beside it."""
    team, one, two = books.pair()
    asked = [[move(team, one, two, 80), move(team, two, one, amount)] for amount in (1, 2)]
    answers = at_once(books, [one], asked)
    said = problems(answers)
    assert sorted(said) == ["balance-too-low", *["posted"] * 3], said
    assert (books.balance(one), books.balance(two)) == (23, 77)
    assert len(books.entries(one)) == 1 + 3 and len(books.entries(two)) == 3


def two_sessions_of_eighty(books: Books) -> None:
    """The same in sessions of two requests."""
    team, one, two = books.pair()
    answers = at_once(books, [one], [[move(team, one, two, 80)], [move(team, one, two, 80)]], through_session)
    _one_of_two(books, problems(answers), one, two)


def many_on_one_account(books: Books) -> None:
    """Ten batches on one hot account at once: each stands, at the first try."""
    team, one, two = books.pair()
    third = books.account(team)
    asked = [[posting(team, [Leg(one, -3), Leg(two, 2), Leg(third, 1)])] for _ in range(TEN)]
    answers = at_once(books, [one], asked)
    assert problems(answers) == ["posted"] * TEN
    assert (books.balance(one), books.balance(two), books.balance(third)) == (70, 20, 10)


def opposite_batches(books: Books) -> None:
    """Two batches name three accounts in opposite order, the middle one held by somebody: no deadlock, both stand."""
    team = books.team()
    first, middle, last = sorted(books.account(team, floor=None) for _ in range(3))
    forth = posting(team, [Leg(first, -5), Leg(middle, 2), Leg(last, 3)])
    back = posting(team, [Leg(last, -7), Leg(middle, 3), Leg(first, 4)])
    answers = at_once(books, [middle], [[forth], [back]])
    assert problems(answers) == ["posted"] * 2
    assert [books.balance(account) for account in (first, middle, last)] == [-1, 5, -4]


def many_plain_on_one_account(books: Books) -> None:
    """Ten batches of two plain transfers on one hot account at once: each stands, at the first try."""
    team, one, two = books.pair()
    third = books.account(team)
    answers = at_once(books, [one], [[move(team, one, two, 2), move(team, one, third, 1)] for _ in range(TEN)])
    assert problems(answers) == ["posted"] * 2 * TEN
    assert (books.balance(one), books.balance(two), books.balance(third)) == (70, 20, 10)


def opposite_plain_batches(books: Books) -> None:
    """Two batches of plain transfers name three accounts in opposite order, the middle one held: both stand."""
    team = books.team()
    first, middle, last = sorted(books.account(team, floor=None) for _ in range(3))
    forth = [move(team, first, middle, 2), move(team, middle, last, 3)]
    back = [move(team, last, middle, 7), move(team, middle, first, 4)]
    answers = at_once(books, [middle], [forth, back])
    assert problems(answers) == ["posted"] * 4
    assert [books.balance(account) for account in (first, middle, last)] == [2, 2, -4]


def opposite_transfers(books: Books) -> None:
    """Two plain transfers in opposite directions, one of whose callers names the accounts the other way round."""
    team = books.team()
    one, two = sorted(books.account(team, floor=None) for _ in range(2))
    said = _raw_at_once(books, [(team, one, 4, two), (team, two, 3, one)], gates=[one])
    assert said == ["posted", "posted"], said
    assert (books.balance(one), books.balance(two)) == (1, -1)


def failure_between_the_legs(books: Books) -> None:
    """The writing of the second entry fails: neither entry, transfer nor balance is there."""
    team, one, two = books.pair()
    third = books.account(team)
    shapes = _shapes(team, one, two, third)
    before = books.total(team)
    for asked in shapes:
        with trapped(books, max(leg.account_id for leg in asked[-1].legs), raising("XX000")):
            answers = all_at_once(books, [], [lambda asked=asked: through_lane(books, asked)])
        assert problems(answers) == ["InternalError_"]
        assert books.total(team) == before
        assert [books.balance(account) for account in (one, two, third)] == [100, 0, 0]
    for asked in shapes:
        assert problems([through_lane(books, asked)]) == ["posted"] * len(asked)


def _shapes(team: str, one: str, two: str, third: str) -> list[list[Posting]]:
    """Return what each of the functions that post takes: one plain transfer, one of three legs, many plain ones."""
    return [
        [move(team, one, two, 10)],
        [posting(team, [Leg(one, -10), Leg(two, 4), Leg(third, 6)])],
        [move(team, one, two, 10), move(team, one, third, 11)],
    ]


def time_is_taken_after_the_lock(books: Books) -> None:
    """Who waits for an account is entered at the time when he has it: the past, once read, does not change."""
    for shape in range(3):
        team, one, two = books.pair()
        asked = _shapes(team, one, two, books.account(team))[shape]
        moments: list[Any] = []

        def post_slowly(asked: Sequence[Posting] = asked) -> Any:
            return through_lane(books, asked)

        answers = _after_the_gate(books, one, post_slowly, moments)
        assert problems([answers]) == ["posted"] * len(asked)
        [(written,)] = books.rows("SELECT min(created_at) FROM ledger_transfer WHERE id = %s", asked[0].id)
        assert written > moments[0], "the entry has a time at which its account was still somebody else's"
        assert books.rows("SELECT ledger_balance_at(%s, %s)", one, moments[0]) == [(100,)]


def refused_stays_refused(books: Books) -> None:
    """A key that was refused for want of funds answers the same when there are funds."""
    team, one, two = books.pair()
    for asked in (
        move(team, one, two, 500),
        posting(team, [Leg(one, -500), Leg(two, 250), Leg(books.account(team), 250)]),
    ):
        assert problems([through_lane(books, [asked])]) == ["balance-too-low"]
        rich = books.account(team, funds=1000)
        through_lane(books, [move(team, rich, one, 1000)])
        assert problems([through_lane(books, [asked])]) == ["balance-too-low again"]
        assert books.transfers(asked.id) == 0
        through_lane(books, [move(team, one, rich, 1000)])


def same_key_other_request(books: Books) -> None:
    """The same key with another amount, memo, date or kind is told so, and changes nothing."""
    team, one, two = books.pair()
    asked = move(team, one, two, 10)
    through_lane(books, [asked])
    others = [move(team, one, two, 11, key=asked.key), move(team, one, two, 10, key=asked.key, memo="another")]
    for other in [*others, move(team, one, two, 10, key=asked.key, kind="income")]:
        assert problems([through_lane(books, [other])]) == ["idempotency-key-reused"]
        assert problems([through_lane(books, [other, move(team, one, two, 1)])])[0] == "idempotency-key-reused"
    assert books.entries(two)[0] == (1, 10, 10)


def ten_reversals(books: Books) -> None:
    """Ten threads take one transfer back under ten keys: it is reversed once."""
    team, one, _ = books.pair()
    two = books.account(team, funds=600)
    asked = move(team, one, two, 60)
    through_lane(books, [asked])
    answers = at_once(books, [one], [[move(team, two, one, 60, reverses=asked.id)] for _ in range(TEN)])
    assert sorted(problems(answers)) == [*["already-reversed"] * 9, "posted"]
    assert (books.balance(one), books.balance(two)) == (100, 600)


def held_money_is_not_spent(books: Books) -> None:
    """What a hold keeps is not there for a transfer, plain or in a batch, nor for another hold."""
    team, one, two = books.pair()
    assert _hold(books, team, one, 80)[0] == "posted"
    assert problems([through_lane(books, [move(team, one, two, 21)])]) == ["balance-too-low"]
    assert problems([through_lane(books, [move(team, one, two, 21), move(team, one, two, 5)])]) == [
        "balance-too-low", "posted"
    ]  # fmt: skip
    assert _hold(books, team, one, 16)[0] == "refused"
    assert books.balance(one) == 95


def nothing_out_of_balance(books: Books) -> None:
    """A transfer whose legs do not sum to zero is refused, by the function and by the table whoever writes."""
    team, one, two = books.pair()
    legs = {"legs": [1, 1], "accounts": [one, two], "amounts": [-10, 11], "team": [team], "id": [uuid4()]}
    with psycopg.connect(psycopg_url(books.urls.owner)) as connection:
        found = connection.execute(
            "SELECT code FROM ledger_post_batch(%(team)s, %(id)s, ARRAY['\\x00'::bytea], '{transfer}', '{2026-01-01}', "
            "'{NULL}', NULL, NULL, %(legs)s, %(accounts)s, %(amounts)s)", legs
        ).fetchall()  # fmt: skip
    assert found == [("unbalanced",)]
    numbers = [books.number(one), books.number(two)]
    by_hand = f"""
        WITH t AS (INSERT INTO ledger_transfer (id, team_id, fingerprint, kind, currency, accounts, seqs, date,
                                                created_at)
             SELECT gen_random_uuid(), '{team}', '', 'x', 'BRL', ARRAY{numbers}, '{{2,1}}', '2026-01-01', now()
             RETURNING id),
        a AS (UPDATE ledger_account SET version = version + 1, balance = CASE id WHEN '{one}' THEN 90 ELSE 11 END
               WHERE id IN ('{one}', '{two}'))
        INSERT INTO ledger_entry SELECT n.account, n.seq, t.id, n.amount, n.after, clock_timestamp(), '{team}'
          FROM t, (VALUES ({numbers[0]}, 2, -10, 90), ({numbers[1]}, 1, 11, 11)) AS n(account, seq, amount, after)"""
    assert _refused(books, by_hand) == "23000"


def nothing_is_rewritten(books: Books) -> None:
    """What was written is neither changed nor removed."""
    team, one, two = books.pair()
    through_lane(books, [move(team, one, two, 10)])
    changes = ("UPDATE ledger_entry SET created_at = now()", "UPDATE ledger_transfer SET memo = 'another'")
    for change in (*changes, "DELETE FROM ledger_transfer", "DELETE FROM ledger_entry"):
        assert _refused(books, change) == "23001", change


def no_balance_by_hand(books: Books) -> None:
    """A balance that no entry explains is refused."""
    _, one, _ = books.pair()
    assert _refused(books, f"UPDATE ledger_account SET balance = balance + 1 WHERE id = '{one}'") == "23000"


def _refused(books: Books, statement: str) -> str | None:
    try:
        books.run(statement)
    except psycopg.Error as error:
        return error.sqlstate
    return None


def _hold(books: Books, team: str, account: str, amount: int) -> tuple[Any, ...]:
    [found] = books.rows(
        "SELECT outcome, code FROM ledger_hold(%s, gen_random_uuid(), '\\x00', %s, %s, 'test', NULL, NULL)",
        team, account, amount,
    )  # fmt: skip
    return found


def _stands_once(books: Books, asked: Posting, one: str, two: str, amount: int) -> None:
    assert books.rows("SELECT count(*) FROM ledger_transfer WHERE id = %s", asked.id) == [(1,)]
    assert books.rows("SELECT count(*), sum(abs(amount)) FROM ledger_entry WHERE transfer_id = %s", asked.id) == [
        (2, 2 * amount)
    ]
    assert (books.balance(one), books.balance(two)) == (100 - amount, amount)


def _one_of_two(books: Books, said: list[str], one: str, two: str, got: int = 80) -> None:
    assert sorted(said) == ["balance-too-low", "posted"], said
    assert (books.balance(one), books.balance(two)) == (20, got)
    assert len(books.entries(one)) == 2 and len(books.entries(two)) == 1


def _after_the_gate(books: Books, account: str, job: Callable[[], Any], moments: list[Any]) -> Any:
    """Run a job that waits for an account, note the database's time while it waits, and let it go on."""
    answer: list[Any] = []
    thread = threading.Thread(target=lambda: answer.append(job()))
    with held(books, account) as connection:
        thread.start()
        until(lambda: _is_waited_for(books), "the job waits for the account")
        row = connection.execute("SELECT clock_timestamp()").fetchone()
        assert row is not None
        moments.append(row[0])
    thread.join()
    return answer[0]


def _is_waited_for(books: Books) -> bool:
    found = books.rows(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return bool(found[0][0])


def _raw_at_once(books: Books, calls: Sequence[tuple[str, str, int, str]], gates: Sequence[str]) -> list[str]:
    """Call the plain function as SQL, with the accounts in the order given, all at once."""

    def one(call: tuple[str, str, int, str]) -> str:
        with psycopg.connect(psycopg_url(books.urls.app), autocommit=True) as connection:
            team, first, amount, second = call
            row = connection.execute(
                "SELECT ledger_post(%s, gen_random_uuid(), '\\x00', 'transfer', '2026-01-01', NULL, %s, %s, %s)",
                [team, first, amount, second],
            ).fetchone()
        assert row is not None
        return "posted" if row[0] is None else str(row[0]["code"])

    answers = all_at_once(books, gates, [lambda call=call: one(call) for call in calls])
    return [str(answer) if isinstance(answer, str) else type(answer).__name__ for answer in answers]
