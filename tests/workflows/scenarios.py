"""One scenario per way through a workflow: the state before it, how it begins, and what must hold at either end."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncssh
from tests.support.sandbox import wait_until
from tests.support.world import Stage, tree_digest

from dumont.durable import Operation, begin_operation
from dumont.hibernation import restoring
from dumont.hibernation import service as hibernation
from dumont.identity import SshKey
from dumont.instances import Instance, begin_stopping, find_instance, get_rental
from dumont.instances import service as instances
from dumont.instances.keys import attach
from dumont.instances.moves import destroy_at_once
from dumont.providers import Offer
from dumont.snapshots import get_snapshot

from .engine import FIXED, Moment, Trial

FILES = {
    "note": b"a note\n",
    "deep/er/data.bin": bytes(range(256)) * 3000,
    "empty": b"",
    "deep/twin": b"the same\n" * 500,
    "twin": b"the same\n" * 500,
}


SPOILT = b"spoilt\n"
_COLLEAGUE = asyncssh.generate_private_key("ssh-ed25519")


@dataclass
class Case:
    """An instance under trial and the hash of the files that it must never lose."""

    instance_id: str
    digest: str = ""


@dataclass(frozen=True)
class Scenario:
    """One way through one workflow.

    `ready` brings a case (a new one for None) into the state before; `begin` begins the operation; `succeeded` and
    `failed` hold at the end; `turning` is the last step before which a wish to cancel is still granted.
    """

    name: str
    workflow: str
    ready: Callable[[Stage, Case | None], Awaitable[Case]]
    begin: Callable[[Stage, Case], Awaitable[str]]
    succeeded: Callable[[Stage, Case], Awaitable[None]]
    failed: Callable[[Stage, Case, Operation], Awaitable[None]]
    turning: str

    def __str__(self) -> str:
        return self.name

    async def try_out(self, stage: Stage, case: Case, moment: Moment | None = None) -> tuple[Operation, Trial]:
        """Run the workflow once and check what must hold at its end, whichever it was."""
        trial = Trial(stage, await self.begin(stage, case))
        if moment is not None:
            trial.moment = moment
        operation = await trial.run()
        if operation.status == "succeeded":
            await self.succeeded(stage, case)
        else:
            await self.failed(stage, case, operation)
        (await stage.bills(case.instance_id)).agree()
        return operation, trial


async def steps_of(stage: Stage, scenario: Scenario) -> tuple[Case, list[str]]:
    """Run a scenario without any fault and return its case and its own steps."""
    case = await scenario.ready(stage, None)
    operation, trial = await scenario.try_out(stage, case)
    assert operation.status == "succeeded", operation.problem
    return case, [name for name in trial.names() if name not in FIXED]


async def new_instance(stage: Stage) -> Case:
    """Launch an instance and put files into its workspace over SSH."""
    instance_id, operation_id = await stage.begin_launch()
    done = await Trial(stage, operation_id).run()
    assert done.status == "succeeded", done.problem
    async with stage.login(instance_id) as hands:
        for name, data in FILES.items():
            await hands.put_bytes(data, f"workspace/{name}", 0o640)
        await hands.run("ln -s deep/twin workspace/link", timeout=10)
    return Case(instance_id, tree_digest(await workspace(stage, instance_id)))


async def workspace(stage: Stage, instance_id: str) -> Path:
    """The folder of the instance's workspace, which lies on this computer."""
    return Path((await stage.rental(instance_id)).workspace_root or "/nowhere")


async def hibernate(stage: Stage, case: Case, then: str = "keep") -> str:
    """Begin to hibernate as the API does."""
    async with stage.world.session(stage.person.team_id) as session:
        instance = await find_instance(session, case.instance_id, lock=True)
        begun = await hibernation.hibernate(session, instance, then=then, user_id=stage.person.user_id)
        assert begun is not None
        return begun.id


async def wake(
    stage: Stage,
    case: Case,
    *,
    elsewhere: bool = False,
    accept_loss: bool = False,
    limit_nano: int | None = None,
    snapshot_id: str = "",
    offer: Offer | None = None,
) -> str:
    """Begin to wake as the API does."""
    async with stage.world.session(stage.person.team_id) as session:
        instance = await find_instance(session, case.instance_id, lock=True)
        begun = await hibernation.wake(
            session,
            instance,
            offer=offer,
            elsewhere=elsewhere,
            accept_loss=accept_loss,
            max_price_hour_nano=limit_nano,
            start_timeout_minutes=stage.settings.start_timeout_minutes,
            user_id=stage.person.user_id,
            now=stage.world.clock.now(),
            chosen=await get_snapshot(session, snapshot_id) if snapshot_id else None,
        )
        assert begun is not None
        return begun.id


async def destroy(stage: Stage, case: Case) -> str:
    """Begin to destroy as the API does."""
    user = stage.person.user_id
    async with stage.world.session(stage.person.team_id) as session:
        begun = await destroy_at_once(session, stage.person.team_id, case.instance_id, user_id=user)
        if begun is None:
            instance = await find_instance(session, case.instance_id, lock=True)
            begun = await instances.destroy(session, instance, user_id=user)
        assert begun is not None
        return begun.id


async def pause(stage: Stage, case: Case) -> str:
    """Begin to pause as the API does."""
    async with stage.world.session(stage.person.team_id) as session:
        instance = await find_instance(session, case.instance_id, lock=True)
        begun = await instances.pause(session, instance, user_id=stage.person.user_id)
        assert begun is not None
        return begun.id


async def resume(stage: Stage, case: Case, wait_minutes: float = 0.5) -> str:
    """Begin to resume as the API does."""
    async with stage.world.session(stage.person.team_id) as session:
        instance = await find_instance(session, case.instance_id, lock=True)
        begun = await instances.resume(
            session,
            instance,
            wait_minutes=wait_minutes,
            start_timeout_minutes=stage.settings.start_timeout_minutes,
            user_id=stage.person.user_id,
            now=stage.world.clock.now(),
        )
        assert begun is not None
        return begun.id


async def reboot(stage: Stage, case: Case) -> str:
    """Begin to reboot as the API does."""
    async with stage.world.session(stage.person.team_id) as session:
        instance = await find_instance(session, case.instance_id, lock=True)
        minutes = stage.settings.start_timeout_minutes
        begun = await instances.reboot(session, instance, start_timeout_minutes=minutes, user_id=stage.person.user_id)
        return begun.id


async def running(stage: Stage, case: Case | None) -> Case:
    """A running instance with its files."""
    if case is None:
        return await new_instance(stage)
    begin = {"hibernated": wake, "paused": resume}.get((await stage.instance(case.instance_id)).status)
    if begin is not None:
        done = await Trial(stage, await begin(stage, case)).run()
        assert done.status == "succeeded", done.problem
    return case


async def paused(stage: Stage, case: Case | None) -> Case:
    """A paused instance."""
    case = await running(stage, case) if case is None else case
    if (await stage.instance(case.instance_id)).status == "running":
        done = await Trial(stage, await pause(stage, case)).run()
        assert done.status == "succeeded", done.problem
    return case


async def kept(stage: Stage, case: Case | None) -> Case:
    """A hibernated instance that has kept its machine."""
    case = await running(stage, case) if case is None else case
    if (await stage.instance(case.instance_id)).status == "running":
        done = await Trial(stage, await hibernate(stage, case)).run()
        assert done.status == "succeeded", done.problem
    return case


async def check_running(stage: Stage, case: Case) -> Instance:
    """Running on exactly one machine, which can be logged in to, with every file as it was and nothing frozen."""
    instance = await stage.instance(case.instance_id)
    assert instance.status == "running", (instance.status, instance.status_detail)
    bills = await stage.bills(case.instance_id)
    assert len(bills.running) == 1, bills
    rental = await stage.rental(case.instance_id)
    assert bills.running == {rental.provider_machine_id}
    async with stage.login(case.instance_id) as hands:
        assert (await hands.run("test -d workspace", timeout=10)).exit_status == 0
    if case.digest:
        assert tree_digest(await workspace(stage, case.instance_id)) == case.digest, "the workspace has changed"
    await asyncio.to_thread(_none_stopped, stage, int(rental.provider_machine_id or "0"))
    return instance


def _none_stopped(stage: Stage, machine: int) -> None:
    wait_until(lambda: not stopped(stage, machine), what="every process to go on")


def stopped(stage: Stage, machine: int) -> list[int]:
    """The processes of a machine that are stopped."""
    found = []
    for pid in stage.sandbox.processes(machine):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += [pid] if state == "T" else []
    return found


async def check_asleep(stage: Stage, case: Case, *, keeps: bool | None = None) -> Instance:
    """Hibernated on a ready snapshot with nothing running; `keeps` says whether a machine's disk is kept."""
    instance = await stage.instance(case.instance_id)
    assert instance.status == "hibernated", (instance.status, instance.status_detail)
    bills = await stage.bills(case.instance_id)
    assert bills.running == set(), bills
    if keeps is not None:
        assert len(bills.billed) == (1 if keeps else 0), bills
    found = await stage.rows("SELECT status, bytes_verified FROM snapshot WHERE id = %s", instance.last_snapshot_id)
    assert found and found[0][0] == "ready" and found[0][1] > 0
    return instance


async def check_paused(stage: Stage, case: Case) -> Instance:
    """Paused on its one machine, whose disk is kept with every file and whose processes are all gone."""
    instance = await stage.instance(case.instance_id)
    assert instance.status == "paused", (instance.status, instance.status_detail)
    bills = await stage.bills(case.instance_id)
    assert (bills.running, len(bills.billed)) == (set(), 1), bills
    machine = (await stage.rental(case.instance_id)).provider_machine_id
    assert stage.sandbox.processes(int(machine or 0)) == []
    assert tree_digest(await workspace(stage, case.instance_id)) == case.digest, "the workspace has changed"
    return instance


async def _launch_ready(stage: Stage, case: Case | None) -> Case:
    return Case("")


async def _launch_begin(stage: Stage, case: Case) -> str:
    case.instance_id, operation_id = await stage.begin_launch()
    return operation_id


async def _launched(stage: Stage, case: Case) -> None:
    await check_running(stage, case)


async def _launch_failed(stage: Stage, case: Case, operation: Operation) -> None:
    assert (await stage.instance(case.instance_id)).status == "failed"
    assert (await stage.bills(case.instance_id)).billed == set()


async def _sleeps_kept(stage: Stage, case: Case) -> None:
    await check_asleep(stage, case, keeps=True)


async def _sleeps(stage: Stage, case: Case) -> None:
    await check_asleep(stage, case)


async def _hibernate_failed(stage: Stage, case: Case, operation: Operation) -> None:
    """Running as before; or asleep where the machine had stopped already, never something in between."""
    if (await stage.instance(case.instance_id)).status == "hibernated":
        steps = {entry["name"]: entry for entry in operation.steps}
        assert steps["stop"]["attempts"] > 0
        await check_asleep(stage, case)
        return
    await check_running(stage, case)
    states = await stage.rows("SELECT status FROM snapshot WHERE operation_id = %s", operation.id)
    assert ("creating",) not in states


async def _paused(stage: Stage, case: Case) -> None:
    await check_paused(stage, case)


async def _running(stage: Stage, case: Case) -> None:
    await check_running(stage, case)


async def _running_or_paused(stage: Stage, case: Case, operation: Operation) -> None:
    """Running as before, or paused where the machine had stopped already or did not come up: never in between."""
    status = (await stage.instance(case.instance_id)).status
    await (check_paused if status == "paused" else check_running)(stage, case)


async def _paused_again(stage: Stage, case: Case, operation: Operation) -> None:
    await check_paused(stage, case)


async def _woken(stage: Stage, case: Case) -> None:
    await check_running(stage, case)
    assert len((await stage.bills(case.instance_id)).billed) == 1


async def _wake_failed(stage: Stage, case: Case, operation: Operation) -> None:
    """Asleep as before; or running where only the old machine could not be given back, which stays in our books."""
    if (await stage.instance(case.instance_id)).status == "running":
        await check_running(stage, case)
        assert (operation.problem or {}).get("code") not in ("cancelled", "deadline-exceeded")
        return
    await check_asleep(stage, case, keeps=True)


async def _destroyed(stage: Stage, case: Case) -> None:
    assert (await stage.instance(case.instance_id)).status == "destroyed"
    assert (await stage.bills(case.instance_id)).billed == set()


async def _destroy_failed(stage: Stage, case: Case, operation: Operation) -> None:
    assert (await stage.instance(case.instance_id)).status == "destroying"


async def _to_destroy(stage: Stage, case: Case | None) -> Case:
    if case is not None and (await stage.instance(case.instance_id)).status == "destroying":
        return case
    instance_id, operation_id = await stage.begin_launch()
    done = await Trial(stage, operation_id).run()
    assert done.status == "succeeded", done.problem
    return Case(instance_id)


async def _hibernate_and_destroy(stage: Stage, case: Case) -> str:
    return await hibernate(stage, case, "destroy")


async def _wake_elsewhere(stage: Stage, case: Case) -> str:
    return await wake(stage, case, elsewhere=True)


async def _started_outside(stage: Stage, case: Case) -> str:
    """Start the kept machine as a person does in the marketplace's console, and begin to stop it."""
    number = (await stage.rental(case.instance_id)).provider_machine_id
    stage.sandbox.call("PUT", f"/api/v0/instances/{number}/", {"state": "running"})
    await asyncio.to_thread(stage.sandbox.wait_for, int(number or 0), "running")
    async with stage.world.session(stage.person.team_id) as session:
        instance = await find_instance(session, case.instance_id, lock=True)
        rental = await get_rental(session, instance.rental_id or "")
        return (await begin_stopping(session, instance, rental, stage.world.clock.now())).id


async def _attach(stage: Stage, case: Case) -> str:
    """Begin to let a key of a colleague into the machine."""
    key = SshKey(public_key=_COLLEAGUE.export_public_key().decode().strip(), fingerprint=_COLLEAGUE.get_fingerprint())
    async with stage.world.session(stage.person.team_id) as session:
        instance = await find_instance(session, case.instance_id)
        return (await attach(session, instance, key, user_id=stage.person.user_id)).id


async def _attached(stage: Stage, case: Case) -> None:
    """It runs as before, and its machine has the key once."""
    await _running(stage, case)
    number = (await stage.rental(case.instance_id)).provider_machine_id
    _, listed = stage.sandbox.call("GET", f"/api/v0/instances/{number}/ssh/")
    assert json.dumps(listed).count(_COLLEAGUE.export_public_key().decode().split()[1]) == 1


async def _not_attached(stage: Stage, case: Case, operation: Operation) -> None:
    await _running(stage, case)


async def _over_snapshots(stage: Stage, workflow: str, kind: str, about: str, inputs: dict[str, Any]) -> str:
    async with stage.world.session(stage.person.team_id) as session:
        operation = await begin_operation(
            session,
            workflow,
            team_id=stage.person.team_id,
            resource=(kind, about),
            instance_id=None,
            inputs=inputs,
            deadline=timedelta(minutes=10),
            requested_by=stage.person.user_id,
        )
        return operation.id


async def _read_back(stage: Stage, case: Case) -> str:
    """Begin to read the instance's snapshot back, all of it, as the API does."""
    snapshot = (await stage.instance(case.instance_id)).last_snapshot_id or ""
    inputs = {"snapshot_id": snapshot, "depth": "full"}
    return await _over_snapshots(stage, "snapshots.verify", "snapshot", snapshot, inputs)


async def _spoilt(stage: Stage, case: Case | None) -> Case:
    """A running instance with a snapshot, one file of which has changed since, and two are gone."""
    case = await running(stage, await kept(stage, None) if case is None else case)
    folder = await workspace(stage, case.instance_id)
    (folder / "note").write_bytes(SPOILT)
    for name in ("twin", "deep/er/data.bin"):
        (folder / name).unlink(missing_ok=True)
    return case


async def restore_onto(stage: Stage, case: Case, paths: list[str], *, of: str = "", replace: bool = True) -> str:
    """Begin to restore paths of the instance's last snapshot, or of another one, as the API does."""
    async with stage.world.session(stage.person.team_id) as session:
        instance = await find_instance(session, case.instance_id, lock=True)
        snapshot = await get_snapshot(session, of or instance.last_snapshot_id or "")
        assert snapshot is not None
        wishes = {"paths": paths, "target_path": "/workspace", "replace": replace}
        begun = await restoring.restore_onto(session, instance, snapshot, wishes, user_id=stage.person.user_id)
        return begun.id


async def _restore_parts(stage: Stage, case: Case) -> str:
    return await restore_onto(stage, case, ["note", "tw*", "deep/**/data.bin"])


async def _spoilt_or_restored(stage: Stage, case: Case, operation: Operation) -> None:
    """Running as before, with all of the files as they were, or all of them restored; never a mixture."""
    folder = await workspace(stage, case.instance_id)
    if (folder / "twin").exists():
        assert (operation.problem or {}).get("code") not in ("cancelled", "deadline-exceeded")
        await check_running(stage, case)
        return
    assert (folder / "note").read_bytes() == SPOILT and not (folder / "deep/er/data.bin").exists()
    assert list(folder.glob(".dumont*")) == []
    await check_running(stage, Case(case.instance_id))


async def _collect(stage: Stage, case: Case) -> str:
    """Begin to free what no snapshot of the instance needs, as the API does."""
    inputs = {"instance_id": case.instance_id, "dry_run": False}
    return await _over_snapshots(stage, "snapshots.collect", "team", stage.person.team_id, inputs)


async def _found_whole(stage: Stage, case: Case) -> None:
    """Asleep as before, and every check that was written down found the snapshot whole."""
    instance = await check_asleep(stage, case, keeps=True)
    found = await stage.rows("SELECT outcome FROM snapshot_check WHERE snapshot_id = %s", instance.last_snapshot_id)
    assert found and set(found) == {("whole",)}


async def _nothing_lost(stage: Stage, case: Case) -> None:
    """Asleep as before, with a snapshot of which every byte can still be read."""
    instance = await check_asleep(stage, case, keeps=True)
    [(manifest, workspace_id)] = await stage.rows(
        "SELECT manifest, workspace_id FROM snapshot WHERE id = %s", instance.last_snapshot_id
    )
    repository = stage.world.vaults.repository(workspace_id)
    assert repository.verify(manifest, all_below=1 << 62).chunks_checked > 0


async def _nothing_lost_either(stage: Stage, case: Case, operation: Operation) -> None:
    await _nothing_lost(stage, case)


async def _not_stopped(stage: Stage, case: Case, operation: Operation) -> None:
    """Asleep by its word; where the machine still runs its cost is written, and the next sweep begins again."""
    assert (await stage.instance(case.instance_id)).status == "hibernated"


SCENARIOS = (
    Scenario("launch", "instances.launch", _launch_ready, _launch_begin, _launched, _launch_failed, "boot"),
    Scenario("destroy", "instances.destroy", _to_destroy, destroy, _destroyed, _destroy_failed, "destroy"),
    Scenario("hibernate", "hibernation.hibernate", running, hibernate, _sleeps_kept, _hibernate_failed, "stop"),
    Scenario(
        "hibernate-and-destroy",
        "hibernation.hibernate",
        running,
        _hibernate_and_destroy,
        _sleeps,
        _hibernate_failed,
        "stop",
    ),
    Scenario("wake", "hibernation.wake", kept, wake, _woken, _wake_failed, "compare kept disk"),
    Scenario("pause", "instances.pause", running, pause, _paused, _running_or_paused, "stop"),
    Scenario("resume", "instances.resume", paused, resume, _running, _paused_again, "boot"),
    Scenario("reboot", "instances.reboot", running, reboot, _running, _running_or_paused, "boot"),
    Scenario("wake-elsewhere", "hibernation.wake", kept, _wake_elsewhere, _woken, _wake_failed, "restore"),
    Scenario("attach-key", "instances.attach_key", running, _attach, _attached, _not_attached, "attach"),
    Scenario("verify", "snapshots.verify", kept, _read_back, _found_whole, _nothing_lost_either, "read back"),
    Scenario("restore-parts", "hibernation.restore", _spoilt, _restore_parts, _running, _spoilt_or_restored, "restore"),
    Scenario("collect", "snapshots.collect", kept, _collect, _nothing_lost, _nothing_lost_either, "collect"),
    Scenario("stop-unasked", "instances.stop_unasked", kept, _started_outside, _sleeps_kept, _not_stopped, "stop"),
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
WIDEST = tuple(scenario for scenario in SCENARIOS if scenario.name != "hibernate")
"""Enough to meet every step: to hibernate and destroy goes through all the steps of to hibernate."""
