"""Which snapshots go and which stay: by policy, by hand, and never the one that somebody needs."""

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.snapshots.conftest import NOON, Shelf, days_ago

from dumont.core import Problem
from dumont.http import problems
from dumont.snapshots import SnapshotInUse, SnapshotNotFound, SnapshotProtected, keeping, keeping_queries, workflows
from dumont.snapshots.keeping import Terms
from dumont.snapshots.retention import Rule, Saved, to_forget

pytestmark = pytest.mark.requires_postgres


def saved(*days: float, pinned: tuple[float, ...] = ()) -> list[Saved]:
    return [Saved(f"{day:06.2f}", days_ago(day), day in pinned) for day in days]


def kept(rows: list[Saved], rule: Rule) -> list[str]:
    gone = to_forget(rows, rule)
    return sorted(row.id for row in rows if row.id not in gone)


def test_the_last_ones_one_a_day_and_one_a_week_are_kept() -> None:
    """Three a day for sixty days: the numbers of the policy, counted from the newest, each period by its newest."""
    rows = saved(*(day + part for day in range(60) for part in (0.0, 0.1, 0.2)))
    assert kept(rows, Rule(4)) == ["000.00", "000.10", "000.20", "001.00"]
    assert kept(rows, Rule(1, keep_daily=3)) == ["000.00", "001.00", "002.00"]
    weekly = [row for row in rows if row.id in kept(rows, Rule(1, keep_weekly=3))]
    assert [row.created_at.strftime("%G-%V %a") for row in weekly] == ["2026-09 Sun", "2026-08 Sun", "2026-07 Sun"]
    both = kept(rows, Rule(2, keep_daily=7, keep_weekly=4))
    assert set(both) == {*kept(rows, Rule(2)), *kept(rows, Rule(1, 7)), *kept(rows, Rule(1, 0, 4))}


def test_days_without_a_snapshot_do_not_count() -> None:
    assert kept(saved(0, 10, 20, 30), Rule(1, keep_daily=3)) == ["000.00", "010.00", "020.00"]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.datetimes(datetime(2020, 1, 1), datetime(2026, 1, 1)), st.booleans()), max_size=40),
    st.integers(0, 5),
    st.integers(0, 5),
    st.integers(0, 5),
)
def test_the_newest_and_the_pinned_are_never_forgotten(made: Any, last: int, daily: int, weekly: int) -> None:
    """Whatever the numbers, zeros too; and a larger number never forgets more."""
    rows = [Saved(f"{i:03}", at.replace(tzinfo=timezone.utc), pin) for i, (at, pin) in enumerate(made)]
    gone = set(to_forget(rows, Rule(last, daily, weekly)))
    if rows:
        assert max(rows, key=lambda row: (row.created_at, row.id)).id not in gone
    assert not gone & {row.id for row in rows if row.pinned}
    assert gone >= set(to_forget(rows, Rule(last + 1, daily + 1, weekly + 1)))


async def forget(shelf: Shelf, snapshot_id: str, *, force: bool = False) -> None:
    async with shelf.session() as session:
        row = await keeping_queries.locked(session, snapshot_id)
        assert row is not None
        await keeping.forget(session, row, force=force)


async def statuses(shelf: Shelf) -> dict[str, str]:
    found = await shelf.rows("SELECT id, status FROM snapshot WHERE workspace_id = %s", shelf.workspace_id)
    return {str(one): str(status) for one, status in found}


async def test_what_is_to_be_kept_is_not_forgotten_by_hand(shelf: Shelf) -> None:
    """The newest only by force; for ever and a restore point not at all, until somebody takes that away."""
    first, second, third = [await shelf.save({b"f": b"%d" % n}) for n in range(3)]
    for name in ("keep_forever", "restore_point"):
        async with shelf.session() as session:
            row = await keeping_queries.locked(session, first)
            assert row is not None
            await keeping.keep(session, row, **{name: True})
        with pytest.raises(SnapshotProtected):
            await forget(shelf, first, force=True)
        async with shelf.session() as session:
            row = await keeping_queries.locked(session, first)
            assert row is not None
            await keeping.keep(session, row, **{name: False})
    with pytest.raises(SnapshotProtected, match="newest"):
        await forget(shelf, third)
    await forget(shelf, third, force=True)
    with pytest.raises(SnapshotProtected, match="newest"):
        await forget(shelf, second)
    await forget(shelf, first)
    assert await statuses(shelf) == {first: "deleting", second: "ready", third: "deleting"}


async def test_what_is_being_made_or_read_is_not_forgotten(shelf: Shelf) -> None:
    """A save that goes on; a restore that reads. Afterwards both can go, and nobody reads what is gone."""
    first, _ = [await shelf.save({b"f": b"%d" % n}) for n in range(2)]
    begun = await shelf.begin()
    with pytest.raises(problems.WrongState):
        await forget(shelf, begun["snapshot_id"])
    await shelf.fail(begun)
    await forget(shelf, begun["snapshot_id"])
    manifest = await shelf.manifest(first)
    async with shelf.vaults.reading(shelf.workspace_id, manifest):
        with pytest.raises(SnapshotInUse) as refused:
            await forget(shelf, first)
        assert refused.value.extra["used_by"] == "a restore"
    await forget(shelf, first)
    with pytest.raises(SnapshotNotFound):
        async with shelf.vaults.reading(shelf.workspace_id, manifest):
            raise AssertionError("it was forgotten")


async def add_instance(shelf: Shelf, snapshot_id: str, status: str) -> None:
    await shelf.rows(
        "INSERT INTO instance (id, team_id, workspace_id, created_by, status, provider, image, env, disk_gb, gpu_name, "
        "num_gpus, gpu_memory_mib, price_hour_nano, last_snapshot_id, created_at) VALUES "
        "(%s, %s, %s, 'u', %s, 'sandbox', 'i', '{}', 1, 'g', 1, 1, 1, %s, now())",
        *(shelf.instance_id, shelf.team_id, shelf.workspace_id, status, snapshot_id),
    )


async def test_what_an_instance_wakes_from_is_never_forgotten(shelf: Shelf) -> None:
    """Neither by hand nor by policy, though newer ones exist; when the instance is destroyed, it may go."""
    import dumont.instances  # noqa: F401 - says what instances need

    first, second, third = [await shelf.save({b"f": b"%d" % n}, days_ago(9 - n)) for n in range(3)]
    await add_instance(shelf, first, "hibernated")
    with pytest.raises(SnapshotInUse, match=shelf.instance_id):
        await forget(shelf, first, force=True)
    async with shelf.session() as session:
        gone = await keeping.prune(session, shelf.team_id, instance_id=None, rule=Rule(1), dry_run=False)
    assert gone == [second]
    await shelf.rows("UPDATE instance SET status = 'destroyed' WHERE id = %s", shelf.instance_id)
    await forget(shelf, first)
    assert await statuses(shelf) == {first: "deleting", second: "deleting", third: "ready"}


def world(shelf: Shelf) -> Any:
    clock = SimpleNamespace(now=lambda: NOON)
    return SimpleNamespace(database=shelf.database, vaults=shelf.vaults, session=shelf.session, clock=clock)


async def test_by_schedule_only_where_a_policy_is_in_force(shelf: Shelf) -> None:
    """Nothing goes without one; the instance's own terms go before the team's; a dry run changes nothing."""
    ids = [await shelf.save({b"f": b"%d" % n}, days_ago(9 - n)) for n in range(5)]
    await workflows.retain(world(shelf), NOON)
    assert set((await statuses(shelf)).values()) == {"ready"}
    async with shelf.session() as session:
        assert (await keeping.terms_of(session, shelf.team_id, shelf.instance_id)).source == "default"
        await keeping.set_terms(session, shelf.team_id, None, Terms(True, 3, 0, 0), NOON)
        await keeping.set_terms(session, shelf.team_id, shelf.instance_id, Terms(True, 2, 0, 0), NOON)
        assert (await keeping.terms_of(session, shelf.team_id, shelf.instance_id)).keep_last == 2
        assert (await keeping.terms_of(session, shelf.team_id, "ins_other")).source == "team"
        would = await keeping.prune(session, shelf.team_id, instance_id=None, rule=None, dry_run=True)
    assert would == ids[:3] and set((await statuses(shelf)).values()) == {"ready"}
    await workflows.retain(world(shelf), NOON)
    assert {one for one, status in (await statuses(shelf)).items() if status == "deleting"} == set(ids[:3])


async def collect(shelf: Shelf, **more: bool) -> dict[str, Any]:
    return await workflows.collect_workspace(world(shelf), shelf.workspace_id, shelf.team_id, dry_run=False, **more)


async def test_forgotten_bytes_leave_the_folder_by_the_databases_clock(shelf: Shelf) -> None:
    """Forget, collect, wait a day by the marks' own time, collect: the bytes are gone, the record says how many."""
    first = await shelf.save({b"f": bytes(range(256)) * 40, b"same": b"s" * 999})
    second = await shelf.save({b"g": b"g" * 4000, b"same": b"s" * 999})
    await forget(shelf, first)
    done = await collect(shelf)
    assert done["packs_marked"] == 0 and (await statuses(shelf))[first] == "deleted", "half of the pack still lives"
    await shelf.save({b"g": b"g" * 4000})
    await forget(shelf, second)
    before = shelf.pack_bytes()
    assert (await collect(shelf))["bytes_marked"] > 0
    assert (await collect(shelf))["packs_deleted"] == 0 and shelf.pack_bytes() == before
    await make_due(shelf)
    freed = (await collect(shelf))["bytes_freed"]
    assert freed > 0 and shelf.pack_bytes() == before - freed
    ready = "SELECT manifest FROM snapshot WHERE status = 'ready' AND workspace_id = %s"
    for (name,) in await shelf.rows(ready, shelf.workspace_id):
        shelf.repository.verify(name, all_below=1 << 62)
    told = await shelf.rows("SELECT sum(bytes_freed) FROM collection WHERE workspace_id = %s", shelf.workspace_id)
    assert told == [(freed,)]


async def make_due(shelf: Shelf) -> None:
    """Write the marks of a repository anew, as if they were two days old."""
    repository = shelf.repository
    for name, mark in list(repository.index(fresh=True).marks.items()):
        assert mark is not None
        repository.store.delete(name)
        repository.mark(mark._replace(not_before=mark.not_before - timedelta(days=2)))
    await shelf.rows("UPDATE workspace_lease SET taken_at = taken_at - interval '2 days'")


async def test_a_save_under_way_is_waited_for_and_an_overdue_one_fenced_off(shelf: Shelf) -> None:
    """Its lease is its row; when that is over, the collector raises the epoch, and what the save brings is refused."""
    await shelf.save({b"f": b"f" * 500})
    begun = await shelf.begin()
    name = shelf.store({b"late": b"l" * 500}, begun["epoch"])
    waiting = (await collect(shelf))["waiting"]
    assert waiting == [f"write {begun['snapshot_id']}"]
    await shelf.rows("UPDATE workspace_lease SET expires_at = now() - interval '1 second'")
    assert (await collect(shelf))["waiting"] == []
    with pytest.raises(Problem, match="took too long"):
        await shelf.complete(begun, name)
    await shelf.fail(begun)
    assert (await statuses(shelf))[begun["snapshot_id"]] == "failed"
    await shelf.save({b"next": b"n" * 500})
    await make_due(shelf)
    await collect(shelf)
    await make_due(shelf)
    await collect(shelf)
    assert f"snap/{name}" not in dict(shelf.repository.store.list("snap/")), "what the late save left goes as well"


async def test_one_collector_at_a_time(shelf: Shelf) -> None:
    """The second one does nothing; one that died is replaced when its lease is over."""
    assert shelf.vaults.leases is not None
    await shelf.save({b"f": b"f"})
    async with shelf.vaults.leases.collecting(shelf.workspace_id) as alone:
        assert alone and await collect(shelf) == {"busy": [shelf.workspace_id]}
        await shelf.rows("UPDATE workspace_lease SET expires_at = now() - interval '1 second'")
        assert "busy" not in await collect(shelf)
    assert await shelf.rows("SELECT * FROM workspace_lease WHERE workspace_id = %s", shelf.workspace_id) == []


async def test_a_manifest_that_the_database_names_and_nobody_finds_stops_the_collection(shelf: Shelf) -> None:
    first = await shelf.save({b"f": b"f" * 500})
    shelf.repository.store.delete(f"snap/{await shelf.manifest(first)}")
    with pytest.raises(Problem, match="is gone"):
        await collect(shelf)
    assert (await shelf.rows("SELECT problem FROM collection WHERE workspace_id = %s", shelf.workspace_id))[0][0]
    assert shelf.pack_bytes() > 0
