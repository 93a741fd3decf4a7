"""Accounts, categories and holds: opened, renamed, limited, closed; amounts kept aside and let go."""

import asyncio
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from tests.bookkeeping.household import Household

from dumont.app.wiring import give_categories
from dumont.bookkeeping import DEFAULT_CATEGORIES, expire_all
from dumont.core import Clock, Settings
from dumont.db import Database

pytestmark = pytest.mark.requires_postgres


async def test_an_opening_balance_is_a_posting_and_the_sum_over_all_is_zero(home: Household) -> None:
    [(total,)] = home.books.rows("SELECT sum(balance) FROM ledger_account WHERE team_id = %s", home.person.team_id)
    assert total == 0 and home.balances() == (10000, 0)
    owing = await home.account("Card", type="credit", opening_balance="-20.00", overdraft_limit="30.00")
    account = (await home.ask("GET", f"/accounts/{owing}")).json()
    assert (account["balance_str"], account["available_str"]) == ("-20.00", "10.00")
    bad = await home.post("/accounts", {"name": "Deep", "type": "checking", "opening_balance": "-0.01"})
    assert (bad.status_code, bad.json()["errors"][0]["pointer"]) == (422, "/opening_balance")


async def test_accounts_are_listed_without_those_of_the_system(home: Household) -> None:
    await home.record()
    found = (await home.ask("GET", "/accounts")).json()["accounts"]
    assert {one["id"] for one in found} == {home.checking, home.savings}
    some = (await home.ask("GET", "/accounts", params={"type": "savings"})).json()["accounts"]
    assert [one["id"] for one in some] == [home.savings]
    inside = (await home.ask("GET", "/accounts", params={"type": "system"})).json()["accounts"]
    assert [one["name"] for one in inside] == ["Opening balances"]
    for body in (home.body(account_id=inside[0]["id"]), home.body("transfer", to_account_id=inside[0]["id"])):
        answer = await home.post("/transactions", body)
        assert (answer.status_code, answer.json()["code"]) == (409, "account-not-postable")


async def test_a_balance_is_never_assigned(home: Household) -> None:
    for body in ({"balance": 5}, {"opening_balance": "5.00"}, {"version": 1}):
        assert (await home.ask("PATCH", f"/accounts/{home.checking}", json=body)).status_code == 422
    assert home.balances() == (10000, 0)


async def test_an_account_is_renamed_and_keeps_its_kind_once_it_has_entries(home: Household) -> None:
    read = await home.ask("GET", f"/accounts/{home.savings}")
    seen = {"If-Match": read.headers["etag"]}
    renamed = await home.ask("PUT", f"/accounts/{home.savings}", json={"name": "Rainy days"}, headers=seen)
    assert (renamed.status_code, renamed.json()["name"]) == (200, "Rainy days")
    late = await home.ask("PUT", f"/accounts/{home.savings}", json={"name": "Other"}, headers=seen)
    assert (late.status_code, late.json()["code"]) == (412, "version-mismatch")
    assert (await home.ask("PATCH", f"/accounts/{home.savings}", json={"type": "cash"})).status_code == 200
    used = await home.ask("PATCH", f"/accounts/{home.checking}", json={"type": "cash"})
    assert (used.status_code, used.json()["code"]) == (409, "account-in-use")
    await home.account("Other")
    taken = await home.ask("PATCH", f"/accounts/{home.checking}", json={"name": "Other"})
    assert (taken.status_code, taken.json()["code"]) == (409, "name-taken")


async def test_only_an_empty_account_is_closed_and_a_second_time_is_the_same(home: Household) -> None:
    full = await home.ask("DELETE", f"/accounts/{home.checking}")
    assert (full.status_code, full.json()["code"]) == (409, "account-not-empty")
    for _ in range(2):
        assert (await home.ask("DELETE", f"/accounts/{home.savings}")).status_code == 200
    assert (await home.ask("GET", f"/accounts/{home.savings}")).json()["is_active"] is False
    assert len((await home.ask("GET", "/accounts")).json()["accounts"]) == 1


async def test_one_request_opens_one_account(home: Household) -> None:
    body = {"name": "New", "type": "cash", "opening_balance": "5.00"}
    answers = await asyncio.gather(*(home.post("/accounts", body, key="new") for _ in range(4)))
    assert len({one.json()["id"] for one in answers if one.status_code == 201}) == 1
    assert all(one.status_code in (201, 409) for one in answers)
    other = await home.post("/accounts", body)
    assert (other.status_code, other.json()["code"]) == (409, "name-taken")
    assert (await home.post("/accounts", {**body, "name": "X", "currency": "EUR"})).status_code == 422


async def test_categories_have_one_name_each_and_may_be_renamed(home: Household) -> None:
    taken = await home.post("/categories", {"name": "Food", "type": "expense"})
    assert (taken.status_code, taken.json()["code"]) == (409, "name-taken")
    assert (await home.post("/categories", {"name": "Food", "type": "income"})).status_code == 201
    renamed = await home.ask("PATCH", f"/categories/{home.food}", json={"name": "Meals", "color": "#00ff00"})
    assert (renamed.json()["name"], renamed.json()["color"]) == ("Meals", "#00ff00")
    made = await home.record()
    assert (await home.ask("DELETE", f"/categories/{home.food}")).status_code == 200
    kept = await home.ask("PATCH", f"/transactions/{made['id']}", json={"amount_cents": 1})
    assert kept.status_code == 200, kept.text
    names = [one["name"] for one in (await home.ask("GET", "/categories")).json()["categories"]]
    assert names == ["Food", "Salary"]
    assert (await home.ask("GET", "/categories/cat_0")).json()["code"] == "category-not-found"


async def test_a_new_team_begins_with_categories(home: Household) -> None:
    """They come with the team, in its transaction, are its own, and are used like any other; again changes nothing."""
    given = partial(give_categories, Settings(home=Path("/nonexistent")))
    home.api.identity.on_team_created(given)
    async with home.api.database.begin() as session:
        team_id = await home.api.identity.create_team(session, home.person.user_id, "Second")
        await given(session, team_id)
    listed = (await home.ask("GET", "/categories", headers={"X-Team-Id": team_id})).json()["categories"]
    assert {(one["type"], one["name"], one["color"]) for one in listed} == set(DEFAULT_CATEGORIES)
    assert len(listed) == len(DEFAULT_CATEGORIES)
    mine = (await home.ask("GET", "/categories")).json()["categories"]
    assert {one["name"] for one in mine} == {"Food", "Salary"}


async def test_a_hold_keeps_an_amount_aside_until_it_is_settled(home: Household) -> None:
    held = (await home.post("/holds", {"account_id": home.checking, "amount": "60.00", "reason": "hotel"})).json()
    account = (await home.ask("GET", f"/accounts/{home.checking}")).json()
    assert (account["balance_str"], account["held_str"], account["available_str"]) == ("100.00", "60.00", "40.00")
    assert (await home.post("/transactions", home.body(cents=4001))).status_code == 409
    settled = await home.post(f"/holds/{held['id']}/settle", {"amount": "55.50", "category_id": home.food})
    assert (settled.status_code, settled.json()["status"]) == (200, "settled"), settled.text
    assert settled.json()["settled_amount"] == {"amount": "55.50", "currency": "BRL"}
    assert home.balances() == (4450, 0) and (await home.record("expense", 4450))["amount_str"] == "44.50"
    again = await home.post(f"/holds/{held['id']}/settle", {"category_id": home.food})
    assert (again.status_code, again.json()["code"]) == (409, "hold-ended")
    [spent] = (await home.ask("GET", "/transactions", params={"q": "hotel"})).json()["transactions"]
    shown = await home.shown(spent["id"])
    assert {one["kind"] for one in shown["entries"]} == {"hold_settlement"}


async def test_a_hold_is_settled_once_by_ten_at_once_and_only_what_is_there_is_held(home: Household) -> None:
    held = (await home.post("/holds", {"account_id": home.checking, "amount": "60.00", "reason": "trip"})).json()
    more = await home.post("/holds", {"account_id": home.checking, "amount": "40.01", "reason": "trip"})
    assert (more.status_code, more.json()["code"]) == (409, "balance-too-low")
    path, body = f"/holds/{held['id']}/settle", {"to_account_id": home.savings}
    answers = await asyncio.gather(*(home.post(path, body) for _ in range(6)))
    assert sorted(one.status_code for one in answers) == [200, *[409] * 5]
    assert home.balances() == (4000, 6000)


async def test_a_voided_or_expired_hold_frees_its_amount(home: Household) -> None:
    body = {"account_id": home.checking, "amount": "70.00", "reason": "maybe"}
    held = (await home.post("/holds", body)).json()
    for _ in range(2):
        assert (await home.post(f"/holds/{held['id']}/void", {})).json()["status"] == "voided"
    late = (await home.post("/holds", {**body, "expires_in_seconds": 60})).json()
    assert (await home.ask("GET", f"/accounts/{home.checking}")).json()["available_str"] == "30.00"
    await _sweep_later(home, 61)
    account = (await home.ask("GET", f"/accounts/{home.checking}")).json()
    assert (account["available_str"], account["held_str"]) == ("100.00", "0.00")
    gone = await home.post(f"/holds/{late['id']}/settle", {"category_id": home.food})
    assert (gone.status_code, gone.json()["code"]) == (409, "hold-ended")
    assert (await home.post("/holds/x/void", {})).json()["code"] == "hold-not-found"


async def _sweep_later(home: Household, seconds: int) -> None:
    """Run the worker's sweep on a clock that is ahead."""

    class Later(Clock):
        def seconds(self) -> float:
            return super().seconds() + timedelta(seconds=seconds).total_seconds()

    class World:
        database = Database(home.books.urls.worker, pool_size=1)
        clock = Later()

    try:
        await expire_all(World, World.clock.now())
    finally:
        await World.database.close()
