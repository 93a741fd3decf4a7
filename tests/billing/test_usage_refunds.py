"""Use of a machine given back: to where it was paid from, bounded by what remains, and a line of its own."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from tests.billing.till import Till
from tests.support.api import Person

pytestmark = pytest.mark.requires_postgres


async def operator(till: Till) -> Person:
    """Somebody with a wallet who is the operator of the installation too."""
    person = await till.person()
    await till.write("UPDATE user_account SET is_operator = true WHERE id = %(id)s", {"id": person.user_id})
    return person


async def give_back(till: Till, person: Person, *, key: str | None = None, **body: Any) -> tuple[int, dict[str, Any]]:
    headers = {**person.headers, "Idempotency-Key": key or uuid4().hex}
    answer = await till.api.http.post(
        "/api/v1/usage/refunds", json={"reason": "host was slow", **body}, headers=headers
    )
    return answer.status_code, answer.json()


async def used(till: Till, person: Person, hours: int = 3) -> str:
    """Run a machine for a dollar an hour and charge it; returns the instance."""
    begun = await till.begin(person.team_id)
    till.clock.turn(hours=hours)
    await till.end(begun)
    await till.charge()
    return begun.instance_id


async def total(till: Till, person: Person) -> str:
    return str((await till.get(person, "/usage", **{"from": "2026-01-01T00:00:00Z"}))["total"]["amount"])


async def test_what_was_shown_back_is_taken_out_of_the_use_and_never_paid_out(till: Till) -> None:
    """In showback mode nothing was paid, so nothing comes into the wallet; use and ledger fall by the same."""
    person = await operator(till)
    instance = await used(till, person)
    assert await total(till, person) == "3.000000"
    status, done = await give_back(till, person, instance_id=instance, amount="1.25")
    assert (status, done["amount"]["amount"], done["remaining"]["amount"]) == (201, "1.250000", "1.750000")
    assert await total(till, person) == "1.750000"
    assert (await till.balance(person.team_id, "wallet"), await till.balance(person.team_id, "showback")) == (
        0,
        -1_750_000,
    )
    assert await till.balance(person.team_id, "revenue") == 1_750_000


async def test_what_the_wallet_paid_goes_back_into_it_and_never_more(till: Till) -> None:
    """Several at once, each for more than a third: two stand, and the rest is told what remains."""
    person = await operator(till)
    await till.fund(person.team_id, 100_000_000)
    await till.change(person, mode="prepaid")
    instance = await used(till, person)
    before = await till.balance(person.team_id, "wallet")
    owed = await till.balance(person.team_id, "receivable")
    answers = await asyncio.gather(*(give_back(till, person, instance_id=instance, amount="1.4") for _ in range(4)))
    assert sorted(status for status, _ in answers) == [201, 201, 409, 409]
    refused = [problem for status, problem in answers if status == 409]
    assert {problem["code"] for problem in refused} == {"balance-too-low"}
    status, rest = await give_back(till, person, instance_id=instance)
    assert (status, rest["amount"]["amount"], rest["remaining"]["amount"]) == (201, "0.200000", "0.000000")
    assert (await give_back(till, person, instance_id=instance))[0] == 409
    assert await till.balance(person.team_id, "revenue") == 0
    back = await till.balance(person.team_id, "wallet") - before
    assert back + await till.balance(person.team_id, "receivable") - owed == 3_000_000
    assert await till.balance(person.team_id, "receivable") == 0
    assert await total(till, person) == "0.000000"


async def test_one_key_gives_back_once(till: Till) -> None:
    """The same request again has the same answer, another under its key is refused."""
    person = await operator(till)
    instance = await used(till, person)
    key = uuid4().hex
    answers = [await give_back(till, person, key=key, instance_id=instance, amount="1") for _ in range(2)]
    assert answers[0] == answers[1] and answers[0][0] == 201
    status, problem = await give_back(till, person, key=key, instance_id=instance, amount="2")
    assert (status, problem["code"]) == (422, "idempotency-key-reused")
    assert await till.balance(person.team_id, "revenue") == 2_000_000


async def test_only_the_operator_gives_back_and_only_what_was_used(till: Till) -> None:
    person = await till.person()
    instance = await used(till, person)
    status, problem = await give_back(till, person, instance_id=instance)
    assert (status, problem["code"]) == (403, "forbidden")
    other = await operator(till)
    status, problem = await give_back(till, other, instance_id=instance)
    assert (status, problem["code"]) == (404, "usage-not-found")
    instance = await used(till, other)
    for body in (
        {"amount": "0.0000001"},
        {"amount": "-1"},
        {"amount": 1.5},
        {"instance_id": "x y"},
        {"reason": ""},
        {"reason": "a\0b"},
    ):
        assert (await give_back(till, other, **{"instance_id": instance, **body}))[0] == 422
    assert await till.balance(person.team_id, "revenue") == 3_000_000
