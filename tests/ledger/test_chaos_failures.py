"""Servers, connections and programs that die in the midst of a posting: all of it stands or nothing, and once."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.exc import InternalError
from tests.ledger import checks
from tests.ledger.application import to_json
from tests.ledger.books import Books, Household, move, posting
from tests.ledger.conftest import expect_sound
from tests.ledger.history import History, judge, read_rows
from tests.ledger.people import Person
from tests.ledger.proxy import Cut, Proxy, never
from tests.ledger.stage import named, problems, raising, sleeping, through_lane, trapped, until
from tests.ledger.wreck import Program, Wreck, programs, server_processes, stopped, wreck

from dumont.db import DatabaseUnavailable
from dumont.ledger import Leg, OutcomeUnknown, Posting

pytestmark = pytest.mark.requires_postgres
SECOND_ENTRY = "PERFORM pg_sleep(30)"


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wreck]:
    """A server of this module alone, which may be killed; behind it the audit."""
    with wreck(tmp_path_factory.mktemp("child")) as child:
        yield child
        child.await_up()
        expect_sound(child.urls)


def _both(books: Books) -> tuple[str, str, list[Posting]]:
    """Make a team with 100 and two requests of 10, a plain one and one of three legs; returns the last account too."""
    team, one, two = books.pair()
    third = books.account(team)
    legs = (Leg(one, -10), Leg(two, 4), Leg(third, 6))
    return team, one, [move(team, one, two, 10), posting(team, legs)]


@pytest.mark.checklist("PIX-02", "PIX-04", "PIX-11")
def test_a_failure_between_the_entries(books: Books) -> None:
    """The second entry raises: neither entry, transfer nor balance is left; plain and in a batch."""
    checks.failure_between_the_legs(books)


@pytest.mark.checklist("PIX-02", "PIX-11")
def test_a_transaction_fails_between_its_entries(books: Books, household: Household) -> None:
    """Recording, editing and deleting too: where the second entry fails no entry and no transaction is left of it."""
    person = Person(books, household)
    last = max(household.account, household.second)
    with trapped(books, last, raising("XX000")), pytest.raises(InternalError):
        person.record()
    assert person.rows() == (0, 0, 0)
    made = person.record()
    for verb in (lambda: person.edit(made, 7), lambda: person.delete(made)):
        with trapped(books, last, raising("XX000")), pytest.raises(InternalError):
            verb()
        assert person.rows() == (1, 1, 2) and books.balance(household.second) == 10
    assert (person.edit(made, 7), person.delete(made)) == (2, "reversed")
    assert person.rows() == (1, 4, 8) and books.balance(household.account) == 100


@pytest.mark.checklist("PIX-02", "PIX-11", "PIX-16")
@pytest.mark.parametrize("death", ["backend killed", "server killed", "backend terminated", "request cancelled"])
def test_a_death_between_the_entries(child: Wreck, death: str) -> None:
    """The first entry is written, the second is being written when the server process dies: nothing is left of it."""
    books = child.books
    team, one, requests = _both(books)
    before = books.total(team)
    for asked in requests:
        with trapped(books, max(leg.account_id for leg in asked.legs), SECOND_ENTRY), ThreadPoolExecutor(1) as pool:
            job = pool.submit(through_lane, books, [asked])
            until(lambda: sleeping(books), "the second entry is being written")
            _let_die(child, death, sleeping(books)[0])
            assert isinstance(job.exception(), psycopg.OperationalError)
            child.await_up()
            assert (books.total(team), books.balance(one), books.transfers(asked.id)) == (before, 100, 0)
    assert problems([through_lane(books, [asked]) for asked in requests * 2]) == [
        "posted",
        "posted",
        "replay",
        "replay",
    ]
    assert books.balance(one) == 80


@pytest.mark.checklist("PIX-02", "PIX-09")
@pytest.mark.parametrize("death", ["backend killed", "server killed", "backend terminated"])
async def test_the_writer_outlives_the_server(child: Wreck, death: str) -> None:
    """The server dies in the midst of a batch: the writer waits for it and asks again; each posting stands once."""
    books = child.books
    team, one, two = books.pair(funds=1000)
    asked = [move(team, one, two, number + 1) for number in range(30)]
    async with books.writer(patience_seconds=60) as writer:
        with trapped(books, two, "IF nextval('TRAP') = 7 THEN PERFORM pg_sleep(30); END IF"):
            answers = asyncio.ensure_future(writer.post_batch(asked))
            await asyncio.to_thread(until, lambda: sleeping(books), "the batch is being written")
            _let_die(child, death, sleeping(books)[0])
            assert {named(outcome) for outcome in await answers} == {"posted"}
    assert books.balance(two) == sum(range(1, 31)) and len(books.entries(two)) == 30


async def test_acknowledged_is_durable(child: Wreck) -> None:
    """The whole server is killed right after an answer: what was answered is there when it is up again."""
    books = child.books
    team, one, two = books.pair(funds=1000)
    async with books.writer(patience_seconds=60) as writer:
        for turn in range(3):
            asked = [move(team, one, two, 1) for _ in range(20)]
            outcomes = await asyncio.gather(*(writer.post(item) for item in asked))
            child.kill()
            assert {named(outcome) for outcome in outcomes} == {"posted"}
            child.await_up()
            assert books.transfers(*(item.id for item in asked)) == 20 and books.balance(two) == 20 * (turn + 1)


async def test_a_server_that_stands_still(child: Wreck) -> None:
    """All processes of the server are stopped: the writer says that it does not know; then the same key tells."""
    books = child.books
    team, one, requests = _both(books)
    async with books.writer(silence_seconds=0.5, patience_seconds=1.0) as writer, books.writer() as patient:
        warm = move(team, one, books.account(team), 1)
        assert {named(await which.post(warm)) for which in (patient, writer)} == {"posted", "replay"}
        with stopped(*server_processes(child)):
            given = asyncio.gather(*(writer.post(asked) for asked in requests), return_exceptions=True)
            answers = await asyncio.wait_for(given, 60)
        assert all(isinstance(answer, (OutcomeUnknown, DatabaseUnavailable)) for answer in answers)
        for asked in requests:
            assert named(await patient.post(asked)) in ("posted", "replay")
    assert books.balance(one) == 79 and books.transfers(*(asked.id for asked in requests)) == 2


@pytest.mark.checklist("PIX-10", "PIX-16")
def test_a_program_is_killed_between_commit_and_answer(books: Books, proxy: Proxy, tmp_path: Path) -> None:
    """The commit is done and its answer on the way when the program dies: the next one asks again, and it is once."""
    team, one, requests = _both(books)
    plan = [[to_json(asked, way=way)] for asked, way in zip(requests, ("writer", "session"), strict=True)]
    program = Program(tmp_path, "program", plan, url=proxy.through(books.urls.app))

    def commits(request: bytes) -> Cut:
        alone = b"ledger_post" in request and b"set_config" not in request
        return Cut.SILENCE if alone or b"COMMIT" in request else Cut.PASS

    with programs(program):
        proxy.decide = commits
        program.start()
        until(lambda: books.transfers(*(asked.id for asked in requests)) == 2, "both are committed")
        assert not program.has_begun()
        program.kill()
        proxy.decide = never
        program.start()
        program.wait()
    assert _judged(books, team, requests, program) == {"posted": 2, "unanswered": 0}
    assert books.balance(one) == 80


@pytest.mark.parametrize("last", ["the first half", "all"])
def test_a_program_is_killed_in_the_midst_of_a_batch(books: Books, tmp_path: Path, last: str) -> None:
    """The server process goes on with a batch of the dead program; the next one asks for the same: each stands once."""
    team, one, two = books.pair(funds=1000)
    asked = [move(team, one, two, number % 5 + 1) for number in range(60)]
    plan = [[to_json(item) for item in asked]]
    program = Program(tmp_path, "program", plan, url=books.urls.app, clients=1)
    slow = "IF nextval('TRAP') = 20 THEN PERFORM pg_sleep(0.7); END IF"
    with programs(program), trapped(books, two, slow):
        program.start()
        until(lambda: sleeping(books), "the batch is being written")
        program.kill()
        if last == "all":
            until(lambda: books.transfers(asked[0].id), "the dead program's batch is committed")
        program.start()
        program.wait()
    assert _judged(books, team, asked, program) == {"posted": 60, "unanswered": 0}
    assert len(books.entries(two)) == 60


@pytest.mark.checklist("PIX-06", "PIX-16")
def test_two_programs_are_asked_the_same(books: Books, tmp_path: Path) -> None:
    """Two instances of the application post the same plan at once in other orders: each request is done once."""
    team, one, two = books.pair(funds=300)
    asked = [move(team, *((one, two) if number % 3 else (two, one)), number % 9 + 1) for number in range(200)]
    plan = [[to_json(item)] for item in asked]
    both = [Program(tmp_path, name, order, url=books.urls.app) for name, order in (("one", plan), ("two", plan[::-1]))]
    with programs(*both):
        for program in both:
            program.start()
        for program in both:
            program.wait()
    _judged(books, team, asked, *both)
    assert (
        books.transfers(*(item.id for item in asked))
        + books.rows("SELECT count(*) FROM ledger_transfer WHERE team_id = %s AND refusal IS NOT NULL", team)[0][0]
        == 200
    )


def test_the_judge_notices(books: Books) -> None:
    """A history is only worth what its judge sees: a lost answer, a double, a stranger, an order, a stale read."""
    team, one, two = books.pair()
    first, second, third = (move(team, one, two, amount) for amount in (5, 6, 7))
    through_lane(books, [first])
    through_lane(books, [second])
    rows = read_rows(books, team)

    def seen(*lines: dict[str, object]) -> list[str]:
        history = History({asked.id: asked for asked in (first, second, third)})
        history.take([{"sent": first.id, "at": 1.0}, {"sent": second.id, "at": 3.0}, *lines])
        return judge(history, rows)

    done = [{"done": first.id, "said": "posted", "at": 2.0}, {"done": second.id, "said": "posted", "at": 4.0}]
    assert seen(*done) == [] and seen() == []
    assert "does not stand" in seen({"sent": third.id, "at": 5.0}, {"done": third.id, "said": "posted", "at": 6.0})[0]
    assert "no refusal" in seen({"done": first.id, "said": "balance-too-low", "at": 2.0})[0]
    assert "was answered" in seen({"done": first.id, "said": "ledger-refused", "at": 2.0})[0]
    swapped = [{"done": second.id, "said": "posted", "at": 0.5}]
    assert "was sent after" in seen(*swapped)[0]
    read = {"read": two, "from": 4.5, "to": 4.6}
    assert seen(*done, {**read, "version": 2, "balance": 11}) == []
    assert "answered before" in seen(*done, {**read, "version": 1, "balance": 5})[0]
    assert "never was" in seen(*done, {**read, "version": 2, "balance": 12})[0]
    stranger = History({first.id: first})
    stranger.take([{"sent": first.id, "at": 1.0}])
    assert "nobody asked" in judge(stranger, rows)[0]


def _let_die(child: Wreck, death: str, backend: int) -> None:
    if death == "backend killed":
        child.kill_backend(backend)
    elif death == "server killed":
        child.kill()
    else:
        verb = "pg_terminate_backend" if death == "backend terminated" else "pg_cancel_backend"
        child.books.run(f"SELECT {verb}(%s)", backend)


def _judged(books: Books, team: str, asked: list[Posting], *all_: Program) -> dict[str, int]:
    """Hold what the programs were told against the rows, and count the answers."""
    history = History({posting.id: posting for posting in asked})
    for program in all_:
        history.take(program.lines())
    assert judge(history, read_rows(books, team)) == []
    return dict(history.counts)
