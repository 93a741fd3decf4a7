"""What tests of the ledger do to a database while others write: hold accounts, trap writes, let many meet at once."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeVar

import psycopg
from sqlalchemy.ext.asyncio import AsyncSession
from tests.ledger.books import Books

from dumont.db import Database, DatabaseUnavailable, psycopg_url, set_team
from dumont.ledger import Lane, Outcome, Posting, post_batch

T = TypeVar("T")
Answer = list[Outcome] | BaseException
_DEADLINE_SECONDS = 60.0
_numbers = count()


@contextmanager
def held(books: Books, *accounts: str) -> "Iterator[psycopg.Connection[tuple[Any, ...]]]":
    """Keep accounts locked, as a transaction of somebody else does, until the block ends."""
    with psycopg.connect(psycopg_url(books.urls.owner)) as connection:
        connection.execute(
            "SELECT 1 FROM ledger_account WHERE id = ANY (%s) ORDER BY id FOR NO KEY UPDATE", [list(accounts)]
        )
        yield connection
        connection.rollback()


@contextmanager
def trapped(books: Books, account: str, body: str, *, moment: str = "BEFORE INSERT ON ledger_entry") -> Iterator[str]:
    """Run SQL whenever a row of one account is written; yields the name of a sequence of the trap's own."""
    name = f"trap_{next(_numbers)}"
    rows = {"ledger_account": f"NEW.id = '{account}'", "ledger_entry": f"NEW.account = {books.number(account)}"}
    row = rows.get(moment.split()[-1], f"NEW.account_id = '{account}'")
    books.run(f"CREATE SEQUENCE {name}")
    books.run(
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body.replace('TRAP', name)}; "
        "RETURN NEW; END $$"
    )
    books.run(f"CREATE TRIGGER {name} {moment} FOR EACH ROW WHEN ({row}) EXECUTE FUNCTION {name}()")
    try:
        yield name
    finally:
        books.run(f"DROP FUNCTION {name} CASCADE")
        books.run(f"DROP SEQUENCE {name}")


def raising(state: str, *, times: int | None = None, message: str = "a trap") -> str:
    """Return what raises an error of a SQLSTATE, each time or the first few times."""
    raised = f"RAISE EXCEPTION '{message}' USING ERRCODE = '{state}'"
    return raised if times is None else f"IF nextval('TRAP') <= {times} THEN {raised}; END IF"


def until(seen: Callable[[], object], what: str, seconds: float = _DEADLINE_SECONDS) -> None:
    """Wait for something that must come; it is an error if it does not."""
    end = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.01)


def waiting(books: Books, kind: str = "Lock", event: str = "%") -> list[int]:
    """Return the server processes in this database that wait for a lock, or for something else."""
    found = books.rows(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = %s "
        "AND wait_event LIKE %s",
        kind, event,
    )  # fmt: skip
    return [int(row[0]) for row in found]


def sleeping(books: Books) -> list[int]:
    """Return the server processes that are in pg_sleep."""
    return waiting(books, "Timeout", "PgSleep")


def alone(job: Coroutine[Any, Any, T]) -> T:
    """Run something asynchronous in a thread of its own, to its end."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, job).result()


def through_lane(books: Books, postings: Sequence[Posting]) -> list[Outcome]:
    """Post as the writer does, over a connection of its own that waits long for locks."""

    async def go() -> list[Outcome]:
        lane = Lane(books.urls.app, lock_timeout_ms=20_000, statement_timeout_ms=30_000, silence_seconds=40.0)
        try:
            return await lane.post(postings)
        finally:
            await lane.close()

    return alone(go())


def through_session(books: Books, postings: Sequence[Posting]) -> list[Outcome]:
    """Post as a request does that also writes rows: last in a transaction of its own."""
    return in_session(books, postings[0].team_id, lambda session: post_batch(session, postings))


def in_session(books: Books, team: str, verb: Callable[[AsyncSession], Coroutine[Any, Any, T]]) -> T:
    """Do something in a transaction of a team, as the application; again where it is told to wait."""

    async def go() -> T:
        database = Database(books.urls.app, pool_size=1)
        try:
            async with database.begin() as session:
                await set_team(session, team)
                return await verb(session)
        finally:
            await database.close()

    while True:
        try:
            return alone(go())
        except DatabaseUnavailable:
            continue


Way = Callable[[Books, Sequence[Posting]], list[Outcome]]


def at_once(
    books: Books, gates: Sequence[str], asked: Sequence[Sequence[Posting]], way: Way = through_lane
) -> list[Answer]:
    """Post each batch in a thread of its own; all meet at accounts that are let go when everybody waits there."""
    jobs = [lambda batch=batch: way(books, batch) for batch in asked]
    return all_at_once(books, gates, jobs)


def all_at_once(books: Books, gates: Sequence[str], jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run each job in a thread of its own; they come to locked accounts one by one, and are let go together."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        given: list[Future[Any]] = []
        with held(books, *gates):
            for job in jobs:
                given.append(pool.submit(job))
                until(lambda: len(waiting(books)) + sum(one.done() for one in given) >= len(given), "the gate is met")
        return [_answer(job) for job in given]


def in_thread(pool: ThreadPoolExecutor, way: Way, books: Books, *postings: Posting) -> "Future[list[Outcome]]":
    """Post in a thread, without waiting."""
    return pool.submit(way, books, postings)


def problems(answers: Sequence[Answer]) -> list[str]:
    """Name what became of each posting: `posted`, `replay`, the code of its problem, or an error."""
    return [name for answer in answers for name in _names(answer)]


def _names(answer: Answer) -> list[str]:
    if isinstance(answer, BaseException):
        return [type(answer).__name__]
    return [named(outcome) for outcome in answer]


def named(outcome: Outcome) -> str:
    """Name what became of one posting."""
    if outcome.problem is not None:
        code = str(outcome.problem.extra.get("rule", outcome.problem.code))
        return f"{code} again" if outcome.replayed else code
    return "replay" if outcome.replayed else "posted"


def _answer(job: "Future[Any]") -> Any:
    error = job.exception()
    return job.result() if error is None else error
