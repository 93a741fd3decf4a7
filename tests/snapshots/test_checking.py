"""Verification by schedule and on request: damage is found, named with the files it touches, and told."""

from typing import Any

import pytest
from tests.snapshots.conftest import NOON, Shelf
from tests.snapshots.test_keeping import world
from tests.vault.making import draft, file_entry, store_newer

from dumont.snapshots import VerificationProblem, keeping, keeping_queries, workflows
from dumont.snapshots.keeping import Terms
from dumont.snapshots.keeping_queries import Due
from dumont.snapshots.service import verify
from dumont.vault import pack_name

pytestmark = pytest.mark.requires_postgres


async def check(shelf: Shelf, snapshot_id: str, depth: str) -> dict[str, Any]:
    due = Due(snapshot_id, shelf.team_id, shelf.workspace_id, await shelf.manifest(snapshot_id), depth)
    return await workflows.check(world(shelf), due)


async def due(shelf: Shelf) -> list[tuple[str, str]]:
    async with shelf.session() as session:
        found = await keeping_queries.due_checks(session, quick=24, sample=168, most=50)
    return [(one.id, one.depth) for one in found]


async def older(shelf: Shelf, hours: int) -> None:
    await shelf.rows(f"UPDATE snapshot SET verified_at = verified_at - interval '{hours} hours'")
    await shelf.rows(f"UPDATE snapshot_check SET at = at - interval '{hours} hours'")


def flip(shelf: Shelf, chunk: bytes, at: int = 30) -> bytes:
    """Flip one bit in the record of a chunk; return the pack."""
    repository = shelf.repository
    place = repository.index().chunks[chunk]
    path = repository.store.root / pack_name(place.pack)  # type: ignore[attr-defined]
    whole = bytearray(path.read_bytes())
    whole[place.offset + at] ^= 4
    path.write_bytes(whole)
    return place.pack


@pytest.mark.checklist("SNAP-17")
async def test_damage_is_named_with_every_snapshot_and_file_that_it_touches(shelf: Shelf) -> None:
    """One flipped bit: the check of one snapshot names the files of both that need the chunk, and nothing else."""
    both = {b"dir": b"x" * 700, b"shared": b"s" * 900}
    first = await shelf.save({**both, b"copy of shared": b"s" * 900})
    second = await shelf.save({b"renamed": b"s" * 900, b"other": b"o" * 100})
    third = await shelf.save({b"sound": b"y" * 300})
    pack = flip(shelf, shelf.repository.sealer.chunk_id(b"s" * 900))
    assert (await check(shelf, second, "quick"))["outcome"] == "whole", "a quick check opens no chunk"
    found = await check(shelf, second, "full")
    assert (found["outcome"], found["damaged"], found["missing"]) == ("damaged", [pack_name(pack)], [])
    assert found["touched"] == [
        {"snapshot_id": first, "files": 2, "paths": ["copy of shared", "shared"]},
        {"snapshot_id": second, "files": 1, "paths": ["renamed"]},
    ]
    marked = await shelf.rows("SELECT id FROM snapshot WHERE damaged_at IS NOT NULL ORDER BY id")
    assert marked == [(first,), (second,)]
    told = await shelf.rows("SELECT resource_id, data->'touched' FROM outbox_event WHERE topic = 'snapshot.damaged'")
    assert told == [(second, found["touched"])]
    assert (await check(shelf, third, "full"))["outcome"] == "whole"
    async with shelf.session() as session:
        verdicts = await keeping_queries.verdicts(session)
    assert verdicts.damaged == [first, second] and verdicts.snapshots == 3


@pytest.mark.checklist("SNAP-17")
async def test_a_lost_pack_and_a_cut_one_touch_what_they_held_and_a_later_save_mends_them(shelf: Shelf) -> None:
    """Missing by a quick check; after the next save stored the bytes again, a full check passes and clears it."""
    files = {b"a": b"a" * 400, b"b": b"b" * 400}
    first = await shelf.save(files)
    ((name, _),) = shelf.repository.store.list("data/")
    path = shelf.repository.store.root / name  # type: ignore[attr-defined]
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    cut = await check(shelf, first, "quick")
    assert (cut["outcome"], cut["damaged"]) == ("damaged", [name])
    assert cut["touched"] == [], "its records can still be read by the index"
    path.unlink()
    lost = await check(shelf, first, "quick")
    assert lost["missing"] == [name] and lost["touched"] == [{"snapshot_id": first, "files": 2, "paths": ["a", "b"]}]
    await shelf.save(files)
    assert (await check(shelf, first, "full"))["outcome"] == "whole"
    assert await shelf.rows("SELECT id FROM snapshot WHERE damaged_at IS NOT NULL AND id = %s", first) == []


async def test_what_only_a_newer_version_can_decode_is_unknown_and_not_damage(shelf: Shelf) -> None:
    """Nothing is marked, nothing noted; the check says what to do."""
    begun = await shelf.begin()
    repository, raw = shelf.repository, b"weights " * 50
    ids = store_newer(repository, b"n" * 16, raw)
    name = repository.commit(draft([file_entry(b"new", len(raw), ids)], epoch=begun["epoch"])).name
    with pytest.raises(VerificationProblem, match=r"by this version: .* update Dumont Cloud"):
        await verify(shelf.vaults, shelf.workspace_id, name)
    found = await workflows.check(
        world(shelf), Due(begun["snapshot_id"], shelf.team_id, shelf.workspace_id, name, "full")
    )
    assert (found["outcome"], found["damaged"], found["touched"]) == ("unknown", [], [])
    assert "update Dumont Cloud" in found["detail"]
    assert (
        await shelf.rows("SELECT id FROM snapshot WHERE damaged_at IS NOT NULL AND team_id = %s", shelf.team_id) == []
    )
    assert shelf.repository.index().damaged == set()


async def test_a_store_that_cannot_answer_is_unknown_and_not_damage(shelf: Shelf) -> None:
    """Nothing is marked, nothing told; it is tried again soon."""
    first = await shelf.save({b"a": b"a" * 400})
    root = shelf.vaults.root / shelf.workspace_id
    root.rename(root.with_name("away"))
    root.write_bytes(b"no folder")
    found = await check(shelf, first, "full")
    assert (found["outcome"], found["touched"]) == ("unknown", []) and "storage" in found["detail"]
    root.unlink()
    root.with_name("away").rename(root)
    assert await shelf.rows("SELECT id FROM snapshot WHERE damaged_at IS NOT NULL AND id = %s", first) == []
    assert (await check(shelf, first, "full"))["outcome"] == "whole"


async def test_a_repository_without_a_key_is_damage_of_everything(shelf: Shelf) -> None:
    first = await shelf.save({b"a": b"a" * 400})
    for name, _ in list(shelf.repository.store.list("keys/")):
        shelf.repository.store.delete(name)
    found = await check(shelf, first, "quick")
    assert (found["outcome"], found["damaged"]) == ("damaged", ["config"])
    assert found["touched"] == [{"snapshot_id": first, "files": None, "paths": []}]


async def test_checks_are_due_daily_and_weekly_or_as_the_policy_says(shelf: Shelf) -> None:
    """Quick after a day, a sample after a week, never where the policy says never; a check resets its own wait."""
    first = await shelf.save({b"a": b"a" * 400})
    assert first not in dict(await due(shelf))
    await older(shelf, 25)
    assert dict(await due(shelf))[first] == "quick"
    await workflows.verify_by_schedule(world(shelf), NOON)
    rows = await shelf.rows("SELECT depth, outcome FROM snapshot_check WHERE snapshot_id = %s", first)
    assert rows == [("quick", "whole")] and first not in dict(await due(shelf))
    await older(shelf, 25 * 6)
    assert dict(await due(shelf))[first] == "sample"
    await check(shelf, first, "sample")
    assert first not in dict(await due(shelf))
    await older(shelf, 25)
    async with shelf.session() as session:
        await keeping.set_terms(session, shelf.team_id, shelf.instance_id, Terms(quick_hours=0, sample_hours=0), NOON)
    assert first not in dict(await due(shelf))
    async with shelf.session() as session:
        await keeping.set_terms(session, shelf.team_id, shelf.instance_id, Terms(quick_hours=2), NOON)
    assert dict(await due(shelf))[first] == "quick"
