"""Accounts get numbers: a ledger that was written before keeps every row, both ways, and goes on."""

from collections.abc import Iterator, Sequence

import psycopg
import pytest
from alembic import command
from sqlalchemy import create_engine
from sqlalchemy.exc import IntegrityError
from tests.ledger.books import Books, Row, move, posting
from tests.ledger.conftest import expect_sound
from tests.ledger.stage import problems, through_lane
from tests.support.postgres import TEST_SECRET, clone_database, drop_database

from dumont.db import migrate, psycopg_url, roles
from dumont.ledger import Leg, Posting

pytestmark = pytest.mark.requires_postgres

BEFORE = "0025_ledger_single"
ENTRIES = "SELECT account_id, seq, team_id, transfer_id, amount, balance_after, created_at FROM {} ORDER BY 1, 2"
TRANSFERS = """
SELECT t.id, t.team_id, t.fingerprint, t.kind, t.currency, t.seqs, t.date, t.memo, t.reverses, t.settles, t.refusal,
       t.created_at, ARRAY(SELECT a.id FROM unnest(t.accounts) WITH ORDINALITY AS n(name, place)
                             JOIN ledger_account a ON a.{} = n.name ORDER BY n.place)
  FROM ledger_transfer t ORDER BY t.id"""
ACCOUNTS = (
    "SELECT id, team_id, type, name, currency, balance, held, floor, version, moved_at FROM ledger_account ORDER BY id"
)
AGAIN = ["replay"] * 4 + ["balance-too-low again"]
HOLD = "00000000-0000-0000-0000-000000000001"


@pytest.fixture
def ledger() -> Iterator[Books]:
    """A ledger to be migrated."""
    urls = clone_database()
    yield Books(urls)
    drop_database(urls)


def test_every_row_is_kept_both_ways(ledger: Books) -> None:
    """Transfers of each kind are the same before and after, are known when asked again, and others follow them."""
    team, one, two = ledger.pair()
    asked = _asked(ledger, team, one, two)
    assert _said(ledger, asked) == ["posted"] * 4 + ["balance-too-low"]
    kept = _numbered(ledger)
    _downgrade(ledger)
    assert _named(ledger) == kept
    assert _said(ledger, [*asked, move(team, two, one, 3)]) == [*AGAIN, "posted"]
    middle = _named(ledger)
    migrate(ledger.urls.owner, TEST_SECRET)
    assert _numbered(ledger) == middle
    assert _said(ledger, [*asked, move(team, one, two, 3)]) == [*AGAIN, "posted"]
    assert [len(rows) for rows in _numbered(ledger)] == [len(kept[0]) + 4, len(kept[1]) + 2, len(kept[2])]
    expect_sound(ledger.urls)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("UPDATE ledger_entry SET account_id = 'acc_lost' WHERE account_id = %s", "account"),
        ("UPDATE ledger_transfer SET accounts = array_replace(accounts, %s, 'acc_lost')", "names an account"),
    ],
)
def test_nothing_is_lost_for_want_of_an_account(ledger: Books, damage: str, says: str) -> None:
    """A ledger that is damaged is not migrated to one that says less: it stays as it is."""
    team, one, two = ledger.pair()
    _downgrade(ledger)
    assert _said(ledger, [move(team, one, two, 5)]) == ["posted"]
    with psycopg.connect(psycopg_url(ledger.urls.owner)) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(damage.encode(), [two])
    before = _damaged(ledger)
    with pytest.raises(IntegrityError, match=says):
        migrate(ledger.urls.owner, TEST_SECRET)
    assert _damaged(ledger) == before


def _damaged(books: Books) -> list[list[Row]]:
    return [
        books.rows(ENTRIES.format("ledger_entry")),
        books.rows("SELECT id, accounts FROM ledger_transfer ORDER BY id"),
    ]


def _asked(books: Books, team: str, one: str, two: str) -> list[Posting]:
    """Return postings of two and three legs, one taken back, one that settles a hold, and one that is refused."""
    third = books.account(team)
    books.run("SELECT ledger_hold(%s, %s, '\\x00', %s, 20, 'test', NULL, NULL)", team, HOLD, one)
    first = move(team, one, two, 10, memo="first")
    return [
        first,
        posting(team, (Leg(one, -9), Leg(two, 4), Leg(third, 5))),
        move(team, two, one, 10, reverses=first.id),
        move(team, one, third, 15, settles=HOLD.replace("-", "")),
        move(team, two, one, 1000),
    ]


def _said(books: Books, postings: Sequence[Posting]) -> list[str]:
    return problems([through_lane(books, [one]) for one in postings])


def _numbered(books: Books) -> list[list[Row]]:
    queries = (ENTRIES.format("ledger_account_entry"), TRANSFERS.format("number"), ACCOUNTS)
    return [books.rows(query) for query in queries]


def _named(books: Books) -> list[list[Row]]:
    queries = (ENTRIES.format("ledger_entry"), TRANSFERS.format("id"), ACCOUNTS)
    return [books.rows(query) for query in queries]


def _downgrade(books: Books) -> None:
    engine = create_engine(books.urls.owner)
    with engine.connect() as connection:
        config = roles._config()
        config.attributes["connection"] = connection
        command.downgrade(config, BEFORE)
        connection.commit()
    engine.dispose()
