"""A sync: the repository is made ready by us, restic on the machine adds to it, and what arrived is what counts."""

import asyncio
import time
from functools import partial
from pathlib import Path
from typing import Any

from dumont.durable import Run
from dumont.instances import Status, World, expect, find_instance, get_rental
from dumont.snapshots import StorageUnreachable, Vaults
from dumont.sync.endpoint import Endpoint, host_rights
from dumont.sync.machine import Bench, Said, at_machine, backup_words, count_of
from dumont.sync.model import SyncEmpty, SyncFailed
from dumont.sync.restic import Ran, find_restic, owning, password_of, store_of
from dumont.sync.stretching import lighten
from dumont.vault import Store, StoreError

INCOMPLETE = 3
"""restic's exit code where it could not read some files; the snapshot holds all others."""
_EMPTY = ("snapshot is empty", "all target directories/files do not exist", "all source directories/files do not")
_SPARE_BYTES = 2 << 30


def restic_folder(world: World) -> Path:
    """Return where this installation keeps a restic of its own."""
    return world.settings.home / "restic"


async def our_restic(world: World) -> Path:
    """Return the control plane's restic. Errors: SyncUnavailable."""
    return await asyncio.to_thread(find_restic, restic_folder(world))


async def prepare(world: World, facts: dict[str, Any]) -> dict[str, Any]:
    """Make the repository where there is none, and take away the locks of whoever died.

    Guarantees: the caller holds the workspace's only live run, so every lock that is there is a dead one's.
    Errors: SyncUnavailable, StorageUnreachable, SyncFailed.
    """
    program, workspace_id = await our_restic(world), facts["workspace_id"]
    store = store_of(world.vaults, workspace_id)
    made = not await storing(_ready, store)
    if made:
        async with owning(world.vaults, program, workspace_id) as (restic, endpoint):
            expect_done(await restic.run("init"), endpoint, "The repository could not be made")
    await storing(lighten, store, password_of(world.vaults, workspace_id))
    return {"made": made}


async def rescue(world: World, facts: dict[str, Any], program: Path) -> dict[str, Any]:
    """Make the packs useful that a sync had sent before it was cut off: no index knows them yet.

    Returns columns of the run. Errors: StorageUnreachable, SyncFailed.
    """
    workspace_id, known = facts["workspace_id"], facts["repository_bytes"]
    store = store_of(world.vaults, workspace_id)
    await storing(drop_locks, store)
    found = await storing(pack_bytes, store)
    if found > known:
        async with owning(world.vaults, program, workspace_id) as (restic, endpoint):
            expect_done(await restic.run("rebuild-index"), endpoint, "What a cut sync had sent could not be read")
    return {"repository_bytes": found, "bytes_resumed": max(0, found - known)}


def _ready(store: Store) -> bool:
    """Drop dead locks and tell whether there is a repository; keys without one are of a making that was cut off."""
    drop_locks(store)
    if store.size("config") is not None:
        return True
    for name, _ in list(store.list("keys/")):
        store.delete(name)
    return False


def drop_locks(store: Store) -> None:
    """Take every lock away."""
    for name, _ in list(store.list("locks/")):
        store.delete(name)


def pack_bytes(store: Store) -> int:
    """Return how many bytes the packs take up."""
    return sum(size for _, size in store.list("data/"))


async def storing(verb: Any, *arguments: Any) -> Any:
    """Ask something of a store in a thread. Errors: StorageUnreachable."""
    try:
        return await asyncio.to_thread(verb, *arguments)
    except StoreError as error:
        raise unreachable(error) from error


def unreachable(error: StoreError) -> StorageUnreachable:
    """Make the problem of a store that does not do what is asked."""
    advice = "Free some space there and try again." if error.full else "Check the storage and try again."
    return StorageUnreachable(f"The history cannot be kept or read: {error.detail} {advice}")


def expect_done(ran: Ran, endpoint: Endpoint, what: str) -> None:
    """Refuse a restic of ours that ended badly. Errors: StorageUnreachable where the store is why, else SyncFailed."""
    if ran.code == 0:
        return
    if endpoint.failure is not None:
        raise unreachable(endpoint.failure)
    raise SyncFailed(f"{what}: {' '.join((ran.err or ran.out).split())[-300:]}")


async def upload(run: Run, world: World, facts: dict[str, Any]) -> dict[str, Any]:
    """Let restic on the machine send what is new, with progress; returns columns of the run. May be tried again.

    Guarantees: only a snapshot that reached the store through this very session counts.
    Errors: SshUnreachable, SyncUnavailable, SyncFailed, StorageUnreachable, Cancelled; WrongState where the
    instance does not run any more.
    """
    program = await our_restic(world)
    async with world.session(run.team_id) as session:
        expect(await find_instance(session, facts["instance_id"]), Status.RUNNING)
        rental = await get_rental(session, facts["rental_id"])
    rescued = await rescue(world, facts, program)
    rights = host_rights(facts["disk_bytes"] + _SPARE_BYTES)
    began = time.monotonic()
    async with at_machine(world, rental, facts["workspace_id"], rights, program) as bench:
        words = _words(facts, bench.root)
        said = await bench.restic(words, partial(_tell, run), partial(_look, run, bench.endpoint))
        seconds = time.monotonic() - began
        _expect_point(said, bench)
    rescued["repository_bytes"] += bench.endpoint.stored["data"]
    return {**_columns(said), "seconds": round(seconds, 3), **_arrived(bench.endpoint), **rescued}


def _words(facts: dict[str, Any], root: str) -> list[str]:
    mbps = facts["bandwidth_mbps_max"]
    return backup_words(
        host=facts["instance_id"],
        run_id=facts["run_id"],
        parent=facts["parent"],
        paths=facts["paths"],
        exclude=[f"{root}{pattern}" if pattern.startswith("/") else pattern for pattern in facts["exclude"]],
        limit_kib=None if mbps is None else max(1, round(mbps * 1e6 / 8 / 1024)),
    )


async def _tell(run: Run, status: dict[str, Any]) -> None:
    told = {name: count_of(status.get(name), 0) for name in ("bytes_done", "total_bytes", "files_done", "total_files")}
    files = f"{told['files_done']} of {told['total_files']} files"
    await run.progress("upload", done=told["bytes_done"], total=told["total_bytes"] or None, detail=files)


async def _look(run: Run, endpoint: Endpoint) -> None:
    """Go on unless somebody cancelled or the store has no room left, which no patience of restic mends."""
    await run.check()
    if endpoint.failure is not None and endpoint.failure.full:
        raise unreachable(endpoint.failure)


def _expect_point(said: Said, bench: Bench) -> None:
    if said.code in (0, INCOMPLETE) and bench.endpoint.added["snapshots"] and said.summary:
        return
    if bench.endpoint.failure is not None:
        raise unreachable(bench.endpoint.failure)
    if any(words in said.reason for words in _EMPTY):
        raise SyncEmpty("The chosen paths of the workspace hold no files, so no point was made. Earlier ones stay.")
    killed = "It was killed on the machine. " if said.code is not None and said.code > 128 else ""
    raise SyncFailed(f"restic on the machine ended with {said.code}. {killed}It said: {said.reason}")


def _columns(said: Said) -> dict[str, Any]:
    """Turn restic's summary into columns; what an odd summary does not say stays unknown."""
    names = {
        "files_new": "files_new",
        "files_changed": "files_changed",
        "files_unmodified": "files_unmodified",
        "files_total": "total_files_processed",
        "bytes_read": "total_bytes_processed",
        "bytes_added": "data_added",
    }
    told = {column: count_of(said.summary.get(name), None) for column, name in names.items()}
    return {**told, "unreadable": sorted(set(said.unreadable))[:100]}


def _arrived(endpoint: Endpoint) -> dict[str, Any]:
    """What we saw arrive ourselves, whatever the machine says."""
    return {
        "snapshot_id": endpoint.added["snapshots"][0],
        "bytes_uploaded": endpoint.stored.total() - endpoint.stored["locks"],
    }


async def owned_run(vaults: Vaults, program: Path, workspace_id: str, *words: str) -> Ran:
    """Run our restic on a workspace's repository; returns how it ended, unless the store is why it ended badly.

    Errors: StorageUnreachable.
    """
    async with owning(vaults, program, workspace_id) as (restic, endpoint):
        ran = await restic.run(*words)
        if ran.code != 0 and endpoint.failure is not None:
            raise unreachable(endpoint.failure)
        return ran
