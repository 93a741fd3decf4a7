"""A slow, locked or full database: an answer that says what to do, nothing half-written; the same key posts once."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker
from tests.ledger.books import Books, Household, move, posting
from tests.ledger.people import Person
from tests.ledger.stage import held, named, problems, raising, sleeping, through_lane, trapped, until, waiting

from dumont.core import Act, Problem
from dumont.db import Database, DatabaseUnavailable, psycopg_url, publish, set_team
from dumont.ledger import BalanceTooLow, Fault, LedgerBroken, Leg, OutcomeUnknown, Posting, classify, post, problem_for

pytestmark = pytest.mark.requires_postgres
AFTER_ENTRY = "AFTER INSERT ON ledger_entry"

NOTHING_WRITTEN = ["40001", "40P01", "55P03", "57014", "25P03", "25P04", "53100", "53200", "53300", "57P03", "53000"]
UNKNOWN = ["08000", "08003", "08006", "57P01", "57P02", "57P05"]
REFUSED = ["22003", "22P02", "23000", "23001", "23502", "23503", "23505", "23514", "P0001"]
OURS = ["42501", "42883", "XX000", "0A000"]
FAULTS = {
    "40001": Fault.CONFLICT, "40P01": Fault.CONFLICT, "55P03": Fault.LOCKED, "57014": Fault.SLOW, "25P03": Fault.SLOW,
    "25P04": Fault.SLOW, "53100": Fault.SLOW, "53200": Fault.SLOW, "53300": Fault.GONE, "57P03": Fault.GONE,
    "53000": Fault.GONE, **dict.fromkeys(UNKNOWN, Fault.UNKNOWN), **dict.fromkeys(REFUSED, Fault.REFUSED),
    **dict.fromkeys(OURS, Fault.BROKEN),
}  # fmt: skip


@pytest.fixture
def asked(household: Household) -> Posting:
    """A transfer of 10 from one account of a household to its other one."""
    return move(household.team, household.account, household.second, 10)


def _both(household: Household) -> list[Posting]:
    legs = (Leg(household.account, -10), Leg(household.second, 7), Leg(household.category, 3))
    return [move(household.team, household.account, household.second, 10), posting(household.team, legs)]


@pytest.mark.checklist("PIX-13")
async def test_a_slow_database_is_waited_for(books: Books, household: Household) -> None:
    """Writing takes long but not too long: ten askers of one transfer get it once, and no half of it is ever seen."""
    with trapped(books, household.second, "PERFORM pg_sleep(1)"):
        for asked in _both(household):
            before = books.total(household.team)
            async with books.writer() as writer, books.writer() as other:
                asking = [asyncio.ensure_future((writer, other)[turn % 2].post(asked)) for turn in range(10)]
                await asyncio.to_thread(until, lambda: sleeping(books), "the posting sleeps")
                assert books.total(household.team) == before, "the other connections see nothing of it"
                outcomes = await asyncio.gather(*asking)
            assert sorted(named(outcome) for outcome in outcomes) == ["posted", *["replay"] * 9]
    assert books.balance(household.account) == 80


@pytest.mark.checklist("PIX-02", "PIX-13")
async def test_a_database_that_is_too_slow(books: Books, household: Household) -> None:
    """Writing takes longer than a statement may: the asker is told to try again, nothing stands."""
    for asked in _both(household):
        before = books.total(household.team), books.balance(household.account)
        with trapped(books, household.second, "PERFORM pg_sleep(10)"):
            async with books.writer(statement_timeout_ms=100, patience_seconds=1.5) as writer:
                with pytest.raises(DatabaseUnavailable) as caught:
                    await writer.post(asked)
                assert writer.tally.faults[Fault.SLOW] >= 2
        assert caught.value.act is Act.WAIT and caught.value.retry_after
        assert (books.total(household.team), books.balance(household.account)) == before
        assert problems([through_lane(books, [asked]), through_lane(books, [asked])]) == ["posted", "replay"]


@pytest.mark.checklist("PIX-02", "PIX-13")
async def test_a_session_whose_statement_takes_too_long(books: Books, household: Household, asked: Posting) -> None:
    """In a request's own session too: it is told to try again, its other rows are gone as well, the retry does all."""
    hasty = Database(books.urls.app, pool_size=1, statement_timeout_ms=200)
    database = Database(books.urls.app, pool_size=1)
    try:
        with trapped(books, household.second, "PERFORM pg_sleep(10)"):
            with pytest.raises(DatabaseUnavailable):
                await _request(hasty, asked)
        assert _rows_of(books, asked) == (0, 0)
        assert [await _request(database, asked) for _ in range(2)] == ["posted", "replay"]
    finally:
        await hasty.close()
        await database.close()
    assert books.balance(household.account) == 90


async def test_a_locked_account_holds_up_nobody_else(books: Books, household: Household, asked: Posting) -> None:
    """Somebody holds one account: what touches it waits, all else goes on; it is posted when the account is free."""
    waits = [asked, *(move(household.team, household.account, household.second, 1) for _ in range(5))]
    goes = [move(household.team, household.category, household.account, 1) for _ in range(20)]
    async with books.writer(lock_timeout_ms=60) as writer:
        with held(books, household.second):
            slow = [asyncio.ensure_future(writer.post(item)) for item in waits]
            quick = await asyncio.gather(*(writer.post(item) for item in goes))
            assert {named(outcome) for outcome in quick} == {"posted"}
            assert not any(item.done() for item in slow) and books.transfers(*(item.id for item in waits)) == 0
        assert {named(outcome) for outcome in await asyncio.gather(*slow)} == {"posted"}
        assert writer.tally.faults[Fault.LOCKED] >= 1
    assert books.balance(household.second) == 15


async def test_an_account_stays_locked(books: Books, household: Household) -> None:
    """Patience ends before the lock does: told to try again, nothing written, and the same key posts once."""
    for asked in _both(household):
        before = books.total(household.team)
        async with books.writer(lock_timeout_ms=40, patience_seconds=0.3) as writer:
            with held(books, household.second):
                with pytest.raises(DatabaseUnavailable):
                    await writer.post(asked)
                assert books.total(household.team) == before
            assert [named(await writer.post(asked)) for _ in range(2)] == ["posted", "replay"]


async def test_what_is_wrong_is_told_beside_a_locked_account(books: Books, household: Household) -> None:
    """An account that is not there is told of at once, though the batch that asked for it met a lock."""
    wrong = move(household.team, household.account, "acc_nobody", 1)
    async with books.writer(lock_timeout_ms=40, patience_seconds=60) as writer:
        with held(books, household.second):
            waits = asyncio.ensure_future(writer.post(move(household.team, household.account, household.second, 1)))
            assert named(await writer.post(wrong)) == "account-not-found"
            assert not waits.done()
        assert named(await waits) == "posted"


async def test_a_session_meets_a_locked_account(books: Books, household: Household, asked: Posting) -> None:
    """A request waits two seconds for an account, is then told to try again, and has written nothing."""
    database = Database(books.urls.app, pool_size=1)
    try:
        with held(books, household.second):
            begun = time.monotonic()
            with pytest.raises(DatabaseUnavailable):
                await _request(database, asked)
            assert 1.9 < time.monotonic() - begun < 60
        assert _rows_of(books, asked) == (0, 0)
        assert await _request(database, asked) == "posted"
    finally:
        await database.close()


@pytest.mark.checklist("PIX-02", "PIX-13")
def test_a_transaction_is_recorded_slowly(books: Books, household: Household) -> None:
    """The database sleeps while somebody records: nothing is seen before its commit; the same again is the same."""
    person = Person(books, household)
    with trapped(books, household.second, "PERFORM pg_sleep(1)"), ThreadPoolExecutor(1) as pool:
        job = pool.submit(person.record)
        until(lambda: sleeping(books), "the posting sleeps")
        assert person.rows() == (0, 0, 0) and books.balance(household.account) == 100
        made = job.result()
    assert person.record() == made
    assert person.rows() == (1, 1, 2) and books.balance(household.account) == 90


async def test_an_idle_transaction_is_ended(books: Books, household: Household, asked: Posting) -> None:
    """A request that posts and then idles loses its transaction and the lock: others go on, the retry posts once."""
    database = Database(books.urls.app, pool_size=1)
    try:
        with pytest.raises(DatabaseUnavailable):
            async with database.begin() as session:
                await _note_and_post(session, asked)
                await session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 100"))
                other = move(household.team, household.account, household.second, 1)
                answer = await asyncio.to_thread(through_lane, books, [other])
                assert problems([answer]) == ["posted"], "the account is free again"
        assert _rows_of(books, asked) == (0, 0)
        assert [await _request(database, asked) for _ in range(2)] == ["posted", "replay"]
    finally:
        await database.close()
    assert books.balance(household.account) == 89


async def test_no_connection_is_free(books: Books, household: Household, asked: Posting) -> None:
    """The server takes no more connections: told to try again, nothing asked; then the same key posts once."""
    [(name,)] = books.rows("SELECT current_database()")
    books.run(f"ALTER DATABASE {name} CONNECTION LIMIT 0")
    try:
        async with books.writer(patience_seconds=0.3) as writer:
            with pytest.raises(DatabaseUnavailable):
                await writer.post(asked)
            assert set(writer.tally.faults) == {Fault.GONE}
            database = Database(books.urls.app, pool_size=1)
            with pytest.raises(DatabaseUnavailable):
                await _request(database, asked)
            await database.close()
            books.run(f"ALTER DATABASE {name} CONNECTION LIMIT -1")
            assert [named(await writer.post(asked)) for _ in range(2)] == ["posted", "replay"]
    finally:
        books.run(f"ALTER DATABASE {name} CONNECTION LIMIT -1")


async def test_the_pool_is_exhausted(books: Books, household: Household, asked: Posting) -> None:
    """All connections of a process are in use: told to try again; the one that has them is not disturbed."""
    database = Database(books.urls.app, pool_size=1)
    database.engine.sync_engine.pool._timeout = 0.2  # type: ignore[attr-defined]
    try:
        async with database.begin() as session:
            await _note_and_post(session, asked)
            with pytest.raises(DatabaseUnavailable):
                await _request(database, move(household.team, household.account, household.second, 1))
        assert _rows_of(books, asked) == (1, 1)
    finally:
        await database.close()


def test_an_owner_that_holds_rows_is_waited_for(
    books: Books, household: Household, asked: Posting, postgres_session_factory: "sessionmaker[Session]"
) -> None:
    """A transaction of another program over both accounts: the posting waits for its end and sees what it did."""
    with ThreadPoolExecutor(1) as pool, postgres_session_factory() as session:
        session.execute(
            text("UPDATE ledger_account SET floor = 95 WHERE id = :account"), {"account": household.account}
        )
        job = pool.submit(through_lane, books, [asked])
        until(lambda: waiting(books), "the posting waits")
        session.commit()
        assert problems([job.result()]) == ["balance-too-low"]
    assert books.transfers(asked.id) == 0


@pytest.mark.parametrize("state", [*NOTHING_WRITTEN, *UNKNOWN])
async def test_the_writer_tries_again(books: Books, household: Household, asked: Posting, state: str) -> None:
    """Whatever error may pass by itself, or hides the outcome, is followed by the same key until it stands, once."""
    with trapped(books, household.second, raising(state, times=2), moment=AFTER_ENTRY):
        async with books.writer() as writer:
            assert named(await writer.post(asked)) == "posted"
            assert writer.tally.faults == {FAULTS[state]: 2}
    assert books.rows("SELECT count(*), sum(amount) FROM ledger_entry WHERE transfer_id = %s", asked.id) == [(2, 0)]
    assert books.balance(household.second) == 10


@pytest.mark.parametrize("state", [*REFUSED, *OURS])
async def test_the_writer_gives_up_at_once(books: Books, household: Household, asked: Posting, state: str) -> None:
    """What will be so every time is told at once, to the one whom it hits; who came in the same batch is posted."""
    other = move(household.team, household.account, household.category, 1)
    with trapped(books, household.second, raising(state), moment=AFTER_ENTRY):
        async with books.writer() as writer:
            first, second = await writer.post_batch([asked, other])
    assert isinstance(first.problem, LedgerBroken) and first.problem.act is Act.REPORT
    assert named(second) == "posted" and books.transfers(asked.id) == 0
    assert books.balance(household.account) == 99


@pytest.mark.parametrize(("state", "fault"), FAULTS.items())
def test_every_class_of_errors_has_an_answer(postgres_engine: Engine, state: str, fault: Fault) -> None:
    """Raised by the server, an error is what the table says, and its problem says what to do."""
    with (
        pytest.raises(psycopg.Error) as caught,
        psycopg.connect(psycopg_url(postgres_engine.url.render_as_string(hide_password=False))) as connection,
    ):
        connection.execute(f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{state}'; END $$".encode())
    assert classify(caught.value) is fault
    kinds: dict[Fault, type[Problem]] = {
        Fault.UNKNOWN: OutcomeUnknown,
        Fault.REFUSED: LedgerBroken,
        Fault.BROKEN: LedgerBroken,
    }
    assert type(problem_for(caught.value)) is kinds.get(fault, DatabaseUnavailable)


def test_the_floor_of_the_table_is_a_refusal(books: Books, household: Household) -> None:
    """What only the table's own CHECK notices is told as what it is."""
    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        books.run("UPDATE ledger_account SET floor = 101 WHERE id = %s", household.account)
    assert isinstance(problem_for(caught.value), BalanceTooLow)


@pytest.mark.checklist("PIX-13")
def test_nothing_is_left_open(books: Books) -> None:
    """No server process of these tests waits, sleeps or idles in a transaction."""
    quiet = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%%'"
    until(lambda: not waiting(books) and not sleeping(books) and not books.rows(quiet), "everybody has ended")


def _rows_of(books: Books, asked: Posting) -> tuple[int, int]:
    """Count what a request left: news and transfers."""
    [(news,)] = books.rows("SELECT count(*) FROM outbox_event WHERE topic = %s", asked.key)
    return news, books.transfers(asked.id)


async def _request(database: Database, asked: Posting) -> str:
    async with database.begin() as session:
        return await _note_and_post(session, asked)


async def _note_and_post(session: Any, asked: Posting) -> str:
    """Write a row of another table and post, as requests do that do more than post."""
    await set_team(session, asked.team_id)
    await publish(session, topic=asked.key, resource_type="test", resource_id="x", data={}, team_id=asked.team_id)
    return named(await post(session, asked))
