"""Machines that stop, vanish, lose their host or come back while nobody works on them: the instance says so."""

import asyncio
from dataclasses import replace

import pytest
from tests.support.world import Stage
from tests.workflows.engine import Trial
from tests.workflows.scenarios import BY_NAME, Case, check_running, kept, new_instance, running, wake

from dumont.providers import OfferQuery

from .conftest import Watch


async def launched(stage: Stage, machine_type: str = "on-demand") -> Case:
    """A running instance."""
    found = await stage.world.provider("sandbox").offers(OfferQuery(num_gpus=1, machine_type=machine_type, limit=1))
    instance_id, operation_id = await stage.begin_launch(found[0])
    done = await Trial(stage, operation_id).run()
    assert done.status == "succeeded", done.problem
    return Case(instance_id)


async def machine_of(stage: Stage, case: Case) -> str:
    """The number of an instance's machine."""
    return str((await stage.rental(case.instance_id)).provider_machine_id)


async def test_a_stop_in_the_console_is_respected(stage: Stage, watch: Watch) -> None:
    """A person stopped the machine elsewhere: the instance is paused, its GPU costs no more, nobody starts it again."""
    case = await launched(stage)
    machine = await machine_of(stage, case)
    watch.change(machine, "stopped")
    await watch.becomes(case.instance_id, "paused")
    assert await watch.news("instance.changed_outside", case.instance_id) == [
        {"provider": "sandbox", "provider_machine_id": machine, "what": "stopped"}
    ]
    await watch.rounds(3)
    bills = await stage.bills(case.instance_id)
    bills.agree()
    assert (bills.billed, bills.running, bills.gpu_spans) == ({machine}, set(), [])


async def test_a_bid_that_lost_its_gpu_comes_back(stage: Stage, watch: Watch) -> None:
    """A bid that another outbids is interrupted without notice; when it wins again, the instance runs."""
    case = await launched(stage, "interruptible")
    machine = await machine_of(stage, case)
    await asyncio.to_thread(stage.sandbox.control.send_rival, int(machine))
    await watch.becomes(case.instance_id, "interrupted")
    assert (await stage.instance(case.instance_id)).disk_newer
    await watch.rounds(2)
    (await stage.bills(case.instance_id)).agree()
    await asyncio.to_thread(stage.sandbox.control.dismiss_rivals)
    await watch.becomes(case.instance_id, "running")
    await check_running(stage, case)
    (await stage.bills(case.instance_id)).agree()
    assert not (await stage.instance(case.instance_id)).disk_newer


async def test_a_host_without_power_and_with_it_again(stage: Stage, watch: Watch) -> None:
    """A host that is cut off makes the instance offline, not gone; it runs again when the host does."""
    case = await new_instance(stage)
    machine = await machine_of(stage, case)
    await asyncio.to_thread(stage.sandbox.control.kill_host, int(machine))
    await watch.becomes(case.instance_id, "offline")
    await watch.rounds(2)
    assert (await stage.rental(case.instance_id)).state == "rented"
    await asyncio.to_thread(stage.sandbox.control.restore_host, int(machine))
    await watch.becomes(case.instance_id, "running")
    await check_running(stage, case)


async def test_a_machine_that_is_gone_leaves_a_snapshot_to_wake(stage: Stage, watch: Watch) -> None:
    """A destroyed machine closes its costs, the instance is offline, and its snapshot wakes on another machine."""
    case = await running(stage, await kept(stage, None))
    machine = await machine_of(stage, case)
    await stage.world.provider("sandbox").destroy(machine)
    await watch.becomes(case.instance_id, "offline")
    instance = await stage.instance(case.instance_id)
    assert instance.rental_id is None and "restore its last snapshot" in (instance.status_detail or "")
    (await stage.bills(case.instance_id)).agree()
    assert len(await watch.news("instance.machine_gone", case.instance_id)) == 1
    done = await Trial(stage, await wake(stage, case)).run()
    assert done.status == "succeeded", done.problem
    await check_running(stage, case)
    assert await machine_of(stage, case) != machine


async def test_a_kept_machine_that_is_gone_is_no_longer_kept(stage: Stage, watch: Watch) -> None:
    """A hibernated instance whose kept machine vanished stays hibernated, without a machine that costs."""
    case = await kept(stage, None)
    await stage.world.provider("sandbox").destroy(await machine_of(stage, case))

    async def let_go() -> bool:
        return (await stage.instance(case.instance_id)).rental_id is None

    await watch.until(let_go)
    assert (await stage.instance(case.instance_id)).status == "hibernated"
    (await stage.bills(case.instance_id)).agree()


@pytest.mark.parametrize("status", ["offline", "interrupted"])
async def test_a_lost_instance_can_be_destroyed(stage: Stage, watch: Watch, status: str) -> None:
    """Destroy works from the states of loss, and costs nothing afterwards."""
    case = await launched(stage, "interruptible")
    machine = await machine_of(stage, case)
    if status == "offline":
        await asyncio.to_thread(stage.sandbox.control.kill_host, int(machine))
    else:
        watch.change(machine, "stopped")
    await watch.becomes(case.instance_id, status)
    done = await BY_NAME["destroy"].try_out(stage, case)
    assert done[0].status == "succeeded", done[0].problem
    if status == "offline":
        await asyncio.to_thread(stage.sandbox.control.restore_host, int(machine))


async def test_empty_listings_change_nothing(stage: Stage, watch: Watch) -> None:
    """However often the marketplace lists nothing, nothing is created, destroyed or called gone."""
    up, asleep = await launched(stage), await kept(stage, None)
    before = await snapshot_of_all(stage)
    stage.sandbox.control.add_fault("empty_list_200", {}, times=1000)
    await watch.rounds(6)
    assert await snapshot_of_all(stage) == before
    stage.sandbox.control.clear_faults()
    await watch.rounds(1)
    assert await snapshot_of_all(stage) == before
    for case in (up, asleep):
        (await stage.bills(case.instance_id)).agree()


async def test_unknown_is_never_lost(stage: Stage, watch: Watch) -> None:
    """A marketplace that errs on every listing, or on every look at a machine, proves nothing."""
    await launched(stage)
    before = await snapshot_of_all(stage)
    stage.sandbox.control.add_fault("http_error", {"ops": ["list"], "status": 502}, times=12)
    await watch.rounds(3)
    stage.sandbox.control.clear_faults()
    stage.sandbox.control.add_fault("empty_list_200", {}, times=1000)
    stage.sandbox.control.add_fault("http_error", {"ops": ["show"], "status": 500}, times=1000)
    await watch.rounds(4)
    stage.sandbox.control.clear_faults()
    assert await snapshot_of_all(stage) == before


async def test_what_an_operation_works_on_is_left_to_it(stage: Stage, watch: Watch) -> None:
    """While an operation lives, the watch touches neither its instance nor its machine."""
    case = await launched(stage)
    done = await kept_by(stage, case)
    watch.change(await machine_of(stage, case), "stopped")
    await watch.rounds(3)
    assert (await stage.instance(case.instance_id)).status == "destroying"
    assert (await Trial(stage, done).run()).status == "succeeded"


async def kept_by(stage: Stage, case: Case) -> str:
    """Begin an operation on an instance and leave it waiting."""
    return await BY_NAME["destroy"].begin(stage, case)


async def snapshot_of_all(stage: Stage) -> list[object]:
    """Everything that the watch could change: instances, rentals, open costs, and the marketplace's own books."""
    team = stage.person.team_id
    found: list[object] = [
        await stage.rows("SELECT id, status, rental_id, version FROM instance WHERE team_id = %s ORDER BY id", team),
        await stage.rows("SELECT id, state, provider_machine_id FROM rental WHERE team_id = %s ORDER BY id", team),
        await stage.rows("SELECT id, to_at FROM rental_span WHERE team_id = %s ORDER BY id", team),
    ]
    lines = await asyncio.to_thread(stage.sandbox.control.ledger)
    bare = [replace(line, spans=[], gpu_nanousd=0, disk_nanousd=0, total_nanousd=0) for line in lines]
    return [*found, bare]
