"""Ten threads over real sockets: however often the same is asked at the same moment, it is posted once."""

from uuid import uuid4

import pytest
from tests.bookkeeping.served import Served

pytestmark = pytest.mark.requires_postgres

THREADS = 10


@pytest.mark.checklist("PIX-06")
def test_ten_threads_that_create_the_same_transaction_post_exactly_one(served: Served) -> None:
    home, before = served.home, served.home.balances()[0]
    body, key = home.body(cents=700, description="the same"), uuid4().hex
    first = served.at_once(*[("POST", "/transactions", body, key)] * THREADS)
    again = served.at_once(*[("POST", "/transactions", body, key)] * THREADS)
    assert {status for status, _ in first} <= {201, 409} and {status for status, _ in again} <= {201, 409}
    assert {told["code"] for status, told in first + again if status == 409} <= {"idempotency-in-progress"}
    assert len({told["id"] for status, told in first + again if status == 201}) == 1
    assert home.balances()[0] == before - 700
    rows = "SELECT count(*) FROM bookkeeping_transaction WHERE team_id = %s AND description = 'the same'"
    assert home.books.rows(rows, home.person.team_id) == [(1,)]
    posted = "SELECT count(*) FROM ledger_transfer WHERE team_id = %s AND memo = 'the same'"
    assert home.books.rows(posted, home.person.team_id) == [(1,)]


def test_ten_threads_with_keys_of_their_own_post_ten(served: Served) -> None:
    home, before = served.home, served.home.balances()[0]
    body = home.body(cents=10, description="ten times")
    done = served.at_once(*[("POST", "/transactions", body, uuid4().hex) for _ in range(THREADS)])
    assert [status for status, _ in done] == [201] * THREADS
    assert home.balances()[0] == before - 100 and len({told["id"] for _, told in done}) == THREADS


@pytest.mark.checklist("PIX-08")
def test_an_edit_against_a_deletion_from_two_threads(served: Served) -> None:
    home = served.home
    for _ in range(4):
        before = home.balances()[0]
        _, made = served.ask("POST", "/transactions", home.body(cents=100), uuid4().hex)
        path = f"/transactions/{made['id']}"
        (edited, _), (deleted, _) = served.at_once(("PATCH", path, {"amount_cents": 150}), ("DELETE", path))
        assert edited in (200, 409) and deleted in (200, 409) and 200 in (edited, deleted)
        _, now = served.ask("GET", path)
        assert (now["status"] == "reversed") == (deleted == 200)
        left = 0 if deleted == 200 else 150
        assert home.balances()[0] == before - left
        own = [entry for entry in now["entries"] if entry["account_id"] == home.checking]
        signs = {"credit": 1, "debit": -1}
        assert sum(signs[one["side"]] * round(float(one["amount_str"]) * 100) for one in own) == -left
