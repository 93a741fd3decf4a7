"""A marketplace that forgets orders, raises the dead and lets people meddle: nothing is lost, doubled or trusted."""

import asyncio
from functools import partial
from typing import Any

import pytest
from tests.support.world import Stage
from tests.workflows.engine import Trial
from tests.workflows.scenarios import BY_NAME

from .conftest import Watch
from .test_losses import launched, machine_of


def wish(stage: Stage, fault: str, times: int = 1, **params: Any) -> None:
    """Ask the sandbox for a fault."""
    stage.sandbox.control.add_fault(fault, params, times=times)


async def befalls(stage: Stage, machine: str, fault: str, **params: Any) -> None:
    """Let something happen to a machine now."""
    await asyncio.to_thread(partial(stage.sandbox.control.befall, int(machine), fault, **params))


async def test_a_destroy_that_was_forgotten_is_given_again(stage: Stage, watch: Watch) -> None:
    """A destroy answered with success, twice for nothing: it ends only when the machine is really gone."""
    case = await launched(stage)
    machine = await machine_of(stage, case)
    wish(stage, "destroy_lost", times=2)
    done, _ = await BY_NAME["destroy"].try_out(stage, case)
    assert done.status == "succeeded", done.problem
    assert stage.sandbox.control.faults() == []
    assert stage.sandbox.control.line(int(machine)).destroyed_at is not None


async def test_a_machine_that_lingers_is_no_stray(stage: Stage, watch: Watch) -> None:
    """A destroyed machine that is listed as running for a while is waited for, and called neither gone nor a stray."""
    case = await launched(stage)
    machine = await machine_of(stage, case)
    wish(stage, "destroy_linger", s=0.6, shown="running")
    done, _ = await BY_NAME["destroy"].try_out(stage, case)
    assert done.status == "succeeded", done.problem
    await watch.rounds(2)
    assert await watch.news("machine.stray", machine) == []


async def test_a_machine_that_rises_again_is_destroyed_again(stage: Stage, watch: Watch) -> None:
    """A machine seen gone comes back and bills: the sweep knows its label and ends it."""
    case = await launched(stage)
    machine = await machine_of(stage, case)
    wish(stage, "zombie", after_s=600.0)
    done, _ = await BY_NAME["destroy"].try_out(stage, case)
    assert done.status == "succeeded", done.problem
    await asyncio.to_thread(stage.sandbox.control.turn_clock, advance_s=600.0)

    async def caught() -> bool:
        return [one["action"] for one in await watch.news("machine.stray", machine)] == ["destroyed"]

    await watch.until(caught)
    assert stage.sandbox.instance(int(machine)) is None
    (await stage.bills(case.instance_id)).agree()


@pytest.mark.parametrize("lost", [False, True], ids=["answered", "lost answer"])
async def test_a_read_path_that_lags_never_rents_twice(stage: Stage, lost: bool) -> None:
    """A new machine is not to be seen for a while, even when the order's answer was lost: exactly one is ever made."""
    wish(stage, "read_lag", s=0.2)
    if lost:
        wish(stage, "accept_then_drop", ops=["create"])
    case = await launched(stage)
    bills = await stage.bills(case.instance_id)
    bills.agree()
    assert len(bills.made) == 1
    assert stage.sandbox.control.faults() == []


async def test_a_container_that_ended_is_interrupted(stage: Stage, watch: Watch) -> None:
    """A container that ends by itself is told with its own words; its machine is neither restarted nor given back."""
    case = await launched(stage)
    machine = await machine_of(stage, case)
    await befalls(stage, machine, "exits", text="out of memory")
    await watch.becomes(case.instance_id, "interrupted")
    await watch.rounds(2)
    shown = stage.sandbox.instance(int(machine))
    assert shown is not None and shown["actual_status"] == "exited"
    assert "container ended" in str((await stage.instance(case.instance_id)).status_detail)


async def test_a_person_destroys_or_renames_a_machine_elsewhere(stage: Stage, watch: Watch) -> None:
    """A new label changes nothing, for we know the number; a machine destroyed in the console is gone."""
    case = await launched(stage)
    machine = await machine_of(stage, case)
    await befalls(stage, machine, "outside_change", action="relabel", label="mine now")
    await watch.rounds(3)
    assert (await stage.instance(case.instance_id)).status == "running"
    async with stage.login(case.instance_id) as hands:
        assert (await hands.run("test -d workspace", timeout=10)).exit_status == 0
    assert await watch.news("machine.stray", machine) == []
    await befalls(stage, machine, "outside_change", action="destroy")
    await watch.becomes(case.instance_id, "offline")
    assert (await stage.rows("SELECT state FROM rental WHERE provider_machine_id = %s", machine)) == [("released",)]
    (await stage.bills(case.instance_id)).agree()


async def test_a_machine_that_comes_back_as_another_is_not_trusted(stage: Stage, watch: Watch) -> None:
    """A machine with another host key than the pinned one is not called running, however often it is looked at."""
    case = await launched(stage, "interruptible")
    machine = await machine_of(stage, case)
    wish(stage, "host_key_change", on="restart", instance=int(machine))
    await asyncio.to_thread(stage.sandbox.control.send_rival, int(machine))
    await watch.becomes(case.instance_id, "interrupted")
    await asyncio.to_thread(stage.sandbox.control.dismiss_rivals)
    await asyncio.to_thread(stage.sandbox.wait_for, int(machine), "running")
    await watch.rounds(4)
    instance = await stage.instance(case.instance_id)
    assert instance.status == "interrupted" and "host key" in (instance.status_detail or "")
    done = await Trial(stage, await BY_NAME["destroy"].begin(stage, case)).run()
    assert done.status == "succeeded", done.problem
