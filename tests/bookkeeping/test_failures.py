"""Failures between the posting and the rest of a request: all of it or nothing, and a retry does it once."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from tests.bookkeeping.household import Household

from dumont.db import psycopg_url

pytestmark = pytest.mark.requires_postgres


@contextmanager
def breaking(home: Household, table: str, event: str) -> Iterator[None]:
    """Let every write of a kind to a table fail, after the ledger has taken the posting."""
    home.books.run(
        "CREATE OR REPLACE FUNCTION break_off() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'broken off' USING ERRCODE = 'internal_error'; END $$"
    )
    home.books.run(f"CREATE TRIGGER breaks BEFORE {event} ON {table} FOR EACH ROW EXECUTE FUNCTION break_off()")
    try:
        yield
    finally:
        home.books.run(f"DROP TRIGGER breaks ON {table}")


@pytest.mark.checklist("PIX-02", "PIX-09")
@pytest.mark.parametrize("table", ["bookkeeping_transaction", "bookkeeping_change", "idempotency_key"])
async def test_a_failure_after_the_posting_leaves_nothing_and_a_retry_posts_once(home: Household, table: str) -> None:
    before, body = (home.counts(), home.balances()), home.body(cents=2500)
    with breaking(home, table, "INSERT"):
        broken = await home.post("/transactions", body, key="once")
    assert (broken.status_code, broken.json()["act"]) == (500, "report")
    assert (home.counts(), home.balances()) == before
    for _ in range(2):
        assert (await home.post("/transactions", body, key="once")).status_code == 201
    assert home.balances() == (7500, 0) and home.counts()["bookkeeping_transaction"] == 1


@pytest.mark.checklist("PIX-02")
async def test_an_edit_or_a_deletion_that_breaks_off_reverses_nothing(home: Household) -> None:
    made = await home.record("expense", 2500)
    before = home.counts(), home.balances(), await home.shown(made["id"])
    path = f"/transactions/{made['id']}"
    for table, event in (("bookkeeping_change", "INSERT"), ("bookkeeping_transaction", "UPDATE")):
        with breaking(home, table, event):
            assert (await home.ask("PATCH", path, json={"amount_cents": 9000})).status_code == 500
            assert (await home.ask("DELETE", path)).status_code == 500
        assert (home.counts(), home.balances(), await home.shown(made["id"])) == before
    assert (await home.ask("PATCH", path, json={"amount_cents": 9000})).status_code == 200
    assert home.balances() == (1000, 0)


async def test_an_account_that_somebody_holds_is_an_answer_to_try_again_with_the_same_key(home: Household) -> None:
    body, before = home.body(cents=2500), home.counts()
    with psycopg.connect(psycopg_url(home.books.urls.owner)) as holder:
        holder.execute("SELECT 1 FROM ledger_account WHERE id = %s FOR UPDATE", [home.checking])
        waited = await home.post("/transactions", body, key="held")
    assert (waited.status_code, waited.json()["code"], waited.json()["act"]) == (503, "database-unavailable", "wait")
    assert int(waited.headers["retry-after"]) >= 1 and home.counts() == before
    assert (await home.post("/transactions", body, key="held")).status_code == 201
    assert home.balances() == (7500, 0)
