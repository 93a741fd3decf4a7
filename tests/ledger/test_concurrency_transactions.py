"""Many at once: one of ten stands, one of two wins, what is taken back is taken back once, and nothing deadlocks.

All are threads with connections of their own that commit for real. They meet at a locked account, so that every run
has the race; `test_mutations` shows that each of these checks fails without its guard.
"""

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from tests.ledger import checks
from tests.ledger.books import Books, Household, move, posting
from tests.ledger.people import Person
from tests.ledger.stage import all_at_once, at_once, in_session, problems, through_lane, through_session

from dumont.ledger import (
    HoldRequest,
    Leg,
    Posting,
    close_account,
    expire_holds,
    hold,
    post_together,
    void,
)

pytestmark = pytest.mark.requires_postgres
NOW = datetime(2026, 3, 14, 12, tzinfo=timezone.utc)


@pytest.mark.checklist("PIX-01", "PIX-05", "PIX-06")
@pytest.mark.parametrize("check", [checks.ten_threads_same_transaction, checks.ten_batches_same_transaction])
def test_ten_threads_that_create_the_same_create_one(books: Books, check: checks.Check) -> None:
    """Ten at once with one key: one transfer, nine replays; plain and in batches."""
    check(books)


def test_one_key_for_transfers_on_other_accounts(books: Books) -> None:
    """No account is common to them, so only the key itself can tell."""
    checks.same_key_on_other_accounts(books)


@pytest.mark.checklist("PIX-05", "PIX-07")
@pytest.mark.parametrize("check", [checks.two_of_eighty, checks.two_batches_of_eighty, checks.two_sessions_of_eighty])
def test_of_two_transfers_of_eighty_one_wins(books: Books, check: checks.Check) -> None:
    """Two of 80 out of 100: one is refused, and nothing is below zero; through each way to post."""
    check(books)


def test_a_batch_and_a_plain_transfer_of_eighty(books: Books) -> None:
    """The two ways to post see each other."""
    team, one, two = books.pair()
    other = books.account(team, funds=5)
    batch = [move(team, other, two, 5), move(team, one, two, 80)]
    answers = at_once(books, [one], [[move(team, one, two, 80)], batch])
    assert sorted(problems(answers)) == ["balance-too-low", "posted", "posted"]
    assert (books.balance(one), books.balance(two)) == (20, 85)


@pytest.mark.checklist("PIX-05")
@pytest.mark.parametrize("check", [checks.opposite_batches, checks.opposite_transfers, checks.many_on_one_account])
def test_nobody_waits_in_a_circle(books: Books, check: checks.Check) -> None:
    """Accounts are locked in one order, whatever the order in which they are named."""
    check(books)


def test_holds_count_at_once(books: Books) -> None:
    """What a hold keeps cannot be spent."""
    checks.held_money_is_not_spent(books)


def test_the_past_does_not_change(books: Books) -> None:
    """An entry's time is taken when its accounts are locked."""
    checks.time_is_taken_after_the_lock(books)


@pytest.mark.checklist("PIX-08")
def test_ten_that_take_one_transfer_back(books: Books) -> None:
    """Ten reversals under ten keys: one stands."""
    checks.ten_reversals(books)


@pytest.mark.checklist("PIX-05", "PIX-08")
@pytest.mark.parametrize("order", ["edit first", "delete first"])
def test_an_edit_and_a_deletion_at_once(books: Books, order: str) -> None:
    """An edit reverses and posts anew, a deletion reverses: one of them is done whole, the other not at all."""
    team, one, two = books.pair()
    asked = move(team, one, two, 60)
    through_lane(books, [asked])
    back = move(team, two, one, 60, reverses=asked.id, key="edited")
    edit = [back, move(team, one, two, 45, key="edited", leg=1)]
    delete = [move(team, two, one, 60, reverses=asked.id, key="deleted")]
    jobs = [lambda: _together(books, edit), lambda: _together(books, delete)]
    answers = all_at_once(books, [one], jobs if order == "edit first" else jobs[::-1])
    said = problems(answers if order == "edit first" else answers[::-1])
    if order == "edit first":
        assert said == ["posted", "posted", "AlreadyReversed"]
        assert (books.balance(one), books.balance(two)) == (55, 45)
    else:
        assert said == ["AlreadyReversed", "posted"]
        assert (books.balance(one), books.balance(two)) == (100, 0)
    assert books.rows("SELECT count(*) FROM ledger_transfer WHERE reverses = %s", asked.id) == [(1,)]
    assert books.transfers(edit[1].id) == (order == "edit first")


def test_many_threads_move_money_in_a_circle(books: Books) -> None:
    """Hundreds of random transfers by eight threads in three ways: each answer is what the rows say, no sum changes."""
    team = books.team()
    accounts = [books.account(team, funds=100) for _ in range(5)]
    asked = [_random_batch(random.Random(f"circle {number}"), team, accounts) for number in range(120)]

    def work(number: int) -> list[tuple[Posting, str]]:
        way = through_session if number % 4 == 0 else through_lane
        return list(zip(asked[number], problems([way(books, asked[number])]), strict=True))

    with ThreadPoolExecutor(8) as pool:
        told = [pair for some in pool.map(work, range(len(asked))) for pair in some]
    assert {said for _, said in told} == {"posted", "balance-too-low"}
    assert books.transfers(*(item.id for item, _ in told)) == sum(said == "posted" for _, said in told)
    assert sum(books.balance(account) for account in accounts) == 500
    for account in accounts:
        assert books.rows(
            "SELECT min(balance_after) >= 0 FROM ledger_account_entry WHERE account_id = %s", account
        ) == [(True,)]


@pytest.mark.parametrize("first", ["settle", "void", "expire"])
def test_a_hold_ends_once(books: Books, first: str) -> None:
    """Settled, voided and expired at once: the first that comes ends it, and only a settlement moves money."""
    team, one, two = books.pair()
    request = HoldRequest(team, "test", "hold", one, 50, "a machine", expires_at=NOW)
    assert in_session(books, team, lambda session: hold(session, request)).problem is None
    jobs = {
        "settle": lambda: through_lane(books, [move(team, one, two, 30, settles=request.id)])[0].stands(),
        "void": lambda: in_session(books, team, lambda session: void(session, team, request.id)),
        "expire": lambda: in_session(books, team, lambda session: expire_holds(session, NOW + timedelta(seconds=1))),
    }
    order = [first, *(name for name in jobs if name != first)]
    answers = dict(zip(order, all_at_once(books, [one], [jobs[name] for name in order]), strict=True))
    ended = {"settle": "settled", "void": "voided", "expire": "expired"}[first]
    assert books.rows("SELECT status FROM ledger_hold WHERE id = %s", request.id) == [(ended,)]
    assert books.rows("SELECT held FROM ledger_account WHERE id = %s", one) == [(0,)]
    assert books.balance(one) == (70 if first == "settle" else 100)
    assert answers["expire"] == (1 if first == "expire" else 0)
    for name in ("settle", "void"):
        assert first == name or type(answers[name]).__name__ == "HoldEnded"
    assert books.rows("SELECT count(*) FROM ledger_hold_event WHERE hold_id = %s", request.id) == [(2,)]


def test_a_hold_and_a_transfer_of_eighty(books: Books) -> None:
    """Of a hold and a transfer of 80 out of 100 one is refused."""
    team, one, two = books.pair()
    request = HoldRequest(team, "test", "hold", one, 80, "a machine")
    keep = lambda: [in_session(books, team, lambda session: hold(session, request))]  # noqa: E731
    answers = all_at_once(books, [one], [keep, lambda: through_lane(books, [move(team, one, two, 80)])])
    assert sorted(problems(answers)) == ["balance-too-low", "posted"]


def test_ten_holds_under_one_key(books: Books) -> None:
    """Ten requests for the same hold keep its amount once; another request under the key is told so."""
    team, one, _ = books.pair()
    request = HoldRequest(team, "test", "one", one, 30, "a machine")
    keep = lambda: [in_session(books, team, lambda session: hold(session, request))]  # noqa: E731
    assert sorted(problems(all_at_once(books, [one], [keep] * 10))) == ["posted", *["replay"] * 9]
    assert books.rows("SELECT held FROM ledger_account WHERE id = %s", one) == [(30,)]
    other = HoldRequest(team, "test", "one", one, 31, "a machine")
    assert problems([[in_session(books, team, lambda session: hold(session, other))]]) == ["idempotency-key-reused"]


@pytest.mark.parametrize("first", ["close", "post"])
def test_an_account_is_closed_while_somebody_pays_in(books: Books, first: str) -> None:
    """Either the account is closed and takes nothing, or it has a balance and stays open."""
    team, one, two = books.pair()
    jobs: dict[str, Any] = {
        "close": lambda: in_session(books, team, lambda session: close_account(session, team, two, now=NOW)),
        "post": lambda: through_lane(books, [move(team, one, two, 5)]),
    }
    order = [first, "post" if first == "close" else "close"]
    answers = dict(zip(order, all_at_once(books, [two], [jobs[name] for name in order]), strict=True))
    if first == "close":
        assert problems([answers["post"]]) == ["account-closed"]
    else:
        assert type(answers["close"]).__name__ == "AccountNotEmpty"
    assert books.balance(two) == (0 if first == "close" else 5)


async def test_two_writers_and_the_same_requests(books: Books) -> None:
    """Two writers that are given the same hundred requests in other orders: each is done once."""
    team, one, two = books.pair(funds=1000)
    asked = [move(team, one, two, number % 7 + 1) for number in range(100)]
    async with books.writer() as first, books.writer() as second:
        answers = await asyncio.gather(
            *(first.post(item) for item in asked), *(second.post(item) for item in reversed(asked))
        )
    assert sorted(problems([answers])) == [*["posted"] * 100, *["replay"] * 100]
    assert books.balance(two) == sum(-item.legs[0].amount for item in asked)
    assert len(books.entries(one)) == 101


async def test_entries_have_the_order_of_the_answers(books: Books) -> None:
    """Who was answered before another asked comes before him on their common account."""
    team, one, two = books.pair(funds=1000)
    async with books.writer() as first, books.writer() as second:
        for turn in range(20):
            asked = move(team, one, two, turn + 1)
            assert (await (first if turn % 2 else second).post(asked)).problem is None
    assert [amount for _, amount, _ in books.entries(two)] == list(range(1, 21))


@pytest.mark.checklist("PIX-05", "PIX-06")
def test_ten_threads_that_record_the_same_record_one(books: Books, household: Household) -> None:
    """On the level of what people see: ten threads, one key, one transaction with one posting, and all get its id."""
    person = Person(books, household)
    ids = all_at_once(books, [household.account], [person.record] * 10)
    assert len(set(ids)) == 1 and person.rows() == (1, 1, 2)
    assert (books.balance(household.account), books.balance(household.second)) == (90, 10)


@pytest.mark.checklist("PIX-05", "PIX-07")
def test_of_two_people_who_spend_the_same_money_one_does(books: Books, household: Household) -> None:
    """Two transactions of 80 out of 100 in two threads: one is recorded, the other refused, nothing is below zero."""
    person = Person(books, household)
    jobs = [lambda key=key: person.record(80, key) for key in ("his", "hers")]
    answers = all_at_once(books, [household.account], jobs)
    assert sorted(type(answer).__name__ for answer in answers) == ["BalanceTooLow", "str"]
    assert (books.balance(household.account), books.balance(household.second)) == (20, 80)
    assert person.rows() == (1, 2, 2), "the refusal is kept, without entries"


@pytest.mark.checklist("PIX-05", "PIX-08")
@pytest.mark.parametrize("first", ["edit", "delete"])
def test_an_edit_and_a_deletion_of_one_transaction(books: Books, household: Household, first: str) -> None:
    """Two threads, an edit and a deletion of one transaction: each posting is reversed at most once, sums are right."""
    person = Person(books, household)
    made = person.record(60)
    jobs = {"edit": lambda: person.edit(made, 45), "delete": lambda: person.delete(made)}
    order = ["edit", "delete"] if first == "edit" else ["delete", "edit"]
    answers = dict(zip(order, all_at_once(books, [household.account], [jobs[name] for name in order]), strict=True))
    deleted = answers["delete"] == "reversed"
    assert deleted or type(answers["delete"]).__name__ == "TransactionBusy"
    assert answers["edit"] == 2 or type(answers["edit"]).__name__ in ("TransactionBusy", "TransactionReversed")
    assert deleted or answers["edit"] == 2
    left = 0 if deleted else 45
    assert (books.balance(household.account), books.balance(household.second)) == (100 - left, left)
    twice = "SELECT 1 FROM ledger_transfer WHERE team_id = %s GROUP BY reverses HAVING count(reverses) > 1"
    assert books.rows(twice, household.team) == []


def _random_batch(chance: random.Random, team: str, accounts: list[str]) -> list[Posting]:
    batch = []
    for _ in range(chance.choice([1, 1, 3])):
        one, two, three = chance.sample(accounts, 3)
        amount = chance.randint(2, 90)
        part = chance.randint(1, amount - 1)
        three_legs = [Leg(one, -amount), Leg(two, part), Leg(three, amount - part)]
        batch.append(posting(team, three_legs) if chance.random() < 0.3 else move(team, one, two, amount))
    return batch


def _together(books: Books, postings: list[Posting]) -> Any:
    return in_session(books, postings[0].team_id, lambda session: post_together(session, postings))
