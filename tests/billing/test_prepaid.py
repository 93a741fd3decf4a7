"""A prepaid wallet pays ahead: holds, refusals, low money, no money, limits."""

import asyncio
from typing import Any

import pytest
from tests.billing.till import Till
from tests.support.api import Person

from dumont.billing import Holding, SpendLimit, Stretch, admit, dry_teams
from dumont.core import Problem, new_id
from dumont.db import set_sweep
from dumont.ledger import InsufficientFunds

pytestmark = pytest.mark.requires_postgres
USD = 1_000_000
AHEAD = {"gpu": 1.5, "disk": 25}
"""Hours held for a meter: one of use, and what a hibernation would cost: half an hour of GPU, a day of disk."""


async def prepaid(till: Till, micro: int, **settings: Any) -> Person:
    """Make a team with a prepaid wallet."""
    person = await till.person()
    if micro:
        await till.fund(person.team_id, micro)
    await till.change(person, mode="prepaid", **settings)
    return person


async def cover(till: Till) -> None:
    """Charge, then hold ahead."""
    await till.charge()
    await Holding(till.worker, till.clock).run()


async def start(till: Till, person: Person, instance: str, *, gpu: int = 1_000_000_000, disk: int = 0) -> None:
    """Let a machine be started, as a launch does."""
    async with till.session(person.team_id) as session:
        await admit(session, person.team_id, instance, gpu_hour_nano=gpu, disk_hour_nano=disk, now=till.clock.now())


async def dry(till: Till, person: Person) -> list[tuple[str, str]]:
    async with till.worker.begin() as session:
        await set_sweep(session)
        found = await dry_teams(session, till.clock.now())
    return [(one.instance_id, one.reason) for one in found if one.team_id == person.team_id]


async def news(till: Till, person: Person, topic: str) -> list[dict[str, Any]]:
    rows = await till.rows(
        "SELECT data FROM outbox_event WHERE topic = %s AND team_id = %s ORDER BY id", topic, person.team_id
    )
    return [row[0] for row in rows]


async def test_an_hour_is_held_ahead_settled_by_use_and_held_again(till: Till) -> None:
    person = await prepaid(till, 10 * USD)
    gpu = await till.begin(person.team_id)
    await till.begin(person.team_id, rate=10_000_000, kind="disk", instance=gpu.instance_id)
    await cover(till)
    ahead = int(AHEAD["gpu"] * USD + AHEAD["disk"] * USD / 100)
    assert await till.held(person.team_id) == ahead
    till.clock.turn(minutes=30)
    await cover(till)
    assert await till.balance(person.team_id, "wallet") == 10 * USD - 505_000
    assert await till.balance(person.team_id, "revenue") == 505_000
    assert await till.balance(person.team_id, "receivable") == await till.balance(person.team_id, "showback") == 0
    assert await till.held(person.team_id) == ahead
    settled = await till.get(person, "/holds", status="settled")
    amounts = [(row["amount"]["amount"], row["settled_amount"]["amount"]) for row in settled["holds"]]
    assert sorted(amounts) == [("0.250000", "0.005000"), ("1.500000", "0.500000")]
    shown = await till.get(person, "/wallet")
    assert shown["available"]["amount"] == f"{(10 * USD - 505_000 - ahead) / USD:.6f}"
    hours = (10 * USD - 505_000) / (1.01 * USD)
    assert shown["runs_out_at"][:16] == till.clock.turn(hours=hours).isoformat()[:16]


async def test_what_ends_gives_back_what_it_held(till: Till) -> None:
    person = await prepaid(till, 10 * USD)
    gpu = await till.begin(person.team_id)
    await cover(till)
    till.clock.turn(minutes=6)
    await till.end(gpu)
    await cover(till)
    assert await till.held(person.team_id) == 0
    assert await till.balance(person.team_id, "wallet") == 10 * USD - 100_000


async def test_a_start_without_money_ahead_is_refused_and_says_what_to_do(till: Till) -> None:
    person = await prepaid(till, USD)
    with pytest.raises(InsufficientFunds) as refused:
        await start(till, person, new_id("ins"))
    assert "Top the wallet up" in refused.value.detail
    assert refused.value.extra["needed"]["amount"] == "1.500000"
    assert refused.value.extra["available"]["amount"] == "1.000000"
    assert await till.held(person.team_id) == 0
    await till.fund(person.team_id, USD)
    await start(till, person, new_id("ins"))
    assert await till.held(person.team_id) == 1.5 * USD


async def test_of_two_who_start_at_once_with_money_for_one_one_does(till: Till) -> None:
    person = await prepaid(till, 2 * USD)
    ended = await asyncio.gather(*(start(till, person, new_id("ins")) for _ in range(2)), return_exceptions=True)
    assert sorted(type(one) for one in ended if one is not None) == [InsufficientFunds]
    assert await till.held(person.team_id) == 1.5 * USD


async def test_a_starts_hold_becomes_the_meters_or_ends_by_itself(till: Till) -> None:
    person = await prepaid(till, 4 * USD)
    one, other = new_id("ins"), new_id("ins")
    await start(till, person, one)
    await start(till, person, other)
    await till.begin(person.team_id, instance=one)
    await cover(till)
    assert await till.held(person.team_id) == 3 * USD
    assert (await till.get(person, "/holds", status="open", subject=one))["count"] == 1
    till.clock.turn(minutes=61)
    await cover(till)
    assert (await till.get(person, "/holds", status="expired"))["count"] == 1
    assert await till.held(person.team_id) == 1.5 * USD


async def test_without_money_the_instance_is_dry_and_what_it_used_is_owed(till: Till) -> None:
    person = await prepaid(till, 2 * USD)
    gpu = await till.begin(person.team_id)
    await cover(till)
    assert await dry(till, person) == []
    till.clock.turn(minutes=60)
    await cover(till)
    assert await dry(till, person) == [(gpu.instance_id, "dry")]
    assert await till.held(person.team_id) == USD
    assert await news(till, person, "billing.dry") == [
        {"instance_id": gpu.instance_id, "hibernates": True, "currency": "USD"}
    ]
    till.clock.turn(minutes=90)
    await cover(till)
    await cover(till)
    assert await till.balance(person.team_id, "wallet") == 0
    assert await till.balance(person.team_id, "receivable") == -500_000
    assert (await till.get(person, "/wallet"))["owed"]["amount"] == "0.500000"
    assert len(await news(till, person, "billing.dry")) == 1
    await till.end(gpu)
    await cover(till)
    assert await dry(till, person) == []
    await till.fund(person.team_id, USD)
    again = await till.begin(person.team_id, kind="disk", rate=1_000_000)
    await cover(till)
    assert await till.balance(person.team_id, "receivable") == 0
    assert await till.balance(person.team_id, "wallet") == 500_000
    await till.end(again)


async def test_new_money_makes_dry_instances_wet_again(till: Till) -> None:
    person = await prepaid(till, 2 * USD)
    await till.begin(person.team_id)
    await cover(till)
    till.clock.turn(minutes=60)
    await cover(till)
    assert len(await dry(till, person)) == 1
    await till.fund(person.team_id, 5 * USD)
    await cover(till)
    assert await dry(till, person) == []
    assert await till.held(person.team_id) == 1.5 * USD


async def test_whoever_wants_no_hibernation_is_told_only(till: Till) -> None:
    person = await prepaid(till, 0, auto_hibernate_at_zero=False)
    await till.begin(person.team_id)
    await cover(till)
    assert await dry(till, person) == []
    assert [told["hibernates"] for told in await news(till, person, "billing.dry")] == [False]


async def test_low_money_is_told_once_until_there_is_more(till: Till) -> None:
    person = await prepaid(till, 6 * USD, low_threshold="4")
    gpu = await till.begin(person.team_id)
    await cover(till)
    assert await news(till, person, "billing.low") == []
    for _ in range(3):
        till.clock.turn(minutes=30)
        await cover(till)
    assert [told["available"] for told in await news(till, person, "billing.low")] == ["3.500000"]
    assert (await till.get(person, "/wallet"))["low"] is True
    await till.fund(person.team_id, 10 * USD)
    await cover(till)
    assert (await till.get(person, "/wallet"))["low"] is False
    await till.end(gpu)


@pytest.mark.parametrize("limit", ["limit_hour", "limit_day", "limit_month"])
async def test_a_limit_refuses_what_would_pass_it(till: Till, limit: str) -> None:
    """Of the hour: what runs; of day and month: what was used. In showback mode as well."""
    person = await till.person()
    await till.change(person, **{limit: "3.5"})
    running = [await till.begin(person.team_id) for _ in range(3)]
    problem: Problem | None = None
    if limit != "limit_hour":
        await start(till, person, new_id("ins"))
        till.clock.turn(minutes=60)
        await till.charge()
    try:
        await start(till, person, new_id("ins"))
    except SpendLimit as refused:
        problem = refused
    assert problem is not None and problem.extra["period"] == limit.removeprefix("limit_")
    assert problem.extra["spent"]["amount"] == "4.000000"
    for stretch in running:
        await till.end(stretch)
    till.clock.turn(days=40)
    await start(till, person, new_id("ins"))


async def test_a_passed_limit_hibernates_where_the_team_wants_it(till: Till) -> None:
    person = await till.person()
    gpu = await till.begin(person.team_id, rate=2_000_000_000)
    till.clock.turn(hours=2)
    await till.change(person, limit_day="3")
    assert await dry(till, person) == []
    await till.change(person, hibernate_over_limit=True)
    assert await dry(till, person) == [(gpu.instance_id, "limit")]
    await till.change(person, limit_day="30")
    assert await dry(till, person) == []


async def test_prepaid_begins_only_with_money_for_what_runs(till: Till) -> None:
    person = await till.person()
    gpu = await till.begin(person.team_id)
    answer = await till.api.http.patch("/api/v1/wallet", json={"mode": "prepaid"}, headers=person.headers)
    assert (answer.status_code, answer.json()["code"]) == (409, "wallet-in-use"), answer.text
    await till.fund(person.team_id, 2 * USD)
    await till.change(person, mode="prepaid")
    await cover(till)
    assert await till.held(person.team_id) == 1.5 * USD
    await till.change(person, mode="showback")
    await cover(till)
    assert await till.held(person.team_id) == 0
    till.clock.turn(minutes=30)
    await till.end(gpu)
    await cover(till)
    assert await till.balance(person.team_id, "wallet") == 2 * USD
    assert await till.balance(person.team_id, "showback") == -500_000


async def test_two_sweeps_at_once_hold_once(till: Till) -> None:
    person = await prepaid(till, 50 * USD)
    for _ in range(5):
        await till.begin(person.team_id)
    for _ in range(3):
        await asyncio.gather(*(cover(till) for _ in range(3)))
        assert await till.held(person.team_id) == 7.5 * USD
        till.clock.turn(minutes=20)
    await cover(till)
    assert await till.balance(person.team_id, "wallet") == 50 * USD - await till.balance(person.team_id, "revenue")
    assert await till.balance(person.team_id, "revenue") == 5 * USD


async def test_a_stretch_that_was_charged_too_much_pays_the_wallet_back(till: Till) -> None:
    person = await prepaid(till, 10 * USD)
    gpu = await till.begin(person.team_id)
    await cover(till)
    truly = till.clock.turn(minutes=15)
    till.clock.turn(minutes=15)
    await cover(till)
    assert await till.balance(person.team_id, "wallet") == 9_500_000
    await till.tell(Stretch(**{**vars(gpu), "to_at": truly}))
    await cover(till)
    await cover(till)
    assert await till.balance(person.team_id, "wallet") == 9_500_000 + 250_000
    assert await till.balance(person.team_id, "receivable") == 0
