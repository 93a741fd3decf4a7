"""Wake: resume the kept machine or rent another, restore, compare every hash, and only then run.

A kept disk is the newest state there is, so resuming never writes over it: it is compared with the snapshot, and
restored only where the workspace is gone altogether, or where another snapshot was asked for. A kept machine that alone
has some files is not left, or written over, without the owner's waiver.
"""

from functools import partial
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import Problem
from dumont.durable import Retry, Run, workflow
from dumont.hibernation.progress import telling
from dumont.hibernation.restoring import linked
from dumont.hibernation.service import refuse_loss, unsaved
from dumont.instances import (
    PATIENT,
    Rental,
    Status,
    Wish,
    World,
    acquire,
    boot,
    find_instance,
    get_rental,
    move,
    named,
    release,
    start,
    stop_again,
    take_machine,
    wish_of,
)
from dumont.market import ProviderDown
from dumont.snapshots import SnapshotNotFound, compare, get_snapshot, restore

WAKE_RISE = 1.5
"""How much dearer than the last machine another one may be where no limit was set: somebody waits for his files."""
_ELSEWHERE = frozenset({"no-capacity", "host-lost", "creation-timeout", "ssh-unreachable", "price-moved"})
"""Problems of the kept machine, after which another one may do."""


async def wake_failed(session: AsyncSession, run: Run, problem: Problem) -> None:
    """Go back to sleep: the snapshot is untouched, so the workspace is as safe as before."""
    instance = await find_instance(session, run.instance_id or "", lock=True)
    if instance.status == Status.WAKING:
        await move(session, instance, Status.HIBERNATED, detail=problem.detail)


@workflow("hibernation.wake", kind="wake", steps=("rent", "boot", "restore", "ready"), on_failure=wake_failed)
async def wake(run: Run, world: World) -> dict[str, Any]:
    """Bring a hibernated instance back, on its kept machine or on another one.

    No machine may cost more than the instance's limit or, where it has none, another one than half above the last.
    """
    facts = await run.record("read instance", partial(_facts, run))
    restored: dict[str, Any] = {}

    async def bring_back(rental_id: str, attempt: int) -> None:
        step = named("restore", attempt)
        body = partial(_restore, run, world, rental_id, facts, step)
        restored.update(await run.call(step, body))

    kept = facts["kept_rental_id"]
    rental_id: str | None = None
    found: dict[str, Any] = {}
    if kept is not None and not run.input["elsewhere"]:
        rental_id, found = await _resume(run, world, facts, bring_back)
    if rental_id is None:
        rental_id = await _elsewhere(run, world, facts, bring_back, kept_failed=found.pop("failed", None))
    restored = {**found, **restored}
    await run.record("ready", partial(_ready, run, world, rental_id))
    run.settle()
    if kept is not None and kept != rental_id:
        patient = Retry(on=(ProviderDown,), for_seconds=float("inf"), most_seconds=15.0)
        moved = partial(release, run, world, kept, "woken elsewhere")
        await run.call("give back kept machine", moved, retry=patient)
    mode = "resume" if rental_id == kept and not run.input.get("chosen") else "restore"
    return {"mode": mode, "rental_id": rental_id, "snapshot_id": run.input["snapshot_id"], **restored}


async def _resume(run: Run, world: World, facts: dict[str, Any], bring_back: Any) -> tuple[str | None, dict[str, Any]]:
    """Start the kept machine and compare its disk with the snapshot, or make it the one that was asked for.

    None: it cannot be had, go elsewhere.
    """
    rental_id = str(facts["kept_rental_id"])
    try:
        await run.call(
            "start kept machine",
            partial(start, run, world, rental_id),
            retry=PATIENT,
            undo=partial(stop_again, run, world, rental_id),
        )
        limit = facts["wish"]["max_price_hour_nano"]
        up = partial(boot, run, world, rental_id, facts["public_keys"], highest_hour_nano=limit)
        await run.call("boot kept machine", up)
        found: dict[str, Any] = {"gone": True}
        if not run.input.get("chosen"):
            found = await run.call("compare kept disk", partial(_compare, run, world, rental_id, facts))
        if found.pop("gone"):
            await bring_back(rental_id, 1)
    except Problem as problem:
        if problem.code not in _ELSEWHERE:
            raise
        if not run.input["accept_loss"]:
            refuse_loss(facts["unsaved"], disk_newer=facts["disk_newer"])
        return None, {"failed": problem.detail}
    return rental_id, found


async def _elsewhere(run: Run, world: World, facts: dict[str, Any], bring_back: Any, *, kept_failed: str | None) -> str:
    """Wake on another machine.

    Errors: the last attempt's problem, which also says why the kept machine would not do.
    """
    wish = Wish(
        **facts["wish"],
        requested_by=run.input["requested_by"],
        elsewhere=True,
        avoid=facts["avoid"],
        retry_price_hour_nano=round(facts["wish"]["offer"]["price_hour_nano"] * WAKE_RISE),
    )
    try:
        return await acquire(run, world, wish, bring_back)
    except Problem as problem:
        if kept_failed is not None:
            problem.detail = f"The kept machine: {kept_failed} Another one: {problem.detail}"
        raise


async def _facts(run: Run, session: AsyncSession) -> dict[str, Any]:
    from dumont.identity import ssh_keys_of

    instance = await find_instance(session, run.instance_id or "")
    snapshot = await get_snapshot(session, run.input["snapshot_id"])
    if snapshot is None or snapshot.manifest is None:
        raise LookupError(f"instance {instance.id} is hibernated without a snapshot")
    if run.input.get("chosen") and snapshot.status != "ready":
        raise SnapshotNotFound("The snapshot was deleted. Choose another one.")
    kept: Rental | None = await get_rental(session, instance.rental_id) if instance.rental_id else None
    offer = run.input["offer"] or await _last_offer(session, instance.id, kept)
    return {
        "wish": {**wish_of(instance), "offer": offer},
        "workspace_id": snapshot.workspace_id,
        "manifest": snapshot.manifest,
        "disk_newer": instance.disk_newer,
        "unsaved": await unsaved(session, instance),
        "kept_rental_id": kept.id if kept else None,
        "avoid": [kept.machine_id] if kept else [],
        "public_keys": list(await ssh_keys_of(session, run.input["requested_by"])),
    }


async def _ready(run: Run, world: World, rental_id: str, session: AsyncSession) -> dict[str, Any]:
    """Make the instance run; from a snapshot that was asked for it goes on as from its last one."""
    taken = await take_machine(run, world, rental_id, session)
    if run.input.get("chosen"):
        instance = await find_instance(session, run.instance_id or "", lock=True)
        instance.last_snapshot_id = run.input["snapshot_id"]
    return taken


async def _last_offer(session: AsyncSession, instance_id: str, kept: Rental | None) -> dict[str, Any]:
    from dumont.instances import rentals_of

    if kept is not None:
        return kept.offer
    return (await rentals_of(session, instance_id))[-1].offer


async def _restore(run: Run, world: World, rental_id: str, facts: dict[str, Any], step: str) -> dict[str, Any]:
    where = {"workspace_id": facts["workspace_id"], "manifest": facts["manifest"]}
    async with linked(run, world, rental_id, facts["workspace_id"]) as held, telling(run, step) as told:
        gate = (held.gate, held.gate_url)
        done = await restore(world.vaults, held.link, *gate, **where, on_progress=told, before_exchange=told.turn)
    return {
        "files": done.files,
        "bytes_total": done.bytes_total,
        "bytes_fetched": done.bytes_fetched,
        "chunks_reused": done.chunks_reused,
        "hashes_compared": done.hashes_compared,
        "merkle_root": done.merkle_root,
        "equal": True,
        "differing": [],
    }


async def _compare(run: Run, world: World, rental_id: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Hash the kept disk against the snapshot; `gone` when nothing of the snapshot's files is there any more."""
    async with linked(run, world, rental_id, facts["workspace_id"]) as held:
        seen = await compare(world.vaults, held.link, workspace_id=facts["workspace_id"], manifest=facts["manifest"])
    unlike = sorted({*seen.differing, *seen.missing})
    return {
        "files": seen.files,
        "bytes_total": seen.bytes,
        "bytes_fetched": 0,
        "equal": seen.equal,
        "differing": unlike[:20],
        "gone": bool(seen.missing) and not seen.differing and seen.files == 0,
    }
