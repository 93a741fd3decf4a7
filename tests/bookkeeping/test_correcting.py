"""Corrections: an edit or a deletion is a reversal in one commit; the id stays, and the history shows all of it."""

import asyncio
from typing import Any

import pytest
from tests.bookkeeping.household import Household

pytestmark = pytest.mark.requires_postgres


async def edit(home: Household, transaction_id: str, changes: dict[str, Any], **headers: str) -> tuple[int, Any]:
    answer = await home.ask("PATCH", f"/transactions/{transaction_id}", json=changes, headers=headers)
    return answer.status_code, answer.json()


def history(home: Household, transaction_id: str) -> list[tuple[Any, ...]]:
    return home.books.rows(
        "SELECT version, action, posting_id IS NOT NULL, reversal_id IS NOT NULL, facts->>'cents' "
        "FROM bookkeeping_change WHERE transaction_id = %s ORDER BY version",
        transaction_id,
    )


async def test_an_edit_is_a_reversal_and_a_new_posting_under_the_same_id(home: Household) -> None:
    made = await home.record("expense", 3000)
    status, edited = await edit(home, made["id"], {"amount_cents": 4500, "description": "more food"})
    assert (status, edited["id"], edited["version"], edited["amount_str"]) == (200, made["id"], 2, "45.00")
    assert home.balances() == (5500, 0)
    shown = await home.shown(made["id"])
    own = [(e["side"], e["amount_str"], e["kind"]) for e in shown["entries"] if e["account_id"] == home.checking]
    assert own == [("debit", "30.00", "posting"), ("credit", "30.00", "reversal"), ("debit", "45.00", "posting")]
    assert history(home, made["id"]) == [
        (1, "created", True, False, "3000"),
        (2, "edited", True, True, "4500"),
    ]


async def test_tags_are_not_the_ledgers_and_nothing_new_is_nothing(home: Household) -> None:
    made = await home.record("expense", 3000)
    before = home.counts()["ledger_transfer"]
    _, tagged = await edit(home, made["id"], {"tags": ["june"]})
    assert (tagged["version"], tagged["tags"], home.counts()["ledger_transfer"]) == (2, ["june"], before)
    _, same = await edit(home, made["id"], {"tags": ["june"], "amount": "30.00"})
    assert (same["version"], home.counts()["ledger_transfer"]) == (2, before)


async def test_every_side_of_a_transaction_can_change(home: Household) -> None:
    made = await home.record("expense", 3000)
    other = await home.account("Other", opening_balance="50.00")
    await edit(home, made["id"], {"account_id": other})
    assert home.balances() == (10000, 0) and home.books.balance(other) == 2000
    status, now = await edit(home, made["id"], {"type": "income", "category_id": home.salary})
    assert status == 200 and home.books.balance(other) == 8000
    status, now = await edit(home, made["id"], {"type": "transfer", "to_account_id": home.savings})
    assert (status, now["category_id"], home.balances()[1], home.books.balance(other)) == (200, None, 3000, 2000)
    status, refused = await edit(home, made["id"], {"type": "expense"})
    assert (status, refused["errors"][0]["pointer"]) == (422, "/category_id")


async def test_an_edit_needs_only_what_it_adds(home: Household) -> None:
    """Neither all of a spent income nor all of a dear expense must be there in between."""
    salary = await home.record("income", 50000)
    rent = await home.record("expense", 55000)
    assert home.balances() == (5000, 0)
    assert (await edit(home, salary["id"], {"amount_cents": 47000}))[0] == 200
    assert (await edit(home, rent["id"], {"amount_cents": 57000}))[0] == 200
    assert home.balances() == (0, 0)
    before = home.counts()
    status, problem = await edit(home, rent["id"], {"amount_cents": 57001})
    assert (status, problem["code"], problem["available"]["amount"]) == (409, "balance-too-low", "570.00")
    assert home.counts() == before and home.balances() == (0, 0)


@pytest.mark.checklist("PIX-08")
async def test_of_an_edit_and_a_deletion_at_once_one_wins(home: Household) -> None:
    for _ in range(5):
        made = await home.record("expense", 1000)
        seen = {"If-Match": f'"{made["version"]}"'}
        edited, deleted = await asyncio.gather(
            home.ask("PATCH", f"/transactions/{made['id']}", json={"amount_cents": 2000}, headers=seen),
            home.ask("DELETE", f"/transactions/{made['id']}", headers=seen),
        )
        statuses = sorted((edited.status_code, deleted.status_code))
        assert statuses[0] == 200 and statuses[1] in (409, 412), (edited.text, deleted.text)
        spent = 2000 if edited.status_code == 200 else 0
        assert home.balances()[0] == 10000 - spent
        if spent:
            assert (await home.ask("DELETE", f"/transactions/{made['id']}")).status_code == 200


async def test_two_edits_at_once_lose_neither_money_nor_history(home: Household) -> None:
    made = await home.record("expense", 1000)
    answers = await asyncio.gather(*(edit(home, made["id"], {"amount_cents": 1000 + n}) for n in range(1, 6)))
    won = [document for status, document in answers if status == 200]
    assert won and all(status in (200, 409) for status, _ in answers)
    assert len({document["version"] for document in won}) == len(won)
    shown = await home.shown(made["id"])
    assert shown["version"] == 1 + len(won) == len(history(home, made["id"]))
    assert home.balances()[0] == 10000 - shown["amount_cents"]


async def test_a_version_that_is_gone_is_not_edited(home: Household) -> None:
    made = await home.record("expense", 1000)
    assert (await edit(home, made["id"], {"amount_cents": 2000}, **{"If-Match": '"1"'}))[0] == 200
    before = home.counts()
    status, problem = await edit(home, made["id"], {"amount_cents": 3000}, **{"If-Match": '"1"'})
    assert (status, problem["code"], problem["version"]) == (412, "version-mismatch", 2)
    gone = await home.ask("DELETE", f"/transactions/{made['id']}", headers={"If-Match": '"1"'})
    assert gone.status_code == 412 and home.counts() == before


async def test_a_deletion_reverses_once_and_says_the_same_again(home: Household) -> None:
    made = await home.record("expense", 3000)
    first = await home.ask("DELETE", f"/transactions/{made['id']}", params={"reason": "twice"})
    again = await home.ask("DELETE", f"/transactions/{made['id']}")
    assert (first.status_code, again.status_code) == (200, 200) and first.json() == again.json()
    assert first.json()["transaction"]["status"] == "reversed" and home.balances() == (10000, 0)
    assert history(home, made["id"])[1] == (2, "reversed", False, True, "3000")
    assert home.books.rows(
        "SELECT reason FROM bookkeeping_change WHERE transaction_id = %s AND version = 2", made["id"]
    ) == [("twice",)]
    status, problem = await edit(home, made["id"], {"amount_cents": 1})
    assert (status, problem["code"]) == (409, "transaction-reversed")
    listed = (await home.ask("GET", "/transactions")).json()["transactions"]
    kept = (await home.ask("GET", "/transactions", params={"include_reversed": "true"})).json()["transactions"]
    assert listed == [] and [one["id"] for one in kept] == [made["id"]]


async def test_spent_money_cannot_be_deleted_until_it_is_there_again(home: Household) -> None:
    salary = await home.record("income", 5000)
    spent = await home.record("expense", 12000)
    refused = await home.ask("DELETE", f"/transactions/{salary['id']}")
    assert (refused.status_code, refused.json()["code"]) == (409, "balance-too-low")
    assert (await home.ask("DELETE", f"/transactions/{spent['id']}")).status_code == 200
    assert (await home.ask("DELETE", f"/transactions/{salary['id']}")).status_code == 200
    assert home.balances() == (10000, 0)


async def test_a_batch_deletes_each_whole_or_not_at_all(home: Household) -> None:
    salary = await home.record("income", 5000)
    spent = [await home.record("expense", 4000) for _ in range(3)]
    stranger = await Household.furnish(home.api, home.books)
    foreign = await stranger.record("expense", 100)
    ids = [salary["id"], spent[0]["id"], foreign["id"], "x", spent[0]["id"]]
    answer = await home.ask("POST", "/transactions/reverse-batch", json={"ids": ids})
    document = answer.json()
    assert (document["deleted"], document["deleted_ids"]) == (1, [spent[0]["id"]])
    assert {one["id"]: one["code"] for one in document["errors"]} == {
        salary["id"]: "balance-too-low",
        foreign["id"]: "transaction-not-found",
        "x": "transaction-not-found",
    }
    assert home.balances()[0] == 10000 + 5000 - 8000 and stranger.balances()[0] == 9900
    again = await home.ask("DELETE", "/transactions", json={"ids": [salary["id"], spent[1]["id"]]})
    assert (again.json()["deleted"], again.json()["errors"]) == (2, [])
    assert home.balances()[0] == 10000 - 4000


async def test_another_teams_transaction_is_not_there(home: Household) -> None:
    stranger = await Household.furnish(home.api, home.books)
    theirs = await stranger.record("expense", 100)
    before = stranger.counts()
    for method, more in (("GET", {}), ("PATCH", {"json": {"amount_cents": 1}}), ("DELETE", {})):
        answer = await home.ask(method, f"/transactions/{theirs['id']}", **more)
        assert (answer.status_code, answer.json()["code"]) == (404, "transaction-not-found")
    assert stranger.counts() == before
