"""What the control plane does with a repository by itself: read a tree, check, forget and prune."""

import re
from typing import Any

from dumont.instances import World
from dumont.sync.model import SyncFailed, SyncPointNotFound
from dumont.sync.restic import ResticFailed, owning, store_of
from dumont.sync.syncing import drop_locks, our_restic, owned_run, pack_bytes, storing, unreachable

MOST_ENTRIES = 2000
_ERRORS_SHOWN = 50
_PRUNED = re.compile(r"^total prune: +\d+ blobs / ([\d.]+) ([KMGT]?i?B)$", re.MULTILINE)
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


async def read_tree(world: World, wish: dict[str, Any]) -> dict[str, Any]:
    """List a folder at a point in time, or one file.

    Shapes: entries have path, type, size, mode and mtime; `truncated` beyond the limit.
    Errors: SyncPointNotFound where the point has no such path; StorageUnreachable.
    """
    program, wanted = await our_restic(world), "/" + wish["path"].removeprefix(".")
    entries: list[dict[str, Any]] = []
    itself = False
    async with owning(world.vaults, program, wish["workspace_id"]) as (restic, endpoint):
        documents = restic.documents("--no-lock", "ls", "--json", wish["snapshot_id"], wanted)
        try:
            async for node in documents:
                if node.get("struct_type") != "node":
                    continue
                itself = itself or node["path"] == wanted
                if node["path"] != wanted or node["type"] != "dir":
                    entries.append(_entry(node))
                if len(entries) > wish["limit"]:
                    break
        except ResticFailed as error:
            if endpoint.failure is not None:
                raise unreachable(endpoint.failure) from error
            raise SyncFailed(f"The history could not be read: {error.ran.err[-300:]}") from error
        finally:
            await documents.aclose()
    if not entries and not itself and wanted != "/":
        raise SyncPointNotFound("The point has no such path. List the folder above it.")
    return {"entries": entries[: wish["limit"]], "truncated": len(entries) > wish["limit"], "path": wish["path"]}


def _entry(node: dict[str, Any]) -> dict[str, Any]:
    return {
        "path": node["path"].removeprefix("/"),
        "type": node["type"],
        "size": node.get("size") if node["type"] == "file" else None,
        "mode": node.get("mode"),
        "mtime": node.get("mtime"),
    }


async def check(world: World, wish: dict[str, Any]) -> dict[str, Any]:
    """Let restic check the repository's structure and read a share of its data back.

    Returns what it found wrong, in restic's words. Errors: SyncUnavailable, StorageUnreachable.
    """
    program, store = await our_restic(world), store_of(world.vaults, wish["workspace_id"])
    await storing(drop_locks, store)
    percent = wish["read_data_percent"]
    words = ["check"]
    if percent:
        words += ["--read-data"] if percent == 100 else [f"--read-data-subset={percent}%"]
    ran = await owned_run(world.vaults, program, wish["workspace_id"], *words)
    lines = [line for line in (*ran.err.splitlines(), *ran.out.splitlines()) if line.strip()]
    snapshots = await storing(lambda: len(list(store.list("snapshots/"))))
    return {
        "ok": ran.code == 0,
        "errors": lines[:_ERRORS_SHOWN] if ran.code else [],
        "read_data_percent": percent,
        "snapshots": snapshots,
        "bytes": await storing(pack_bytes, store),
    }


async def prune(world: World, wish: dict[str, Any], kept: list[str]) -> dict[str, Any]:
    """Take all snapshots but the kept ones out of the repository, and give the room back that only they had.

    One that no row of ours knows goes too: it is of a sync that was cut off at its very end, or was forged by a host.
    A dry run only says how much room that would give back, as nearly as restic does; None where it does not say.
    Errors: SyncUnavailable, StorageUnreachable, SyncFailed.
    """
    program, store = await our_restic(world), store_of(world.vaults, wish["workspace_id"])
    await storing(drop_locks, store)
    before = await storing(pack_bytes, store)
    there = [name.rpartition("/")[2] for name, _ in await storing(lambda: list(store.list("snapshots/")))]
    gone = sorted(set(there) - set(kept))
    if wish.get("dry_run"):
        ran = await owned_run(world.vaults, program, wish["workspace_id"], *_trial(gone))
        if ran.code != 0:
            raise SyncFailed(f"What pruning gives back cannot be told: {' '.join((ran.err or ran.out).split())[-300:]}")
        return {"bytes_before": before, "bytes_after": before, "bytes_freed": freed_by(ran.out)}
    words = (["forget", *gone],) if gone else ()
    for command in (*words, ["prune"]):
        ran = await owned_run(world.vaults, program, wish["workspace_id"], *command)
        if ran.code != 0:
            raise SyncFailed(f"Old points could not be pruned: {' '.join((ran.err or ran.out).split())[-300:]}")
    after = await storing(pack_bytes, store)
    return {"bytes_before": before, "bytes_after": after, "bytes_freed": before - after}


def _trial(gone: list[str]) -> list[str]:
    words = ["forget", *gone, "--prune"] if gone else ["prune"]
    return [*words, "--dry-run", "--quiet=false"]


def freed_by(said: str) -> int | None:
    """Read from restic's words, which are rounded, how much a prune would give back."""
    found = _PRUNED.search(said)
    return round(float(found[1]) * _UNITS[found[2]]) if found and found[2] in _UNITS else None
