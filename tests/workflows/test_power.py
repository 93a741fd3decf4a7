"""Pausing, resuming and rebooting for real: processes end, GPUs stop costing, queues are left behind."""

import asyncio
from typing import Any

import pytest
from tests.support.frozen import frozen
from tests.support.sandbox import wait_until
from tests.support.world import Stage

from dumont.durable import Operation
from dumont.instances import Losses

from .engine import Trial
from .scenarios import Case, check_paused, check_running, destroy, new_instance, pause, paused, reboot, resume

CANCEL = "UPDATE operation SET cancel_requested = true, status = 'cancelling' WHERE id = %s"


async def taken(stage: Stage, case: Case) -> list[int]:
    """Let strangers rent all that is free of a paused instance's computer; returns their machines."""
    machine = int((await stage.rental(case.instance_id)).machine_id)
    strangers = []
    while offers := stage.sandbox.offers(machine_id={"eq": machine}):
        strangers.append(stage.sandbox.rent(min(offers, key=lambda offer: int(offer["num_gpus"]))["id"]))
    assert strangers, "nobody can take the GPU"
    return strangers


def leave(stage: Stage, strangers: list[int]) -> None:
    for number in strangers:
        stage.sandbox.call("DELETE", f"/api/v0/instances/{number}/", {})


def machine_of(stage: Stage, number: int) -> dict[str, Any]:
    """How the marketplace sees a machine."""
    machines = stage.sandbox.control.state()["machines"]
    return dict(next(machine for machine in machines if machine["instance_id"] == number))


@pytest.mark.checklist("INST-17")
async def test_a_pause_ends_processes_and_cost(stage: Stage) -> None:
    """What ran is gone, the GPU costs nothing from here, the disk goes on costing and keeps every file."""
    case = await new_instance(stage)
    number = int((await stage.rental(case.instance_id)).provider_machine_id or 0)
    async with stage.login(case.instance_id) as hands:
        await hands.run("setsid sleep 1000 >/dev/null 2>&1 &", timeout=10)
    assert stage.sandbox.processes(number)
    done = await Trial(stage, await pause(stage, case)).run()
    assert done.status == "succeeded", done.problem
    instance = await check_paused(stage, case)
    assert instance.paused_at is not None
    (await stage.bills(case.instance_id)).agree()
    before = await asyncio.to_thread(stage.sandbox.control.line, number)
    await asyncio.sleep(0.3)
    after = await asyncio.to_thread(stage.sandbox.control.line, number)
    assert after.gpu_nanousd == before.gpu_nanousd and after.disk_nanousd > before.disk_nanousd


@pytest.mark.checklist("INST-18")
async def test_a_resume_waits_for_its_gpu(stage: Stage) -> None:
    """Strangers have the GPU: the resume waits in the queue, says so, and is served when they leave."""
    case = await paused(stage, None)
    strangers = await taken(stage, case)
    operation_id = await resume(stage, case, wait_minutes=1)
    running = asyncio.create_task(Trial(stage, operation_id).run())
    await _waits(stage, operation_id, running)
    assert (await stage.instance(case.instance_id)).status == "resuming"
    leave(stage, strangers)
    done = await asyncio.wait_for(running, 60)
    assert done.status == "succeeded", done.problem
    instance = await check_running(stage, case)
    assert instance.paused_at is None
    (await stage.bills(case.instance_id)).agree()


@pytest.mark.parametrize("how", ["waited long enough", "cancelled"])
async def test_a_start_that_was_given_up_never_runs_later(stage: Stage, how: str) -> None:
    """The GPU does not come free in time, or nobody wants to wait any more: paused again, and out of the queue."""
    case = await paused(stage, None)
    number = int((await stage.rental(case.instance_id)).provider_machine_id or 0)
    strangers = await taken(stage, case)
    operation_id = await resume(stage, case, wait_minutes=1 if how == "cancelled" else 0.01)
    running = asyncio.create_task(Trial(stage, operation_id).run())
    if how == "cancelled":
        await _waits(stage, operation_id, running)
        await stage.write(CANCEL, operation_id)
    done = await asyncio.wait_for(running, 60)
    assert (done.problem or {})["code"] == ("cancelled" if how == "cancelled" else "no-capacity")
    await check_paused(stage, case)
    leave(stage, strangers)
    offers = {"machine_id": {"eq": int((await stage.rental(case.instance_id)).machine_id)}}
    await asyncio.to_thread(wait_until, lambda: stage.sandbox.offers(**offers), what="the GPU to be free")
    await asyncio.sleep(1.2)  # the marketplace serves its queue every second
    assert machine_of(stage, number)["intended"] == "stopped"
    await check_paused(stage, case)


async def test_a_reboot_ends_processes_and_keeps_files(stage: Stage) -> None:
    """What ran before is gone, the files and the host key are the same, and people can log in again."""
    case = await new_instance(stage)
    before = await stage.rental(case.instance_id)
    async with stage.login(case.instance_id) as hands:
        await hands.run("setsid sleep 4321 >/dev/null 2>&1 &", timeout=10)
        assert (await hands.run("pgrep -f 'sleep 432[1]'", timeout=10)).exit_status == 0
    done = await Trial(stage, await reboot(stage, case)).run()
    assert done.status == "succeeded", done.problem
    await check_running(stage, case)
    async with stage.login(case.instance_id) as hands:
        old = await hands.run("grep -slz 'HOME='$HOME /proc/[0-9]*/environ | wc -l", timeout=10)
        assert old.exit_status == 0
    number = int(before.provider_machine_id or 0)
    assert not [pid for pid in stage.sandbox.processes(number) if "4321" in _words(pid)]
    assert (await stage.rental(case.instance_id)).host_key == before.host_key
    (await stage.bills(case.instance_id)).agree()


async def test_a_machine_that_somebody_stops_costs_no_gpu_while_its_reboot_waits(stage: Stage) -> None:
    """The marketplace bills no GPU from then on, and neither do our books, long before the reboot is given up."""
    case = await new_instance(stage)
    stage.sandbox.control.add_fault("outside_change", {"action": "stop"}, times=1)
    stage.sandbox.control.add_fault("ssh_auth_refused", {"for_s": 60.0}, times=1)
    operation_id = await reboot(stage, case)
    rebooting = asyncio.create_task(Trial(stage, operation_id).run())
    try:
        async with asyncio.timeout(60):
            while (await stage.bills(case.instance_id)).gpu_spans:
                await asyncio.sleep(0.1)
        assert not (await stage.bills(case.instance_id)).running
        assert not rebooting.done(), "the reboot ended before its time"
    finally:
        await stage.write(CANCEL, operation_id)
        done = await rebooting
    assert done.status == "cancelled", done.problem
    bills = await stage.bills(case.instance_id)
    assert (bills.gpu_spans, bills.running) == ([], set())
    bills.agree()


async def test_a_machine_that_runs_again_costs_again_while_its_reboot_waits(stage: Stage) -> None:
    """Stopped by a person and started by him while we wait to be let in: its GPU is counted from then on."""
    case = await new_instance(stage)
    number = int((await stage.rental(case.instance_id)).provider_machine_id or 0)
    stage.sandbox.control.add_fault("outside_change", {"action": "stop"}, times=1)
    stage.sandbox.control.add_fault("ssh_auth_refused", {"for_s": 60.0}, times=2)
    operation_id = await reboot(stage, case)
    rebooting = asyncio.create_task(Trial(stage, operation_id).run())
    try:
        async with asyncio.timeout(60):
            while (await stage.bills(case.instance_id)).gpu_spans:
                await asyncio.sleep(0.1)
            stage.sandbox.call("PUT", f"/api/v0/instances/{number}/", {"state": "running"})
            while not (await stage.bills(case.instance_id)).gpu_spans:
                await asyncio.sleep(0.1)
        assert not rebooting.done(), "the reboot ended before its time"
    finally:
        await stage.write(CANCEL, operation_id)
        await rebooting
        await asyncio.to_thread(stage.sandbox.control.clear_faults)
    (await stage.bills(case.instance_id)).agree()


async def test_a_running_machine_that_nobody_counts_is_counted_again(stage: Stage) -> None:
    """Whatever closed the count of a GPU that runs, the next look opens it."""
    case = await new_instance(stage)
    await stage.write(
        "UPDATE rental_span SET to_at = from_at WHERE kind = 'gpu' AND to_at IS NULL AND rental_id = "
        "(SELECT rental_id FROM instance WHERE id = %s)",
        case.instance_id,
    )
    assert not (await stage.bills(case.instance_id)).gpu_spans
    await Losses(stage.world).look()
    assert len((await stage.bills(case.instance_id)).gpu_spans) == 1
    assert (await stage.instance(case.instance_id)).status == "running"


def _words(pid: int) -> str:
    from pathlib import Path

    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


async def _waits(stage: Stage, operation_id: str, running: "asyncio.Task[Operation]") -> None:
    """Wait until an operation says that it waits for its GPU."""
    async with asyncio.timeout(60):
        while (
            "rented by somebody else"
            not in (await stage.rows("SELECT steps::text FROM operation WHERE id = %s", operation_id))[0][0]
        ):
            assert not running.done(), "it ended instead of waiting"
            await asyncio.sleep(0.05)


async def test_a_stop_that_is_slow_does_not_hold_a_destroy_up(stage: Stage) -> None:
    """The marketplace takes for ever to stop: whoever destroys the instance then does not wait for that."""
    case = Case((await stage.begin_launch())[0])
    await begun(stage, case)
    stage.sandbox.control.add_fault("status_lag", {"s": 1000})
    pausing = asyncio.create_task(Trial(stage, await pause(stage, case)).run())
    number = int((await stage.rental(case.instance_id)).provider_machine_id or 0)
    await asyncio.to_thread(wait_until, lambda: machine_of(stage, number)["intended"] == "stopped", what="the order")
    destroyed = await asyncio.wait_for(Trial(stage, await destroy(stage, case)).run(), 60)
    assert destroyed.status == "succeeded", destroyed.problem
    await asyncio.wait_for(pausing, 60)
    assert (await stage.instance(case.instance_id)).status == "destroyed"
    bills = await stage.bills(case.instance_id)
    bills.agree()
    assert bills.billed == set()


async def test_a_stop_that_was_forgotten_is_asked_for_again(stage: Stage) -> None:
    """The order was taken, and then the machine shall run again by the marketplace's word: it stops all the same."""
    case = Case((await stage.begin_launch())[0])
    await begun(stage, case)
    number = (await stage.rental(case.instance_id)).provider_machine_id
    stage.sandbox.control.add_fault("status_lag", {"s": 1000})

    async def forgets() -> None:
        stage.sandbox.call("PUT", f"/api/v0/instances/{number}/", {"state": "running"})

    stage.world = frozen(stage, "stop", forgets)
    done = await asyncio.wait_for(Trial(stage, await pause(stage, case)).run(), 60)
    assert done.status == "succeeded", done.problem
    assert (await stage.instance(case.instance_id)).status == "paused"
    bills = await stage.bills(case.instance_id)
    bills.agree()
    assert bills.running == set()


async def begun(stage: Stage, case: Case) -> None:
    """See an instance's first operation through."""
    found = await stage.rows("SELECT id FROM operation WHERE instance_id = %s", case.instance_id)
    done = await Trial(stage, found[0][0]).run()
    assert done.status == "succeeded", done.problem


async def test_a_wait_for_a_gpu_ends_with_its_machine(stage: Stage) -> None:
    """The machine vanishes while its GPU is waited for: nobody waits any longer, and its disk costs no more."""
    case = await paused(stage, None)
    number = (await stage.rental(case.instance_id)).provider_machine_id
    await taken(stage, case)
    operation_id = await resume(stage, case, wait_minutes=60)
    running = asyncio.create_task(Trial(stage, operation_id).run())
    await _waits(stage, operation_id, running)
    stage.sandbox.call("DELETE", f"/api/v0/instances/{number}/", {})
    done = await asyncio.wait_for(running, 60)
    assert (done.problem or {})["code"] == "host-lost"
    assert (await stage.instance(case.instance_id)).status == "paused"
