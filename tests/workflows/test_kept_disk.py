"""A kept disk is the newest state there is: waking never writes over it and never leaves it behind unasked."""

import asyncio
import shutil
from pathlib import Path

import pytest
from tests.support.world import Stage

from dumont.durable import NotCancellable, cancel_operation, get_operation
from dumont.instances import Sweep, finish_destroying
from dumont.snapshots import SnapshotIncomplete

from .engine import Trial
from .scenarios import Case, destroy, hibernate, pause, resume, running, wake, workspace


class DiesAfterTheStop:
    """Lets the worker die once, when the machine has stopped and nothing of it is written down."""

    happened = False

    async def __call__(self, when: str, name: str) -> str | None:
        if self.happened or (when, name) != ("after", "stop"):
            return None
        self.happened = True
        return "die"


async def asleep(stage: Stage) -> Case:
    """A hibernated instance with its machine kept."""
    case = await running(stage, None)
    operation = await Trial(stage, await hibernate(stage, case)).run()
    assert operation.status == "succeeded", operation.problem
    return case


async def test_what_was_written_after_the_snapshot_survives_the_wake(stage: Stage) -> None:
    """A file that changed and one that appeared on the kept disk are there after the wake, and are told of."""
    case = await asleep(stage)
    folder = await workspace(stage, case.instance_id)
    (folder / "note").write_bytes(b"newer than the snapshot\n")
    (folder / "after").write_bytes(b"born later\n")
    operation = await Trial(stage, await wake(stage, case)).run()
    assert operation.status == "succeeded", operation.problem
    assert (folder / "note").read_bytes() == b"newer than the snapshot\n"
    assert (folder / "after").read_bytes() == b"born later\n"
    result = operation.result or {}
    assert (result["mode"], result["equal"], result["differing"]) == ("resume", False, ["note"])


async def test_an_emptied_disk_is_restored(stage: Stage) -> None:
    """A kept machine whose host lost the files gets all of them from the snapshot."""
    case = await asleep(stage)
    folder = await workspace(stage, case.instance_id)
    await asyncio.to_thread(_empty, folder)
    operation = await Trial(stage, await wake(stage, case)).run()
    assert operation.status == "succeeded", operation.problem
    assert (folder / "note").read_bytes() == b"a note\n"
    assert (operation.result or {})["equal"] is True


async def test_files_that_only_the_kept_machine_has_keep_it(stage: Stage) -> None:
    """Waking elsewhere is refused while files could not be saved, and allowed by the owner's waiver."""
    case = await asleep(stage)
    await stage.write("UPDATE snapshot SET unstable = '[\"busy.db\"]' WHERE instance_id = %s", case.instance_id)
    with pytest.raises(SnapshotIncomplete) as refused:
        await wake(stage, case, elsewhere=True)
    assert refused.value.extra["paths"] == ["busy.db"]
    kept = (await stage.rental(case.instance_id)).provider_machine_id
    assert (await stage.instance(case.instance_id)).status == "hibernated"
    operation = await Trial(stage, await wake(stage, case, elsewhere=True, accept_loss=True)).run()
    assert operation.status == "succeeded", operation.problem
    assert (await stage.rental(case.instance_id)).provider_machine_id != kept


async def test_a_lost_kept_machine_is_not_left_silently(stage: Stage) -> None:
    """When the kept machine's host is away and it alone has some files, the wake fails and says which."""
    case = await asleep(stage)
    await stage.write("UPDATE snapshot SET unstable = '[\"busy.db\"]' WHERE instance_id = %s", case.instance_id)
    rental = await stage.rental(case.instance_id)
    number = int(rental.provider_machine_id or 0)
    stage.sandbox.control.kill_host(number)
    operation = await Trial(stage, await wake(stage, case)).run()
    assert operation.status == "failed"
    assert (operation.problem or {})["code"] == "snapshot-incomplete"
    assert (await stage.instance(case.instance_id)).status == "hibernated"
    assert (await stage.rental(case.instance_id)).state == "rented"
    stage.sandbox.control.restore_host(number)


async def test_a_paused_machine_that_cannot_start_is_left_for_its_snapshot(stage: Stage) -> None:
    """Whose GPU is gone for good wakes elsewhere: only with the waiver, because the paused disk is newer."""
    case = await asleep(stage)
    assert (await Trial(stage, await wake(stage, case)).run()).status == "succeeded"
    assert (await Trial(stage, await pause(stage, case)).run()).status == "succeeded"
    rental = await stage.rental(case.instance_id)
    stage.sandbox.control.kill_host(int(rental.provider_machine_id or 0))
    assert (await Trial(stage, await resume(stage, case)).run()).status == "failed"
    assert (await stage.instance(case.instance_id)).status == "paused"
    with pytest.raises(SnapshotIncomplete):
        await wake(stage, case, elsewhere=True)
    operation = await Trial(stage, await wake(stage, case, elsewhere=True, accept_loss=True)).run()
    assert operation.status == "succeeded", operation.problem
    folder = await workspace(stage, case.instance_id)
    assert (folder / "note").read_bytes() == b"a note\n"
    assert (await stage.rental(case.instance_id)).provider_machine_id != rental.provider_machine_id


async def test_a_destroy_that_gave_up_is_begun_again(stage: Stage) -> None:
    """A destroy is never cancelled; one that failed is begun again by the sweep until the machine is gone."""
    case = await running(stage, None)
    given_up = await destroy(stage, case)
    async with stage.world.session(stage.person.team_id) as session:
        operation = await get_operation(session, given_up)
        assert operation is not None
        with pytest.raises(NotCancellable):
            await cancel_operation(session, operation)
    await stage.write("UPDATE operation SET status = 'failed', finished_at = now() WHERE id = %s", given_up)
    assert len((await stage.bills(case.instance_id)).billed) == 1
    await finish_destroying(stage.world)
    begun = await stage.rows(
        "SELECT id FROM operation WHERE instance_id = %s AND status = 'queued' AND input->>'reason' = 'sweep'",
        case.instance_id,
    )
    assert len(begun) == 1
    operation = await Trial(stage, begun[0][0]).run()
    assert operation.status == "succeeded", operation.problem
    assert (await stage.instance(case.instance_id)).status == "destroyed"
    assert not (await stage.bills(case.instance_id)).billed


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


async def test_a_disk_that_may_be_newer_is_not_left_unasked(stage: Stage) -> None:
    """The worker dies after the stop: nobody knows whether the freeze held, so waking elsewhere needs the waiver."""
    case = await running(stage, None)
    operation = await Trial(stage, await hibernate(stage, case, "destroy"), DiesAfterTheStop()).run()
    assert operation.status == "succeeded", operation.problem
    folder = await workspace(stage, case.instance_id)
    (folder / "note").write_bytes(b"written in between\n")
    with pytest.raises(SnapshotIncomplete):
        await wake(stage, case, elsewhere=True)
    operation = await Trial(stage, await wake(stage, case)).run()
    assert operation.status == "succeeded", operation.problem
    assert (folder / "note").read_bytes() == b"written in between\n"


async def test_a_cancel_after_the_destroy_was_accepted_changes_nothing(stage: Stage) -> None:
    """Once the machine has stopped the hibernation goes on to its end, whoever cancels, however late it is."""
    case = await running(stage, None)
    begun = await hibernate(stage, case, "destroy")
    provider = stage.world.providers["sandbox"]
    destroy_machine = provider.destroy

    async def destroy_and_cancel(machine_id: str) -> None:
        await destroy_machine(machine_id)
        await stage.write(
            "UPDATE operation SET cancel_requested = true, deadline_at = now() - interval '1 hour' WHERE id = %s", begun
        )

    provider.destroy = destroy_and_cancel  # type: ignore[method-assign]
    operation = await Trial(stage, begun).run()
    assert operation.status == "succeeded", operation.problem
    assert (await stage.instance(case.instance_id)).status == "hibernated"
    bills = await stage.bills(case.instance_id)
    bills.agree()
    assert not bills.billed and (await stage.instance(case.instance_id)).rental_id is None


async def test_a_machine_under_a_label_that_was_given_up_is_destroyed(stage: Stage) -> None:
    """A rent whose answer came after we gave its label up: the minute's sweep destroys what appeared, and only that."""
    case = await running(stage, None)
    rental = await stage.rental(case.instance_id)
    stranger = stage.sandbox.rent(label="dumont-somebodyelse-a1")
    await stage.write(
        "UPDATE rental SET state = 'released', released_real_at = now() - interval '2 minutes' WHERE id = %s", rental.id
    )
    await Sweep(stage.world).run()
    assert stage.sandbox.instance(int(rental.provider_machine_id or 0)) is None
    assert stage.sandbox.instance(stranger) is not None
