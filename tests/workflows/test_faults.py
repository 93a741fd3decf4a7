"""A marketplace that drops answers, errs, forgets machines or loses hosts: the outcome is right and nothing is lost."""

import asyncio
from typing import Any

import pytest
from tests.support.world import Stage

from .engine import Trial
from .scenarios import BY_NAME, SCENARIOS, Case, Scenario, check_asleep, hibernate, kept, running, wake

LOST = {
    "launch": ["create"],
    "destroy": ["destroy"],
    "hibernate": ["stop"],
    "hibernate-and-destroy": ["destroy"],
    "wake": ["start"],
    "pause": ["stop"],
    "resume": ["start"],
    "reboot": [],
    "attach-key": [],
    "wake-elsewhere": ["create", "destroy"],
    "stop-unasked": ["stop"],
    "verify": [],
    "restore-parts": [],
    "collect": [],
}
"""Which orders of each scenario go wrong."""


def wish(stage: Stage, fault: str, times: int = 1, **params: Any) -> None:
    """Ask the sandbox for a fault."""
    stage.sandbox.control.add_fault(fault, params, times=times)


async def outcome(stage: Stage, scenario: Scenario, case: Case) -> str:
    """Run a scenario over the faults, see them all used, and return the status."""
    operation, _ = await scenario.try_out(stage, case)
    left = await asyncio.to_thread(stage.sandbox.control.faults)
    assert left == [], f"the faults were not all met: {left}"
    return operation.status


@pytest.mark.parametrize("scenario", [scenario for scenario in SCENARIOS if LOST[scenario.name]], ids=str)
async def test_errors_and_lost_answers(stage: Stage, scenario: Scenario) -> None:
    """Orders meet a 502 and a 500, then are carried out without an answer: one machine, the right end and bill."""
    case = await scenario.ready(stage, None)
    for order in LOST[scenario.name]:
        wish(stage, "http_error", ops=[order], status=502)
        if order != "create":
            wish(stage, "http_error", ops=[order], status=500)
        wish(stage, "accept_then_drop", ops=[order])
    assert await outcome(stage, scenario, case) == "succeeded"


async def test_a_lost_rent_and_listings_that_forget(stage: Stage) -> None:
    """An answer is lost and the next listings are empty: no second machine is left over, whatever was believed."""
    scenario = BY_NAME["launch"]
    case = await scenario.ready(stage, None)
    wish(stage, "accept_then_drop", ops=["create"])
    wish(stage, "empty_list_200", times=3)
    assert await outcome(stage, scenario, case) == "succeeded"


async def test_an_empty_listing_is_no_absence(stage: Stage) -> None:
    """A machine that a listing forgets while it is given back is still seen gone by its number."""
    scenario = BY_NAME["destroy"]
    case = await scenario.ready(stage, None)
    wish(stage, "http_error", ops=["destroy"], status=500)
    wish(stage, "empty_list_200")
    assert await outcome(stage, scenario, case) == "succeeded"


async def test_an_order_that_came_too_soon_is_simply_repeated(stage: Stage) -> None:
    """A refusal for coming too soon carries nothing out: the same label is asked for again, without any doubt."""
    instance_id, operation_id = await stage.begin_launch(attempts=1)
    wish(stage, "rate_limit", ops=["create"], form="retry_after", retry_after_s=0.1)
    operation = await Trial(stage, operation_id).run()
    assert operation.status == "succeeded", operation.problem
    states = await stage.rows("SELECT state FROM rental WHERE instance_id = %s", instance_id)
    assert states == [("rented",)], "one intent, one label"
    bills = await stage.bills(instance_id)
    bills.agree()
    assert len(bills.made) == 1


async def test_a_host_that_dies_while_a_machine_is_launched(stage: Stage) -> None:
    """A launch of one machine alone fails; the dead one is given back and costs nothing."""
    instance_id, operation_id = await stage.begin_launch(attempts=1)
    wish(stage, "host_offline", moment="ssh_exec")
    operation = await Trial(stage, operation_id).run()
    assert (operation.problem or {}).get("code") == "host-lost"
    assert (await stage.instance(instance_id)).status == "failed"
    bills = await stage.bills(instance_id)
    bills.agree()
    assert bills.billed == set()


@pytest.mark.checklist("HIB-21", "SNAP-18", "SNAP-19")
async def test_a_wake_outlives_its_first_machine(stage: Stage) -> None:
    """The first machine of a wake elsewhere loses its host: the files come up on the next one, byte for byte."""
    scenario = BY_NAME["wake-elsewhere"]
    case = await scenario.ready(stage, None)
    before = await stage.rental(case.instance_id)
    wish(stage, "host_offline", moment="ssh_exec")
    operation, trial = await scenario.try_out(stage, case)
    assert operation.status == "succeeded", operation.problem
    assert "rent (2)" in trial.names()
    assert (await stage.rental(case.instance_id)).machine_id != before.machine_id


async def test_a_kept_machine_whose_host_is_dead(stage: Stage) -> None:
    """A wake on a kept machine that cannot come up goes elsewhere by itself and gives the dead one back."""
    case = await kept(stage, None)
    before = await stage.rental(case.instance_id)
    await asyncio.to_thread(stage.sandbox.control.kill_host, int(before.provider_machine_id or 0))
    operation, trial = await BY_NAME["wake"].try_out(stage, case)
    assert operation.status == "succeeded", operation.problem
    assert "give back kept machine" in trial.names()
    assert (await stage.rental(case.instance_id)).machine_id != before.machine_id


async def test_a_kept_machine_that_the_provider_lost(stage: Stage) -> None:
    """A kept machine that is gone at the marketplace does not keep its instance asleep."""
    case = await kept(stage, None)
    before = await stage.rental(case.instance_id)
    await stage.world.provider("sandbox").destroy(before.provider_machine_id or "")
    operation, _ = await BY_NAME["wake"].try_out(stage, case)
    assert operation.status == "succeeded", operation.problem


async def test_a_failed_wake_on_a_dead_host_ends(stage: Stage) -> None:
    """Kept host dead and nothing else to be had within the limit: asleep again, the snapshot safe, and wakes later."""
    case = await kept(stage, None)
    before = await stage.rental(case.instance_id)
    await stage.write("UPDATE instance SET max_price_hour_nano = 1 WHERE id = %s", case.instance_id)
    await asyncio.to_thread(stage.sandbox.control.kill_host, int(before.provider_machine_id or 0))
    done = await asyncio.wait_for(Trial(stage, await wake(stage, case)).run(), 60)
    assert done.status == "failed" and (done.problem or {})["code"] in ("price-moved", "offer-gone"), done.problem
    await check_asleep(stage, case)
    await asyncio.to_thread(stage.sandbox.control.restore_host, int(before.provider_machine_id or 0))
    await stage.write("UPDATE instance SET max_price_hour_nano = NULL WHERE id = %s", case.instance_id)
    again, _ = await BY_NAME["wake"].try_out(stage, case)
    assert again.status == "succeeded", again.problem


async def test_a_stop_whose_answers_are_all_lost(stage: Stage) -> None:
    """After a lost answer the machine is looked at: one that has stopped is not ordered again and again to stop."""
    scenario = BY_NAME["pause"]
    case = await scenario.ready(stage, None)
    wish(stage, "accept_then_drop", times=20, ops=["stop"])
    operation, _ = await scenario.try_out(stage, case)
    assert operation.status == "succeeded", operation.problem
    (left,) = await asyncio.to_thread(stage.sandbox.control.faults)
    assert left["used"] < 6, left


async def test_a_machine_that_was_stopped_is_not_asked_for_its_files(stage: Stage) -> None:
    """A hibernation of a machine that somebody has stopped fails at once, and not after a minute of knocking."""
    case = await running(stage, None)
    number = int((await stage.rental(case.instance_id)).provider_machine_id or 0)
    stage.sandbox.call("PUT", f"/api/v0/instances/{number}/", {"state": "stopped"})
    await asyncio.to_thread(stage.sandbox.wait_for, number, "exited")
    operation = await asyncio.wait_for(Trial(stage, await hibernate(stage, case)).run(), 60)
    assert (operation.problem or {}).get("code") == "host-lost", operation.problem
    assert (await stage.instance(case.instance_id)).status == "running"
