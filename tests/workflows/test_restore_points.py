"""Any snapshot of a team can be gone back to: on the running machine, by waking, and from another workspace."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.world import Stage, staged, tree_digest

from dumont.durable import Operation, cancel_operation, get_operation
from dumont.hibernation.progress import Told
from dumont.providers import OfferQuery
from dumont.snapshots import SnapshotIncomplete

from .conftest import Place
from .engine import Trial
from .scenarios import Case, check_running, hibernate, restore_onto, running, wake, workspace

LATER = b"later\n"


@pytest.fixture
async def other(place: Place) -> AsyncIterator[Stage]:
    """Another team on the same installation."""
    async with staged(place.urls, place.sandbox, place.home) as made:
        yield made


async def done(stage: Stage, operation_id: str) -> Operation:
    operation = await Trial(stage, operation_id).run()
    assert operation.status == "succeeded", operation.problem
    return operation


async def saved(stage: Stage, case: Case, then: str = "keep") -> str:
    """Hibernate and return the snapshot's id."""
    await done(stage, await hibernate(stage, case, then))
    return (await stage.instance(case.instance_id)).last_snapshot_id or ""


@dataclass
class Twice:
    """An instance that was saved, changed, and saved again."""

    case: Case
    first: str
    second: str
    later: str


async def saved_twice(stage: Stage, then: str = "keep") -> Twice:
    case = await running(stage, None)
    first = await saved(stage, case)
    await done(stage, await wake(stage, case))
    folder = await workspace(stage, case.instance_id)
    (folder / "note").write_bytes(LATER)
    (folder / "born later").write_bytes(LATER)
    (folder / "twin").unlink()
    later = tree_digest(folder)
    return Twice(case, first, await saved(stage, case, then), later)


@pytest.mark.checklist("SNAP-23")
async def test_a_running_workspace_goes_back_to_an_earlier_snapshot_and_forth(stage: Stage) -> None:
    """Exactly as it was, nothing beside; lost afterwards, it would wake from there; the next save is incremental."""
    made = await saved_twice(stage)
    case = made.case
    await done(stage, await wake(stage, case))
    told = await done(stage, await restore_onto(stage, case, [], of=made.first))
    assert (await check_running(stage, case)).last_snapshot_id == made.first
    assert ((told.result or {})["files"], (told.result or {})["hashes_compared"]) == (5, 4), "one file is empty"
    third = await saved(stage, case)
    [(new, stored)] = await stage.rows("SELECT bytes_new, bytes_stored FROM snapshot WHERE id = %s", third)
    assert (new, stored) == (0, 0), "every byte of it was in the store"
    await done(stage, await wake(stage, case))
    await done(stage, await restore_onto(stage, case, [], of=made.second))
    assert tree_digest(await workspace(stage, case.instance_id)) == made.later


@pytest.mark.checklist("SNAP-22", "SNAP-23")
@pytest.mark.parametrize("then", ["keep", "destroy"])
async def test_an_instance_wakes_from_an_earlier_snapshot(stage: Stage, then: str) -> None:
    """On its kept machine, where newer files go only by the owner's waiver, and on one with another card."""
    made = await saved_twice(stage, then)
    card, offer = (await stage.instance(made.case.instance_id)).gpu_name, None
    if then == "keep":
        await stage.write("UPDATE instance SET disk_newer = true WHERE id = %s", made.case.instance_id)
        with pytest.raises(SnapshotIncomplete):
            await wake(stage, made.case, snapshot_id=made.first)
    else:
        found = await stage.world.provider("sandbox").offers(OfferQuery(num_gpus=1))
        offer = next(one for one in found if one.gpu_name != card)
    again = await wake(stage, made.case, snapshot_id=made.first, accept_loss=then == "keep", offer=offer)
    operation = await done(stage, again)
    assert (operation.result or {})["mode"] == "restore"
    woken = await check_running(stage, made.case)
    assert (woken.last_snapshot_id, woken.gpu_name) == (made.first, offer.gpu_name if offer else card)
    statement = "SELECT id FROM snapshot WHERE instance_id = %s AND status = 'ready'"
    ready = await stage.rows(statement, made.case.instance_id)
    assert {one for (one,) in ready} == {made.first, made.second}, "what it woke from before is still there"


@pytest.mark.checklist("SNAP-23", "SNAP-20")
async def test_parts_of_another_workspace_come_over_and_another_teams_never(stage: Stage, other: Stage) -> None:
    """Within the team, under the instance's own key at its next save; what another team has is not there."""
    giver = await running(stage, None)
    snapshot = await saved(stage, giver, "destroy")
    taker = await running(stage, None)
    folder = await workspace(stage, taker.instance_id)
    (folder / "deep" / "twin").write_bytes(LATER)
    await done(stage, await restore_onto(stage, taker, ["deep"], of=snapshot, replace=False))
    await check_running(stage, taker)
    own = await saved(stage, taker)
    [(new,)] = await stage.rows("SELECT bytes_new FROM snapshot WHERE id = %s", own)
    assert new > 0, "nothing is shared between repositories"
    stranger = await running(other, None)
    with pytest.raises(AssertionError):
        await restore_onto(other, stranger, [], of=snapshot)
    await check_running(other, stranger)


async def test_a_cancelled_restore_is_all_or_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until its files begin to change place it turns back; from then on it goes to its end."""
    case = await running(stage, None)
    snapshot = await saved(stage, case)
    await done(stage, await wake(stage, case))
    folder = await workspace(stage, case.instance_id)
    (folder / "note").write_bytes(LATER)
    later, plain = tree_digest(folder), Told.turn
    for late in (False, True):
        operation_id = await restore_onto(stage, case, [], of=snapshot)

        async def cancel(wanted: str = operation_id) -> None:
            async with stage.world.session(stage.person.team_id) as session:
                operation = await get_operation(session, wanted)
                assert operation is not None
                await cancel_operation(session, operation)

        async def turn(self: Told, behind: bool = late, cancel: Callable[[], Awaitable[None]] = cancel) -> None:
            if not behind:
                await cancel()
            await plain(self)
            await cancel()

        monkeypatch.setattr(Told, "turn", turn)
        operation = await Trial(stage, operation_id).run()
        assert list(folder.glob(".dumont*")) == []
        assert operation.status == ("succeeded" if late else "cancelled"), operation.problem
        await check_running(stage, case if late else Case(case.instance_id, later))


async def test_a_damaged_pack_or_a_wrong_path_changes_nothing(stage: Stage) -> None:
    """The problem says which; the workspace stays. What is there already as it was needs no pack."""
    case = await running(stage, None)
    snapshot = await saved(stage, case)
    await done(stage, await wake(stage, case))
    folder = await workspace(stage, case.instance_id)
    (folder / "note").write_bytes(LATER)
    later = Case(case.instance_id, tree_digest(folder))
    refused = await Trial(stage, await restore_onto(stage, case, ["note", "nowhere/*"], of=snapshot)).run()
    assert (refused.status, (refused.problem or {})["code"]) == ("failed", "snapshot-path-not-found")
    assert (refused.problem or {})["paths"] == ["nowhere/*"]
    [(workspace_id,)] = await stage.rows("SELECT workspace_id FROM snapshot WHERE id = %s", snapshot)
    packs = sorted((stage.world.vaults.root / workspace_id / "data").rglob("*/*"))
    await asyncio.to_thread(_spoil, packs)
    operation = await Trial(stage, await restore_onto(stage, case, [], of=snapshot)).run()
    assert (operation.status, (operation.problem or {})["code"]) == ("failed", "snapshot-verification-failed")
    assert list(folder.glob(".dumont*")) == []
    await check_running(stage, later)
    await done(stage, await restore_onto(stage, case, ["deep"], of=snapshot))
    await check_running(stage, later)


def _spoil(packs: list[Path]) -> None:
    for pack in packs:
        whole = bytearray(pack.read_bytes())
        for at in range(40, len(whole) - 28, 8):
            whole[at] ^= 1
        pack.chmod(0o600)
        pack.write_bytes(whole)
