"""Recording money: each request is one transaction and one posting, or a clear problem and no rows at all."""

import asyncio
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest
from tests.bookkeeping.household import Household

pytestmark = pytest.mark.requires_postgres


async def test_income_expense_and_transfer_move_the_balances_by_what_they_say(home: Household) -> None:
    assert home.balances() == (10000, 0)
    income = await home.record("income", 165229)
    assert home.balances() == (175229, 0)
    expense = await home.record("expense", 5000, tags=["market", "market", "june"])
    transfer = await home.record("transfer", 30000)
    assert home.balances() == (140229, 30000)
    assert (income["amount_str"], income["amount_cents"], income["currency"]) == ("1652.29", 165229, "BRL")
    assert (expense["tags"], expense["status"], expense["version"]) == (["market", "june"], "posted", 1)
    shown = await home.shown(transfer["id"])
    assert [(one["account_id"], one["side"], one["amount_str"]) for one in shown["entries"]] == [
        (home.checking, "debit", "300.00"),
        (home.savings, "credit", "300.00"),
    ]
    account = (await home.ask("GET", f"/accounts/{home.checking}")).json()
    assert (account["balance_str"], account["available_str"], account["version"]) == ("1402.29", "1402.29", 4)


async def test_an_amount_may_be_a_decimal_string(home: Household) -> None:
    body = home.body()
    del body["amount_cents"]
    answer = await home.post("/transactions", {**body, "amount": "12.5"})
    assert answer.status_code == 201 and answer.json()["amount_str"] == "12.50"
    assert home.balances() == (8750, 0)


async def test_dollars_are_kept_in_millionths_and_shown_in_cents(home: Household) -> None:
    dollars = await home.account("Dollars", currency="USD", opening_balance="10.00")
    await home.record("expense", 199, account_id=dollars)
    assert home.books.balance(dollars) == 8_010_000
    assert (await home.ask("GET", f"/accounts/{dollars}")).json()["balance_str"] == "8.01"


BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "float": ({"amount_cents": 10.0}, 422, "invalid-request"),
    "a string of cents": ({"amount_cents": "1000"}, 422, "invalid-request"),
    "true": ({"amount_cents": True}, 422, "invalid-request"),
    "negative": ({"amount_cents": -1}, 422, "invalid-request"),
    "zero": ({"amount_cents": 0}, 422, "invalid-request"),
    "10^18": ({"amount_cents": 10**18}, 422, "invalid-request"),
    "10^18 as text": ({"amount_cents": None, "amount": f"{10**18}.00"}, 422, "invalid-request"),
    "zero as text": ({"amount_cents": None, "amount": "0.00"}, 422, "invalid-request"),
    "three decimals": ({"amount_cents": None, "amount": "1.001"}, 422, "invalid-request"),
    "a number for text": ({"amount_cents": None, "amount": 1.5}, 422, "invalid-request"),
    "no amount": ({"amount_cents": None}, 422, "invalid-request"),
    "two amounts": ({"amount": "10.00"}, 422, "invalid-request"),
    "unknown account": ({"account_id": "acc_00000000000000000000000000"}, 404, "account-not-found"),
    "no account": ({"account_id": "x"}, 404, "account-not-found"),
    "unknown category": ({"category_id": "cat_00000000000000000000000000"}, 404, "category-not-found"),
    "no category": ({"category_id": None}, 422, "invalid-request"),
    "a target for an expense": ({"to_account_id": "acc_00000000000000000000000000"}, 422, "invalid-request"),
    "ancient": ({"date": "1900-01-01"}, 422, "invalid-request"),
    "future": ({"date": (date.today() + timedelta(days=30)).isoformat()}, 422, "invalid-request"),
    "no date": ({"date": "31/12/2026"}, 422, "invalid-request"),
    "a number for a date": ({"date": 0}, 422, "invalid-request"),
    "blank": ({"description": "  "}, 422, "invalid-request"),
    "too long": ({"description": "x" * 501}, 422, "invalid-request"),
    "too many tags": ({"tags": [str(n) for n in range(21)]}, 422, "invalid-request"),
    "unknown field": ({"balance": 5}, 422, "invalid-request"),
    "unknown type": ({"type": "gift"}, 422, "invalid-request"),
}


async def test_bad_input_is_a_clear_problem_and_no_rows(home: Household) -> None:
    before = home.counts(), home.balances()
    for name, (changes, status, code) in BAD.items():
        answer = await home.post("/transactions", {**home.body(), **changes})
        assert (answer.status_code, answer.json()["code"]) == (status, code), (name, answer.text)
        assert (home.counts(), home.balances()) == before, name


async def test_what_depends_on_the_books_is_refused_without_rows(home: Household) -> None:
    stranger = await Household.furnish(home.api, home.books)
    dollars = await home.account("Dollars", currency="USD")
    closed = await home.account("Closed")
    assert (await home.ask("DELETE", f"/accounts/{closed}")).status_code == 200
    old = await home.category("Old", "expense")
    assert (await home.ask("DELETE", f"/categories/{old}")).status_code == 200
    before = home.counts(), stranger.counts()
    for body, status, code in (
        (home.body(account_id=stranger.checking), 404, "account-not-found"),
        (home.body(category_id=stranger.food), 404, "category-not-found"),
        (home.body(category_id=home.salary), 422, "invalid-request"),
        (home.body(category_id=old), 409, "category-closed"),
        (home.body("transfer", to_account_id=stranger.savings), 404, "account-not-found"),
        (home.body("transfer", to_account_id=dollars), 409, "currency-mismatch"),
        (home.body("transfer", to_account_id=home.checking), 422, "invalid-request"),
        (home.body("income", account_id=closed), 409, "account-closed"),
    ):
        answer = await home.post("/transactions", body)
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert (home.counts(), stranger.counts()) == before


async def test_without_a_key_nothing_moves(home: Household) -> None:
    before = home.counts()
    for path, body in (
        ("/transactions", home.body()),
        ("/transfers", {"from_account_id": home.checking, "to_account_id": home.savings, "amount_cents": 1}),
        ("/accounts", {"name": "Other", "type": "cash", "opening_balance": "5.00"}),
    ):
        answer = await home.ask("POST", path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "idempotency-key-missing")
    assert home.counts() == before


async def test_more_than_there_is_is_refused_and_the_refusal_stays_with_its_key(home: Household) -> None:
    body = home.body(cents=10001)
    answer = await home.post("/transactions", body, key="spend")
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["act"]) == (409, "balance-too-low", "fix")
    assert (problem["needed"]["amount"], problem["available"]["amount"]) == ("100.01", "100.00")
    assert home.balances() == (10000, 0) and home.counts()["bookkeeping_transaction"] == 0
    await home.record("income", 5000)
    again = await home.post("/transactions", body, key="spend")
    assert (again.status_code, again.json()["code"]) == (409, "balance-too-low")
    assert (await home.post("/transactions", body, key="spend-anew")).status_code == 201
    assert home.balances() == (4999, 0)


async def test_the_overdraft_limit_is_how_far_an_account_may_go_below_zero(home: Household) -> None:
    card = await home.account("Card", type="credit", overdraft_limit="50.00")
    assert (await home.post("/transactions", home.body(account_id=card, cents=5000))).status_code == 201
    assert (await home.post("/transactions", home.body(account_id=card, cents=1))).status_code == 409
    assert home.books.balance(card) == -5000
    lower = await home.ask("PATCH", f"/accounts/{card}", json={"overdraft_limit": "49.99"})
    assert (lower.status_code, lower.json()["code"]) == (409, "balance-too-low")
    refused = await home.post("/accounts", {"name": "No", "type": "savings", "overdraft_limit": "1.00"})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/overdraft_limit")


async def test_the_same_key_is_the_same_transaction(home: Household) -> None:
    body = home.body(cents=1500)
    first = await home.post("/transactions", body, key="lunch")
    again = await home.post("/transactions", body, key="lunch")
    other = await home.post("/transactions", {**body, "amount_cents": 1501}, key="lunch")
    assert (first.status_code, again.status_code, again.json()) == (201, 201, first.json())
    assert again.headers["idempotency-replayed"] == "true"
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
    assert home.balances() == (8500, 0)


async def test_a_key_whose_answer_is_forgotten_still_posts_nothing_twice(home: Household) -> None:
    body = home.body(cents=1500)
    first = await home.post("/transactions", body, key="rent")
    home.books.run("DELETE FROM idempotency_key WHERE team_id = %s", home.person.team_id)
    again = await home.post("/transactions", body, key="rent")
    assert (again.status_code, again.json()["id"]) == (201, first.json()["id"])
    home.books.run("DELETE FROM idempotency_key WHERE team_id = %s", home.person.team_id)
    other = await home.post("/transactions", {**body, "amount_cents": 1}, key="rent")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
    assert home.balances() == (8500, 0)


async def test_the_same_content_under_another_key_is_recorded_with_a_warning(home: Household) -> None:
    first = await home.record("expense", 700)
    second = await home.record("expense", 700)
    assert first["possible_duplicate_of"] is None and second["possible_duplicate_of"] == first["id"]
    home.books.run(
        "UPDATE bookkeeping_transaction SET created_at = created_at - interval '61 seconds' WHERE team_id = %s",
        home.person.team_id,
    )
    assert (await home.record("expense", 700))["possible_duplicate_of"] is None
    assert (await home.record("expense", 701))["possible_duplicate_of"] is None


@pytest.mark.checklist("PIX-06")
async def test_ten_at_once_with_one_key_post_one(home: Household) -> None:
    body = home.body(cents=1000)
    answers = await asyncio.gather(*(home.post("/transactions", body, key="once") for _ in range(10)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    ids = {answer.json()["id"] for answer in answers if answer.status_code == 201}
    assert len(ids) == 1 and home.balances() == (9000, 0)
    assert home.counts()["bookkeeping_transaction"] == 1


@pytest.mark.checklist("PIX-07")
async def test_of_two_transfers_of_the_same_money_one_wins(home: Household) -> None:
    answers = await asyncio.gather(*(home.post("/transactions", home.body("transfer", 8000)) for _ in range(2)))
    assert sorted(answer.status_code for answer in answers) == [201, 409]
    assert home.balances() == (2000, 8000)


async def test_a_time_is_recorded_on_its_own_day(home: Household) -> None:
    recorded = await home.record("expense", 100, date="2026-01-31T23:30:00-03:00")
    assert recorded["date"] == "2026-01-31"
    assert home.books.rows("SELECT date FROM ledger_transfer WHERE memo = 'some expense' AND team_id = %s",
                           home.person.team_id) == [(date(2026, 1, 31),)]  # fmt: skip


async def test_a_transfer_has_its_own_route(home: Household) -> None:
    body = {"from_account_id": home.checking, "to_account_id": home.savings, "amount": "40.00"}
    days = [datetime.now(timezone.utc).date().isoformat()]
    answer = await home.post("/transfers", body)
    days.append(datetime.now(timezone.utc).date().isoformat())
    assert (answer.status_code, answer.json()["type"]) == (201, "transfer") and answer.json()["date"] in days
    assert home.balances() == (6000, 4000)
    listed = (await home.ask("GET", "/transfers")).json()
    assert [one["id"] for one in listed["transfers"]] == [answer.json()["id"]]
    assert (await home.ask("GET", f"/transfers/{answer.json()['id']}")).json()["amount_str"] == "40.00"
    expense = await home.record()
    assert (await home.ask("GET", f"/transfers/{expense['id']}")).status_code == 404
