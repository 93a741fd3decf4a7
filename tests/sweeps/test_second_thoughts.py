"""What was believed and turns out otherwise: machines that were not gone, looks that came too late."""

import asyncio
from pathlib import Path

import pytest
from tests.support.frozen import frozen
from tests.support.sandbox import start_in
from tests.support.world import DOUBT_DELAYS, Stage
from tests.workflows.engine import Trial
from tests.workflows.scenarios import BY_NAME, check_running, kept, new_instance, resume, running
from tests.workflows.test_power import CANCEL

from dumont.instances import Losses, Sweep, finish_destroying, queries
from dumont.providers import VastProvider

from .conftest import Watch
from .test_losses import launched, machine_of


async def believe_gone(stage: Stage, watch: Watch, home: Path, instance_id: str) -> None:
    """Let the installation use the key of another account for a while: every machine seems to be gone."""
    other = start_in(home)
    providers: dict[str, object] = stage.world.providers  # type: ignore[assignment]
    ours = providers["sandbox"]
    theirs = VastProvider("sandbox", other.url, other.key, doubt_delays=DOUBT_DELAYS, enforce_gaps=False)
    providers["sandbox"] = theirs
    try:

        async def gone() -> bool:
            return (await stage.instance(instance_id)).rental_id is None

        await watch.until(gone)
    finally:
        providers["sandbox"] = ours
        await theirs.close()
        other.stop()


async def test_a_machine_that_was_not_gone_is_taken_back(stage: Stage, watch: Watch, tmp_path: Path) -> None:
    """Believed gone with work that no snapshot has, and there again: its instance has it back, and pays all of it."""
    up, asleep = await new_instance(stage), await kept(stage, None)
    machines = {await machine_of(stage, case) for case in (up, asleep)}
    await believe_gone(stage, watch, tmp_path / "other", up.instance_id)
    assert (await stage.instance(up.instance_id)).status == "offline"
    await watch.becomes(up.instance_id, "running")
    await check_running(stage, up)
    await watch.rounds(2)
    assert {await machine_of(stage, case) for case in (up, asleep)} == machines
    assert (await stage.instance(asleep.instance_id)).status == "hibernated"
    for case in (up, asleep):
        (await stage.bills(case.instance_id)).agree()
        holes = await stage.rows(
            "SELECT a.kind FROM rental_span a JOIN rental r ON r.id = a.rental_id WHERE r.instance_id = %s AND "
            "a.to_at IS NOT NULL AND a.kind = 'disk' AND NOT EXISTS (SELECT FROM rental_span b "
            "WHERE b.rental_id = a.rental_id AND b.kind = a.kind AND b.from_at = a.to_at)",
            case.instance_id,
        )
        assert holes == [], "the machine cost all the time"
        assert len(await watch.news("instance.machine_back", case.instance_id)) == 1


async def test_a_pause_that_ends_while_machines_are_listed(stage: Stage, watch: Watch) -> None:
    """A machine that the listing still shows running was not started behind our back when its pause has just ended."""
    case = await running(stage, None)

    async def falls_asleep() -> None:
        await BY_NAME["pause"].try_out(stage, case)

    await Sweep(frozen(stage, "list", falls_asleep)).run()
    assert await watch.news("instance.changed_outside", case.instance_id) == []
    assert (await stage.instance(case.instance_id)).status == "paused", "nobody began to stop it once more"
    (await stage.bills(case.instance_id)).agree()


async def test_a_worker_that_was_frozen_after_its_looks(stage: Stage, watch: Watch) -> None:
    """What it saw is out of date when it thaws: the instance was paused and resumed, and runs."""
    case = await launched(stage)
    watch.change(await machine_of(stage, case), "stopped")

    async def others_work() -> None:
        await watch.becomes(case.instance_id, "paused")
        done = await Trial(stage, await resume(stage, case)).run()
        assert done.status == "succeeded", done.problem

    assert "stopped" not in await Losses(frozen(stage, "list", others_work, after=2)).look()
    await check_running(stage, case)
    (await stage.bills(case.instance_id)).agree()


async def test_a_destroy_that_ended_is_not_begun_again(stage: Stage) -> None:
    """Between finding what is left destroying and beginning again, somebody else's destroy came to its end."""
    case = await launched(stage)
    await stage.write("UPDATE instance SET status = 'destroying' WHERE id = %s", case.instance_id)
    before = await stage.rows("SELECT count(*) FROM operation WHERE instance_id = %s", case.instance_id)
    async with stage.world.session(stage.person.team_id) as session:
        await queries.get_locked(session, case.instance_id)
        sweeping = asyncio.create_task(finish_destroying(stage.world))
        await asyncio.sleep(0.3)
        assert not sweeping.done()
        instance = await queries.get(session, case.instance_id)
        assert instance is not None
        instance.status = "destroyed"
    await sweeping
    assert await stage.rows("SELECT count(*) FROM operation WHERE instance_id = %s", case.instance_id) == before


@pytest.mark.parametrize("call", ["rent", "get"])
async def test_a_launch_that_thaws_after_it_was_given_up(stage: Stage, call: str) -> None:
    """Frozen with an answer in its hands, while another worker gives the launch up: neither cost nor rental revives."""
    instance_id, operation_id = await stage.begin_launch()
    first, usual = Trial(stage, operation_id), stage.world

    async def others_give_up() -> None:
        stage.world = usual
        await stage.write(CANCEL, operation_id)
        done = await Trial(stage, operation_id, record=list(first.record)).run()
        assert done.status == "cancelled"

    stage.world = frozen(stage, call, others_give_up)
    await first.run()
    bills = await stage.bills(instance_id)
    bills.agree()
    assert (bills.rented, bills.gpu_spans, bills.disk_spans) == (set(), [], [])
