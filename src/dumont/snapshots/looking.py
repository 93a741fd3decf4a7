"""What is in a snapshot, and what a restore of parts of it would write: read from its manifest, in a workflow."""

import asyncio
from functools import partial
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.durable import Run, workflow
from dumont.snapshots.model import SnapshotNotFound
from dumont.snapshots.places import choice_of
from dumont.snapshots.queries import get
from dumont.snapshots.service import Vaults, explain_vault
from dumont.snapshots.workflows import nothing_to_undo
from dumont.vault import Entry, Kind, VaultError, bytes_of

_NAMES = {Kind.FILE: "file", Kind.FOLDER: "folder", Kind.LINK: "link"}


@workflow("snapshots.preview", kind="preview", steps=("read",), on_failure=nothing_to_undo)
async def preview_operation(run: Run, world: Any) -> dict[str, Any]:
    """Say what lies at paths of a snapshot, and where a restore would put it. Nothing is written."""
    found = await run.record("find", partial(_find, run))
    done: dict[str, Any] = await run.call("read", partial(_preview, run, world.vaults, found))
    return done


async def _find(run: Run, session: AsyncSession) -> dict[str, Any]:
    snapshot = await get(session, run.input["snapshot_id"])
    if snapshot is None or snapshot.status != "ready":
        raise SnapshotNotFound("The snapshot was deleted. Choose another one.")
    return {"workspace_id": snapshot.workspace_id, "manifest": snapshot.manifest}


async def _preview(run: Run, vaults: Vaults, found: dict[str, Any]) -> dict[str, Any]:
    from dumont.vault import chosen_entries

    choice = choice_of(run.input["paths"], run.input["target_path"])
    async with vaults.reading(found["workspace_id"], found["manifest"]):
        repository = await asyncio.to_thread(vaults.repository, found["workspace_id"])
        try:
            manifest = await asyncio.to_thread(repository.manifest, found["manifest"])
            entries = await asyncio.to_thread(chosen_entries, manifest.entries, choice.paths)
        except VaultError as error:
            raise explain_vault(error) from error
    before = f"{choice.into}/" if choice.into else ""
    kinds = [entry.kind for entry in entries]
    most = int(run.input["limit"])
    return {
        "snapshot_id": run.input["snapshot_id"],
        "files": kinds.count(Kind.FILE),
        "folders": kinds.count(Kind.FOLDER),
        "links": kinds.count(Kind.LINK),
        "bytes": bytes_of(entries),
        "entries": [_shown(entry, before) for entry in entries[:most]],
        "truncated": len(entries) > most,
    }


def _shown(entry: Entry, before: str) -> dict[str, Any]:
    return {
        "path": before + entry.path.decode("utf-8", "backslashreplace"),
        "type": _NAMES[entry.kind],
        "bytes": entry.size,
        "mode": entry.mode,
        "mtime_ns": entry.mtime_ns,
    }
