"""When a prepaid wallet is empty, machines are hibernated, never destroyed; what failed and cost is charged."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.billing.till import TurnedClock, turn
from tests.support.whole_api import whole_api
from tests.support.world import Stage
from tests.workflows.conftest import Place, place
from tests.workflows.conftest import stage as plain_stage
from tests.workflows.engine import Trial
from tests.workflows.scenarios import Case, new_instance, wake

from dumont import billing
from dumont.billing import Holding, Metering, ensure_account, ensure_wallet, queries
from dumont.billing.changing import change_wallet
from dumont.hibernation import DrySweep
from dumont.instances import true_up_ended
from dumont.ledger import InsufficientFunds, Lane, Leg, Posting, Writer, post

pytestmark = pytest.mark.requires_postgres
__all__ = ["Place", "place", "plain_stage"]
USD = 1_000_000


@pytest.fixture
async def stage(plain_stage: Stage) -> AsyncIterator[Stage]:
    """A stage whose clock is turned, and whose team pays ahead."""
    plain_stage.world = replace(plain_stage.world, clock=TurnedClock(plain_stage.sandbox))
    async with plain_stage.world.session(plain_stage.person.team_id) as session:
        now = plain_stage.world.clock.now()
        wallet = await ensure_wallet(session, plain_stage.person.team_id, now)
        await change_wallet(session, wallet, {"mode": "prepaid"})
    yield plain_stage


@pytest.fixture
async def writer(stage: Stage) -> AsyncIterator[Writer]:
    writer = Writer(Lane(stage.urls.worker))
    yield writer
    await writer.close()


async def fund(stage: Stage, micro: int) -> None:
    team = stage.person.team_id
    now = stage.world.clock.now()
    async with stage.world.session(team) as session:
        wallet = await ensure_wallet(session, team, now)
        source = await ensure_account(session, team, "test-funds", billing.CURRENCY, now)
        legs = (Leg(wallet.account_id, micro), Leg(source, -micro))
        (await post(session, Posting(team, "test", f"{now.timestamp()}", "topup", legs, now.date()))).stands()


async def balances(stage: Stage) -> dict[str, int]:
    rows = await stage.rows("SELECT type, balance FROM ledger_account WHERE team_id = %s", stage.person.team_id)
    return {str(kind): int(balance) for kind, balance in rows}


async def hours(stage: Stage, writer: Writer, number: float) -> None:
    """Let hours go by, then charge and hold as the worker does."""
    await asyncio.to_thread(stage.sandbox.control.turn_clock, advance_s=3600 * number)
    turn(stage.world.clock, number)
    await Metering(stage.world.database, stage.world.clock, writer).run()
    await Holding(stage.world.database, stage.world.clock).run()


async def begun(stage: Stage, instance_id: str, kind: str) -> str:
    [(operation,)] = await stage.rows(
        "SELECT id FROM operation WHERE instance_id = %s AND kind = %s ORDER BY id DESC LIMIT 1", instance_id, kind
    )
    return str(operation)


async def test_an_empty_wallet_hibernates_and_a_full_one_wakes(stage: Stage, writer: Writer) -> None:
    """No start without money; a verified snapshot and a kept disk when it ends; no wake before there is more."""
    with pytest.raises(InsufficientFunds, match="Top the wallet up"):
        await stage.begin_launch()
    assert await stage.rows("SELECT id FROM instance WHERE team_id = %s", stage.person.team_id) == []
    price = (await stage.offers())[0].price_hour_nano / 1000
    await fund(stage, round(price * 4))
    case = await new_instance(stage)
    await hours(stage, writer, 0.25)
    sweep = DrySweep(stage.world)
    assert await sweep.run() == {"dry": 0, "hibernations_begun": 0}
    await hours(stage, writer, 3)
    assert await sweep.run() == {"dry": 1, "hibernations_begun": 1}
    assert await sweep.run() == {"dry": 1, "hibernations_begun": 0}
    done = await Trial(stage, await begun(stage, case.instance_id, "hibernate")).run()
    assert done.status == "succeeded", done.problem
    await _asleep(stage, case)
    await hours(stage, writer, 0.25)
    assert await sweep.run() == {"dry": 0, "hibernations_begun": 0}
    left = await balances(stage)
    assert left["wallet"] > 0 and left["receivable"] == 0, left
    await hours(stage, writer, 24 * 30)
    with pytest.raises(InsufficientFunds):
        await wake(stage, case)
    await _asleep(stage, case)
    assert (await balances(stage))["receivable"] < 0
    await fund(stage, 20 * USD)
    await hours(stage, writer, 0.25)
    woken = await Trial(stage, await wake(stage, case)).run()
    assert woken.status == "succeeded", woken.problem
    assert (await balances(stage))["receivable"] == 0
    assert (await stage.instance(case.instance_id)).status == "running"


async def test_a_create_that_came_to_nothing_is_charged_for_what_it_cost(plain_stage: Stage) -> None:
    """A machine that never came up and was given back had a disk that cost: the team is charged, and shown it."""
    stage = plain_stage
    stage.world = replace(stage.world, clock=TurnedClock(stage.sandbox))
    stage.sandbox.control.add_fault("stuck_loading", {}, times=1)
    instance_id, operation_id = await stage.begin_launch(attempts=1, minutes=1, disk_gb=100.0)
    launching = asyncio.create_task(Trial(stage, operation_id).run())
    while not await stage.rows("SELECT id FROM meter WHERE instance_id = %s", instance_id):
        assert not launching.done()
        await asyncio.sleep(0.02)
    writer = Writer(Lane(stage.urls.worker))
    await hours(stage, writer, 10)
    await stage.write("UPDATE operation SET cancel_requested = true, status = 'cancelling' WHERE id = %s", operation_id)
    assert (await launching).status == "cancelled"
    assert (await stage.instance(instance_id)).status == "failed"
    await hours(stage, writer, 2)
    trued = await true_up_ended(stage.world)
    assert trued["left"] == 0
    await writer.close()
    [(label,)] = await stage.rows("SELECT label FROM rental WHERE instance_id = %s", instance_id)
    lines = await asyncio.to_thread(stage.sandbox.control.ledger)
    [bill] = [line.total_nanousd for line in lines if line.label == label]
    async with stage.world.session(stage.person.team_id) as session:
        now = stage.world.clock.now()
        [shown] = await queries.usage(session, stage.person.team_id, now - timedelta(days=1), now, "instance")
    assert shown.key == instance_id and bill > 10_000_000
    assert abs(shown.amount * 1000 - bill) < 1_000_000
    assert (await balances(stage))["showback"] == -shown.amount


async def test_a_refusal_says_over_http_what_to_pay(place: Place, tmp_path: Path) -> None:
    async with whole_api(place.urls, place.sandbox, tmp_path) as api:
        person = await api.person()
        headers = person.headers
        assert (await api.http.patch("/api/v1/wallet", json={"mode": "prepaid"}, headers=headers)).status_code == 200
        offer = await api.offer_id(person)
        answer = await api.http.post("/api/v1/instances", json={"offer_id": offer}, headers=headers)
        told = answer.json()
        assert (answer.status_code, told["code"], told["act"]) == (402, "insufficient-funds", "pay"), told
        assert told["available"] == {"amount": "0.000000", "currency": "USD"} and float(told["needed"]["amount"]) > 0
        limits = {"mode": "showback", "limit_hour": "0.001"}
        assert (await api.http.patch("/api/v1/wallet", json=limits, headers=headers)).status_code == 200
        answer = await api.http.post("/api/v1/instances", json={"offer_id": offer}, headers=headers)
        assert (answer.status_code, answer.json()["code"], answer.json()["act"]) == (402, "spend-limit", "fix")
        assert (await api.http.get("/api/v1/instances", headers=headers)).json()["count"] == 0
        assert (await api.http.get("/api/v1/holds", headers=headers)).json()["count"] == 0


async def _asleep(stage: Stage, case: Case) -> None:
    """See the instance hibernated on a verified snapshot, with its machine's disk kept and no GPU billed."""
    instance: Any = await stage.instance(case.instance_id)
    assert (instance.status, instance.rental_id is not None) == ("hibernated", True)
    [(verified,)] = await stage.rows(
        "SELECT verified_at IS NOT NULL FROM snapshot WHERE id = %s", instance.last_snapshot_id
    )
    assert verified
    bills = await stage.bills(case.instance_id)
    bills.agree()
    assert (len(bills.billed), bills.running, bills.gpu_spans) == (1, set(), [])
