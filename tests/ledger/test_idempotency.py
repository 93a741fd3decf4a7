"""The same request again: after success, refusal, failure, time-out, and where the answer was lost, it is done once."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date, datetime, timedelta, timezone
from functools import partial
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import InternalError
from sqlalchemy.ext.asyncio import AsyncSession
from tests.ledger import checks
from tests.ledger.books import Books, Household, move, posting
from tests.ledger.people import Person
from tests.ledger.proxy import Cut, Proxy
from tests.ledger.stage import (
    named,
    problems,
    raising,
    sleeping,
    through_lane,
    through_session,
    trapped,
    until,
    waiting,
)

from dumont.bookkeeping import Key, record
from dumont.db import Database, DatabaseUnavailable, publish, set_team
from dumont.ledger import (
    BadPosting,
    HoldRequest,
    LedgerBroken,
    Leg,
    Outcome,
    OutcomeUnknown,
    Posting,
    expire_holds,
    hold,
    open_account,
    post,
    post_together,
    void,
)

pytestmark = pytest.mark.requires_postgres
NOW = datetime(2026, 3, 14, 12, tzinfo=timezone.utc)
BALANCE_SYNC = "AFTER UPDATE ON ledger_account"
AFTER_ENTRY = "AFTER INSERT ON ledger_entry"


@pytest.fixture
def asked(household: Household) -> Posting:
    """A transfer of 10 from one account of a household to its other one."""
    return move(household.team, household.account, household.second, 10)


def _plain_and_batch(household: Household, books: Books) -> list[Posting]:
    legs = (Leg(household.account, -10), Leg(household.second, 7), Leg(household.category, 3))
    return [move(household.team, household.account, household.second, 10), posting(household.team, legs)]


@pytest.mark.checklist("PIX-01", "PIX-15")
def test_a_household_stands_alone(books: Books, household: Household) -> None:
    """The fixtures give each test a user with accounts and a category of his own, which nobody else writes to."""
    other = books.household()
    assert other.team != household.team and books.balance(household.account) == 100
    through_lane(books, [move(household.team, household.account, household.category, 30)])
    assert (books.balance(household.account), books.balance(other.account)) == (70, 100)


@pytest.mark.parametrize("check", [checks.same_key_other_request, checks.refused_stays_refused])
def test_a_key_means_one_request(books: Books, check: checks.Check) -> None:
    """Another request under a key is told so; a refused one is refused for good."""
    check(books)


@pytest.mark.parametrize("way", [through_lane, through_session])
def test_the_same_again_is_a_replay(books: Books, asked: Posting, way: Any) -> None:
    """Each way to post knows what another one did; the order of the legs is no difference."""
    assert problems([through_lane(books, [asked])]) == ["posted"]
    turned = posting(asked.team_id, asked.legs[::-1], key=asked.key)
    for again in (asked, turned):
        assert problems([way(books, [again])]) == ["replay"]
    assert books.total(asked.team_id) == [(2, 4)]


def test_one_key_of_two_teams_is_two(books: Books) -> None:
    """Keys of one team, and of one scope, are nobody else's."""
    requests = []
    for scope in ("web", "web", "import"):
        team, one, two = books.pair()
        requests += [move(team, one, two, 10, key="1", scope=scope), move(team, one, two, 10, key="1", scope="other")]
    assert len({asked.id for asked in requests}) == 6
    assert {name for asked in requests for name in problems([through_lane(books, [asked])])} == {"posted"}


async def test_one_key_twice_in_a_batch(books: Books, household: Household, asked: Posting) -> None:
    """In a batch to the writer the second is a replay; another body is told so; one session takes neither."""
    other = move(asked.team_id, household.account, household.second, 11, key=asked.key)
    async with books.writer() as writer:
        outcomes = await writer.post_batch([asked, asked, other, asked])
    assert [named(outcome) for outcome in outcomes] == ["posted", "replay", "idempotency-key-reused", "replay"]
    with pytest.raises(BadPosting):
        await asyncio.to_thread(through_session, books, [asked, asked])
    assert books.balance(household.second) == 10


def test_what_was_wrong_may_be_mended_under_its_key(books: Books, household: Household) -> None:
    """What can never stand leaves no row and no key behind."""
    wrong = move(household.team, household.account, "acc_nobody", 10)
    before = books.total(household.team)
    assert problems([through_lane(books, [wrong])]) == ["account-not-found"]
    assert books.total(household.team) == before
    right = move(household.team, household.account, household.second, 10, key=wrong.key)
    assert problems([through_lane(books, [right])]) == ["posted"]


@pytest.mark.checklist("PIX-02", "PIX-09")
@pytest.mark.parametrize("moment", [BALANCE_SYNC, AFTER_ENTRY])
def test_failure_after_the_entry_and_retry(books: Books, household: Household, moment: str) -> None:
    """The entry is written and then the update of the balance, or what comes after, raises: a retry posts it once."""
    for asked in _plain_and_batch(household, books):
        before = books.total(household.team), books.balance(household.account)
        with trapped(books, household.account, raising("XX000"), moment=moment):
            with pytest.raises(psycopg.errors.InternalError_):
                through_lane(books, [asked])
        assert (books.total(household.team), books.balance(household.account)) == before
        assert problems([through_lane(books, [asked]), through_lane(books, [asked])]) == ["posted", "replay"]
        assert books.balance(household.account) == before[1] - 10


@pytest.mark.checklist("PIX-02", "PIX-09")
async def test_the_writer_reports_a_failure_and_takes_the_retry(
    books: Books, household: Household, asked: Posting
) -> None:
    """A mistake of ours in the midst of a batch is told to the one whom it hit; the others stand."""
    others = [move(household.team, household.account, household.category, 1) for _ in range(9)]
    with trapped(books, household.second, raising("XX000"), moment=AFTER_ENTRY):
        async with books.writer() as writer:
            outcomes = await writer.post_batch([*others[:4], asked, *others[4:]])
            assert isinstance(outcomes.pop(4).problem, LedgerBroken)
            assert {named(outcome) for outcome in outcomes} == {"posted"}
    assert books.transfers(asked.id) == 0 and books.balance(household.account) == 91
    assert problems([through_lane(books, [asked])]) == ["posted"]


@pytest.mark.checklist("PIX-10")
async def test_time_out_after_the_rows_are_written(books: Books, household: Household) -> None:
    """The rows are written, the statement then runs out of time: nothing stands, and the same key posts once."""
    for asked in _plain_and_batch(household, books):
        before = books.balance(household.account)
        with trapped(books, household.account, "PERFORM pg_sleep(5)", moment=AFTER_ENTRY):
            async with books.writer(statement_timeout_ms=100, patience_seconds=0.3) as writer:
                with pytest.raises(DatabaseUnavailable):
                    await writer.post(asked)
        assert books.transfers(asked.id) == 0 and books.balance(household.account) == before
        async with books.writer() as writer:
            assert [named(await writer.post(asked)) for _ in range(2)] == ["posted", "replay"]
        assert books.balance(household.account) == before - 10


@pytest.mark.checklist("PIX-10")
async def test_time_out_after_the_flush_of_a_session(
    books: Books, household: Household, asked: Posting, database: Database
) -> None:
    """A request that wrote rows and posted is cut off before its commit: both are gone; the retry does both once."""
    with pytest.raises(DatabaseUnavailable):
        async with database.begin() as session:
            await _post_and_note(session, asked)
            backend = (await session.execute(text("SELECT pg_backend_pid()"))).scalar_one()
            books.run("SELECT pg_terminate_backend(%s)", backend)
            gone = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"
            until(lambda: not books.rows(gone, backend), "the session is ended")
    assert books.transfers(asked.id) == 0 and books.balance(household.account) == 100
    for count, expected in enumerate(("posted", "replay")):
        assert books.rows("SELECT count(*) FROM outbox_event WHERE topic = %s", asked.key) == [(count,)]
        async with database.begin() as session:
            assert named(await _post_and_note(session, asked)) == expected
    assert books.balance(household.account) == 90


@pytest.mark.checklist("PIX-10")
@pytest.mark.parametrize("cut", [Cut.ANSWER, Cut.MIDST, Cut.SILENCE])
async def test_a_lost_answer_is_asked_for_again(books: Books, household: Household, proxy: Proxy, cut: Cut) -> None:
    """The connection is cut before the answer, in the midst of the request, or falls silent: the writer asks again."""
    silence = 0.3 if cut is Cut.SILENCE else 60.0
    async with books.writer(proxy.through(books.urls.app), silence_seconds=silence) as writer:
        await writer.post(move(household.team, household.account, household.second, 1))
        for asked in _plain_and_batch(household, books):
            proxy.arm(cut)
            outcome = await writer.post(asked)
            assert named(outcome) == ("posted" if cut is Cut.MIDST else "replay")
            assert books.rows("SELECT count(*) FROM ledger_entry WHERE transfer_id = %s", asked.id) == [
                (len(asked.legs),)
            ]
    assert books.balance(household.account) == 79


@pytest.mark.checklist("PIX-10")
async def test_an_unknown_outcome_is_told_as_such(
    books: Books, household: Household, proxy: Proxy, asked: Posting
) -> None:
    """Patience ends while the outcome is unknown: the answer says so, and the same key tells that it stands."""
    async with books.writer(proxy.through(books.urls.app), patience_seconds=0.1) as writer:
        await writer.post(move(household.team, household.account, household.second, 1))
        proxy.arm(Cut.ANSWER, times=99)
        with pytest.raises(OutcomeUnknown):
            await writer.post(asked)
        assert books.transfers(asked.id) == 1
        proxy.arm(Cut.PASS)
        assert named(await writer.post(asked)) == "replay"
    assert books.balance(household.second) == 11


@pytest.mark.checklist("PIX-10")
@pytest.mark.parametrize("cut", [Cut.ANSWER, Cut.MIDST])
async def test_the_answer_to_a_commit_is_lost(
    books: Books, household: Household, proxy: Proxy, asked: Posting, cut: Cut
) -> None:
    """A session's connection is lost at its COMMIT, done or not: asked again, it is done once."""
    through = Database(proxy.through(books.urls.app), pool_size=1)
    try:
        proxy.arm(cut, contains=b"COMMIT")
        with pytest.raises(DatabaseUnavailable):
            async with through.begin() as session:
                await _post_and_note(session, asked)
        until(lambda: books.transfers(asked.id) == (cut is Cut.ANSWER), "the commit is done, or undone")
        async with through.begin() as session:
            outcome = await _post_and_note(session, asked)
        assert named(outcome) == ("replay" if cut is Cut.ANSWER else "posted")
    finally:
        await through.close()
    assert books.balance(household.account) == 90


async def test_a_posting_goes_on_behind_a_lost_connection(books: Books, household: Household, asked: Posting) -> None:
    """The old server process still writes when the same key is asked anew: it is done once, whoever is first."""
    with trapped(books, household.second, "PERFORM pg_sleep(0.5)", moment=AFTER_ENTRY):
        async with books.writer(silence_seconds=0.15) as writer:
            outcome = await writer.post(asked)
    assert named(outcome) == "replay"
    assert books.balance(household.second) == 10 and len(books.entries(household.second)) == 1


@pytest.mark.checklist("PIX-08")
async def test_reversals_are_asked_again(books: Books, household: Household, asked: Posting) -> None:
    """A reversal again is a replay; another key is told that it was reversed; what was reversed is not posted again."""
    back = move(household.team, household.second, household.account, 10, reverses=asked.id)
    async with books.writer() as writer:
        assert named(await writer.post(back)) == "transfer-not-found"
        said = [named(await writer.post(item)) for item in (asked, back, back, asked)]
        assert said == ["posted", "posted", "replay", "replay"]
        other = move(household.team, household.second, household.account, 10, reverses=asked.id)
        assert named(await writer.post(other)) == "already-reversed"
        part = move(household.team, household.second, household.account, 9, reverses=back.id)
        assert named(await writer.post(part)) == "reversal-differs"
    assert books.balance(household.account) == 100 and len(books.entries(household.account)) == 3


@pytest.mark.parametrize("wrong", ["reversal-differs", "balance-too-low"])
def test_a_reversal_that_fails_leaves_the_next_its_turn(books: Books, household: Household, wrong: str) -> None:
    """In one batch too: a reversal that cannot stand does not keep a later one under another key from it."""
    asked = move(household.team, household.account, household.second, 10)
    spent = move(household.team, household.second, household.category, 5)
    through_lane(books, [asked, spent])
    amount = 9 if wrong == "reversal-differs" else 10
    first = move(household.team, household.second, household.account, amount, reverses=asked.id)
    back = move(household.team, household.category, household.second, 5, reverses=spent.id)
    second = move(household.team, household.second, household.account, 10, reverses=asked.id)
    third = move(household.team, household.second, household.account, 10, reverses=asked.id)
    assert problems([through_lane(books, [first, back, second, third])]) == [
        wrong,
        "posted",
        "posted",
        "already-reversed",
    ]
    assert books.balance(household.account) == 100


def test_a_batch_takes_back_what_it_posted(books: Books, household: Household, asked: Posting) -> None:
    """A reversal may come in the batch of the transfer that it takes back, as it may right after it."""
    back = move(household.team, household.second, household.account, 10, reverses=asked.id)
    assert problems([through_lane(books, [asked, back, posting(asked.team_id, asked.legs)])]) == [
        "posted",
        "posted",
        "posted",
    ]
    assert [amount for _, amount, _ in books.entries(household.second)] == [10, -10, 10]


async def test_holds_are_asked_again(books: Books, household: Household, database: Database) -> None:
    """Each verb of a hold again changes nothing; one that was refused stays refused when there are funds."""
    request = HoldRequest(household.team, "test", "hold", household.account, 60, "a machine")
    more = HoldRequest(household.team, "test", "more", household.account, 60, "a machine")

    async def do(verb: Callable[[AsyncSession], Awaitable[Any]]) -> Any:
        async with database.begin() as session:
            await set_team(session, household.team)
            return await verb(session)

    said = [named(await do(lambda session, item=item: hold(session, item))) for item in (request, request, more)]
    assert said == ["posted", "replay", "balance-too-low"]
    for _ in range(2):
        await do(lambda session: void(session, household.team, request.id, "not needed"))
    assert books.rows("SELECT held FROM ledger_account WHERE id = %s", household.account) == [(0,)]
    assert named(await do(lambda session: hold(session, more))) == "balance-too-low again"
    settle = move(household.team, household.account, household.second, 10, settles=request.id)
    assert problems([through_lane(books, [settle])]) == ["hold-ended"]
    assert books.rows("SELECT count(*) FROM ledger_hold_event WHERE hold_id = %s", request.id) == [(2,)]


def test_a_settlement_that_fails_leaves_the_next_its_turn(books: Books, household: Household) -> None:
    """A settlement above what is held does not keep a later one in its batch from it; a third finds the hold ended."""
    hold_id = HoldRequest(household.team, "test", "hold", household.account, 30, "x").id
    books.run(
        "SELECT ledger_hold(%s, %s, '\\x00', %s, 30, 'x', NULL, NULL)", household.team, hold_id, household.account
    )
    settle = [
        move(household.team, household.account, household.second, amount, settles=hold_id) for amount in (31, 20, 10)
    ]
    assert problems([through_lane(books, settle)]) == ["hold-exceeded", "posted", "hold-ended"]
    assert books.balance(household.account) == 80
    assert problems([through_lane(books, [settle[1]])]) == ["replay"]


async def test_a_team_ends_its_own_holds_whatever_others_have(books: Books, database: Database) -> None:
    """Of the holds whose time is over a session's team ends its own, though another's ended first, and again none."""
    ours, other = books.household(), books.household()
    for number, home in enumerate((other, other, ours)):
        books.run(
            "SELECT ledger_hold(%s, gen_random_uuid(), '\\x00', %s, 10, 'x', NULL, %s)",
            home.team, home.account, NOW + timedelta(seconds=number),
        )  # fmt: skip
    for expected in (1, 0):
        async with database.begin() as session:
            await set_team(session, ours.team)
            assert await expire_holds(session, NOW + timedelta(minutes=1), limit=1) == expected
    held = "SELECT held FROM ledger_account WHERE id = ANY (%s) ORDER BY id = %s"
    assert books.rows(held, [ours.account, other.account], ours.account) == [(20,), (0,)]


async def test_an_account_opens_once_and_not_above_its_balance(books: Books, database: Database) -> None:
    """The same account again is the same; a limit above zero, which no empty account has, is refused."""
    team = books.team()
    wish: dict[str, Any] = {"account_type": "checking", "name": "mine", "currency": "BRL", "now": NOW}
    for _ in range(2):
        async with database.begin() as session:
            await set_team(session, team)
            assert await open_account(session, team, **wish, account_id=f"acc {team}") == f"acc {team}"
    with pytest.raises(BadPosting):
        async with database.begin() as session:
            await open_account(session, team, **{**wish, "name": "other"}, floor=1)
    assert books.rows("SELECT count(*) FROM ledger_account WHERE team_id = %s", team) == [(1,)]


async def test_an_edit_is_whole_or_not_at_all(
    books: Books, household: Household, asked: Posting, database: Database
) -> None:
    """A reversal and a new transfer in one request: where the new one is refused the old one stands."""
    through_lane(books, [asked])
    back = move(household.team, household.second, household.account, 10, reverses=asked.id, key="edit")
    dear = move(household.team, household.account, household.second, 101, key="edit", leg=1)
    with pytest.raises(Exception, match="too low"):
        async with database.begin() as session:
            await post_together(session, [back, dear])
    assert books.balance(household.account) == 90 and books.transfers(back.id) == 0
    async with database.begin() as session:
        cheap = move(household.team, household.account, household.second, 100, key="edit", leg=1)
        await post_together(session, [back, cheap])
    assert books.balance(household.account) == 0


@pytest.mark.checklist("PIX-02", "PIX-09", "PIX-10")
@pytest.mark.parametrize("moment", [BALANCE_SYNC, AFTER_ENTRY, "AFTER INSERT ON bookkeeping_transaction"])
def test_a_transaction_fails_late_and_is_tried_again(books: Books, household: Household, moment: str) -> None:
    """Entries and balances are written and then something raises, or takes too long: the retry records it once."""
    person = Person(books, household)
    for number, body in enumerate((raising("XX000"), "PERFORM pg_sleep(10)")):
        with trapped(books, household.account, body, moment=moment):
            with pytest.raises((InternalError, DatabaseUnavailable)):
                person.once(partial(_record, person, f"{number}"), statement_timeout_ms=200)
        assert person.rows() == (number, number, 2 * number)
        assert person.record(key=f"{number}") == person.record(key=f"{number}")
    assert person.rows() == (2, 2, 4) and books.balance(household.account) == 80


def test_nothing_is_left_waiting(books: Books) -> None:
    """The tests of this file leave no server process that waits or sleeps."""
    until(lambda: not waiting(books) and not sleeping(books), "everybody has ended")


async def _record(person: Person, key: str, session: AsyncSession) -> Any:
    return await record(session, person.who, person.facts(), Key("web", key))


async def _post_and_note(session: AsyncSession, asked: Posting) -> Outcome:
    """Write a row of another table and post, as requests do that do more than post."""
    await set_team(session, asked.team_id)
    await publish(session, topic=asked.key, resource_type="test", resource_id=asked.id, data={}, team_id=asked.team_id)
    return await post(session, asked)


@pytest.mark.parametrize(
    ("more", "known"),
    [
        ({}, "5261570de17464ff9c61c447901a5ef5"),
        ({"memo": "a'b\"ç", "reverses": "0" * 32, "settles": "1" * 32}, "64180196ec7cb1715940826fc8d1f9d7"),
    ],
    ids=["plain", "with all there is"],
)
def test_a_fingerprint_stays_what_it_was(more: dict[str, Any], known: str) -> None:
    """A request that was sent to an older release and is sent again to this one is the same request."""
    legs = (Leg("acc_b", -5), Leg("acc_a", 5))
    assert Posting("team_1", "app", "k", "expense", legs, date(2026, 3, 14), **more).fingerprint == known
