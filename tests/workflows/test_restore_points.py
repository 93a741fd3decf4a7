"""Any snapshot of a team can be gone back to: on the running machine, by waking, and from another workspace."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.world import Stage, staged, tree_digest

from dumont.durable import Operation, cancel_operation, get_operation
from dumont.hibernation.progress import Told
from dumont.instances import SshUnreachable
from dumont.providers import OfferQuery
from dumont.snapshots import SnapshotIncomplete, get_snapshot

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


async def saved_twice(stage: Stage) -> Twice:
    case = await running(stage, None)
    first = await saved(stage, case)
    await done(stage, await wake(stage, case))
    folder = await workspace(stage, case.instance_id)
    (folder / "note").write_bytes(LATER)
    (folder / "born later").write_bytes(LATER)
    (folder / "twin").unlink()
    later = tree_digest(folder)
    return Twice(case, first, await saved(stage, case), later)


@pytest.mark.checklist("SNAP-23")
async def test_a_running_workspace_goes_back_to_an_earlier_snapshot_and_forth(stage: Stage) -> None:
    """Exactly as it was; the next save is incremental; a kept disk is written over only with the owner's waiver."""
    made = await saved_twice(stage)
    case = made.case
    await done(stage, await wake(stage, case))
    told = await done(stage, await restore_onto(stage, case, [], of=made.first))
    assert (await check_running(stage, case)).last_snapshot_id == made.first
    assert ((told.result or {})["files"], (told.result or {})["hashes_compared"]) == (5, 4), "one file is empty"
    third = await saved(stage, case)
    [(new, stored)] = await stage.rows("SELECT bytes_new, bytes_stored FROM snapshot WHERE id = %s", third)
    assert (new, stored) == (0, 0), "every byte of it was in the store"
    await stage.write("UPDATE instance SET disk_newer = true WHERE id = %s", case.instance_id)
    with pytest.raises(SnapshotIncomplete):
        await wake(stage, case, snapshot_id=made.second)
    woken = await done(stage, await wake(stage, case, snapshot_id=made.second, accept_loss=True))
    assert (woken.result or {})["mode"] == "restore"
    assert (await check_running(stage, Case(case.instance_id, made.later))).last_snapshot_id == made.second
    statement = "SELECT count(*) FROM snapshot WHERE instance_id = %s AND status = 'ready'"
    assert await stage.rows(statement, case.instance_id) == [(3,)], "each of them is still there"


@pytest.mark.checklist("SNAP-20", "SNAP-22", "SNAP-23")
async def test_another_workspace_is_restored_and_woken_from_but_never_another_teams(stage: Stage, other: Stage) -> None:
    """Within the team, also on another card, under the instance's own key at its next save."""
    giver = await running(stage, None)
    snapshot = await saved(stage, giver, "destroy")
    card = (await stage.instance(giver.instance_id)).gpu_name
    taker = await running(stage, None)
    folder = await workspace(stage, taker.instance_id)
    (folder / "deep" / "twin").write_bytes(LATER)
    await done(stage, await restore_onto(stage, taker, ["deep"], of=snapshot, replace=False))
    await check_running(stage, taker)
    (folder / "own").write_bytes(LATER)
    digest, own = tree_digest(folder), await saved(stage, taker)
    [(new,)] = await stage.rows("SELECT bytes_new FROM snapshot WHERE id = %s", own)
    assert new > 0, "nothing is shared between repositories"
    found = await stage.world.provider("sandbox").offers(OfferQuery(num_gpus=1))
    offer = next(one for one in found if one.gpu_name != card)
    await done(stage, await wake(stage, giver, snapshot_id=own, offer=offer))
    woken = await check_running(stage, Case(giver.instance_id, digest))
    assert (woken.last_snapshot_id, woken.gpu_name) == (own, offer.gpu_name)
    async with other.world.session(other.person.team_id) as session:
        assert await get_snapshot(session, own) is None


async def test_a_restore_that_is_cancelled_or_cannot_be_is_all_or_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until its files begin to change place it turns back; from then on it goes to its end, also in a later try."""
    case = await running(stage, None)
    snapshot = await saved(stage, case)
    await done(stage, await wake(stage, case))
    folder = await workspace(stage, case.instance_id)
    (folder / "note").write_bytes(LATER)
    later, plain, drops = tree_digest(folder), Told.turn, ["the link"]
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
            if drops:
                raise SshUnreachable(f"{drops.pop()} is lost as the files begin to change place")

        monkeypatch.setattr(Told, "turn", turn)
        operation = await Trial(stage, operation_id).run()
        assert list(folder.glob(".dumont*")) == []
        assert operation.status == ("succeeded" if late else "cancelled"), operation.problem
        await check_running(stage, case if late else Case(case.instance_id, later))
    assert not drops
    monkeypatch.undo()
    await _refused(stage, case, snapshot, folder)


async def _refused(stage: Stage, case: Case, snapshot: str, folder: Path) -> None:
    """A wrong path or damaged packs change nothing; what is there already as it was needs no pack."""
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
