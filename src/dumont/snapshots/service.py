"""The verbs of snapshots: begin, complete or fail a row; and the work with the vault between those."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.agent import (
    AgentFailed,
    AgentLink,
    Comparison,
    Progress,
    Restored,
    SavedSnapshot,
    compare_workspace,
    restore_workspace,
    save_workspace,
)
from dumont.core import Problem, derive_key, new_id
from dumont.snapshots import queries
from dumont.snapshots.leases import Leases, begin_writing, end_writing, refuse_fenced
from dumont.snapshots.model import (
    PathNotFound,
    RestoreProblem,
    Snapshot,
    SnapshotFailed,
    StorageUnreachable,
    VerificationProblem,
    Workspace,
)
from dumont.vault import (
    Gate,
    KeyRing,
    LocalStore,
    NotInSnapshot,
    RecordUnknown,
    Repository,
    RepositoryMissing,
    S3Place,
    StaleEpoch,
    Store,
    StoreError,
    VaultError,
    Verification,
    VerificationFailed,
)

if TYPE_CHECKING:
    from dumont.vault import Choice

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Vaults:
    """Where snapshots are kept: a folder or a bucket with a repository per workspace, and the installation's keys.

    `gate_secret` signs the addresses at which one machine may put and get the objects of its own workspace. Without
    `leases` nobody collects beside whoever uses it. Units: `gb_month_nano` is what 10^9 bytes cost there in a month.
    """

    root: Path
    keyring: KeyRing
    gate_secret: bytes
    bucket: S3Place | None = None
    leases: Leases | None = None
    gb_month_nano: int | None = None

    def store(self, workspace_id: str) -> Store:
        """Return the store that holds one workspace's repository and nothing else."""
        if self.bucket is None:
            return LocalStore(self.root / workspace_id)
        from dumont.vault import S3Store

        prefix = f"{self.bucket.prefix}/{workspace_id}".lstrip("/")
        return S3Store(self.bucket._replace(prefix=prefix))

    @asynccontextmanager
    async def reading(self, workspace_id: str, manifest: str) -> AsyncIterator[None]:
        """Keep what a snapshot needs from being collected while it is read.

        Errors: SnapshotNotFound when it was forgotten.
        """
        async with self.leases.reading(workspace_id, manifest) if self.leases else nullcontext():
            yield

    def gate(self, workspace_id: str) -> Gate:
        """Make the gate to one workspace's objects; it serves from `start` to `stop`.

        That of a bucket sends machines to the service itself.
        """
        store, secret = self.store(workspace_id), derive_key(self.gate_secret, workspace_id)
        if self.bucket is None:
            return Gate(store, secret)
        from dumont.vault import BucketGate

        return BucketGate(store, secret)

    def repository(self, workspace_id: str) -> Repository:
        """Open the repository of a workspace, or make it. Blocking.

        Errors: StorageUnreachable.
        """
        store = self.store(workspace_id)
        try:
            try:
                return Repository.open(store, workspace_id, self.keyring)
            except RepositoryMissing:
                return Repository.create(store, workspace_id, self.keyring)
        except VaultError as error:
            raise explain_vault(error) from error


def explain_vault(error: VaultError) -> Problem:
    """Turn an error of the vault into the problem that people see."""
    if isinstance(error, StoreError):
        advice = "Free some space there and try again." if error.full else "Check the storage and try again."
        return StorageUnreachable(f"Snapshots cannot be kept or read: {error.detail} {advice}")
    if isinstance(error, VerificationFailed):
        return VerificationProblem(f"The snapshot is damaged: {error}")
    if isinstance(error, RecordUnknown):
        return VerificationProblem(f"The snapshot cannot be read by this version: {error.detail}")
    if isinstance(error, NotInSnapshot):
        return PathNotFound(
            "Nothing in the snapshot fits some of the paths. List it and choose again.", paths=error.paths
        )
    if isinstance(error, StaleEpoch):
        return SnapshotFailed("Another save of this workspace has begun since; this one was given up.")
    return VerificationProblem(f"The workspace's repository is damaged: {error.detail}")


async def create_workspace(session: AsyncSession, team_id: str, now: datetime) -> Workspace:
    """Write a new, empty workspace."""
    workspace = Workspace(id=new_id("wsp"), team_id=team_id, epoch=0, created_at=now)
    session.add(workspace)
    await session.flush()
    return workspace


async def begin_snapshot(
    session: AsyncSession,
    *,
    team_id: str,
    workspace_id: str,
    instance_id: str,
    operation_id: str,
    kind: str,
    now: datetime,
) -> dict[str, Any]:
    """Write a snapshot row, take a new writer epoch, and return what the save needs: id, epoch, parent."""
    parent = await queries.newest_ready(session, workspace_id)
    epoch = await queries.next_epoch(session, workspace_id)
    snapshot = Snapshot(
        id=new_id("snp"),
        team_id=team_id,
        workspace_id=workspace_id,
        instance_id=instance_id,
        operation_id=operation_id,
        parent_id=parent.id if parent else None,
        kind=kind,
        status="creating",
        unstable=[],
        read_errors=[],
        created_at=now,
        epoch=epoch,
    )
    session.add(snapshot)
    await session.flush()
    await begin_writing(session, workspace_id, snapshot.id, epoch)
    return {"snapshot_id": snapshot.id, "epoch": epoch, "parent": parent.manifest if parent else None}


async def complete_snapshot(
    session: AsyncSession, snapshot_id: str, saved: dict[str, Any], verified: dict[str, Any], now: datetime
) -> None:
    """Mark a snapshot ready with what was saved and what was read back.

    Errors: SnapshotFailed where the save was overdue and was fenced off.
    """
    snapshot = await queries.get(session, snapshot_id)
    if snapshot is None:
        raise LookupError(f"snapshot {snapshot_id} has no row")
    await refuse_fenced(session, snapshot.workspace_id, snapshot.epoch)
    await end_writing(session, snapshot_id)
    snapshot.status = "ready"
    snapshot.manifest = saved["name"]
    for name in ("merkle_root", "files", "bytes_total", "bytes_new", "bytes_stored", "seconds"):
        setattr(snapshot, name, saved[name])
    snapshot.unstable, snapshot.read_errors = saved["unstable"], saved["read_errors"]
    snapshot.bytes_verified = verified["bytes_checked"]
    snapshot.completed_at = now
    snapshot.verified_at = datetime.now(timezone.utc)


async def fail_snapshot(session: AsyncSession, snapshot_id: str, problem: Problem) -> None:
    """Mark a snapshot that did not become ready as failed; a ready one stays ready."""
    snapshot = await queries.get(session, snapshot_id)
    await end_writing(session, snapshot_id)
    if snapshot is not None and snapshot.status == "creating":
        snapshot.status, snapshot.problem = "failed", problem.document()


async def save(
    vaults: Vaults,
    link: AgentLink,
    gate: Gate,
    gate_url: str,
    *,
    workspace_id: str,
    host: str,
    parent: str | None,
    epoch: int,
    on_progress: OnProgress,
) -> SavedSnapshot:
    """Save a workspace from its machine into its repository; commits the manifest, writes no row.

    Errors: StorageUnreachable, SnapshotFailed; AgentLost when the machine went silent (unknown).
    """
    repository = await asyncio.to_thread(vaults.repository, workspace_id)
    try:
        return await save_workspace(
            link,
            repository,
            gate,
            gate_url,
            host=host,
            parent=parent,
            exclude=(),
            epoch=epoch,
            on_progress=on_progress,
        )
    except VaultError as error:
        raise explain_vault(error) from error
    except AgentFailed as error:
        raise SnapshotFailed(f"The machine could not save its workspace: {error.detail}") from error


async def verify(vaults: Vaults, workspace_id: str, manifest: str) -> Verification:
    """Read a snapshot back from the store and decode it: the gate before anything is stopped or destroyed.

    Errors: VerificationProblem, StorageUnreachable.
    """
    repository = await asyncio.to_thread(vaults.repository, workspace_id)
    try:
        return await asyncio.to_thread(repository.verify, manifest)
    except VaultError as error:
        raise explain_vault(error) from error


async def restore(
    vaults: Vaults,
    link: AgentLink,
    gate: Gate,
    gate_url: str,
    *,
    workspace_id: str,
    manifest: str,
    on_progress: OnProgress,
    choice: "Choice | None" = None,
    still: bool = False,
    before_exchange: Callable[[], Awaitable[None]] | None = None,
) -> Restored:
    """Restore a snapshot, or a part of it, into the workspace of a machine, every hash compared before the exchange.

    `still` stops the user's processes for that moment; `before_exchange` may refuse it.
    Errors: RestoreProblem (the target is as before), StorageUnreachable, SnapshotNotFound, PathNotFound; AgentLost
    (unknown).
    """
    repository = await asyncio.to_thread(vaults.repository, workspace_id)
    try:
        async with vaults.reading(workspace_id, manifest):
            return await restore_workspace(
                link,
                repository,
                gate,
                gate_url,
                manifest,
                on_progress=on_progress,
                choice=choice,
                still=still,
                before_exchange=before_exchange,
            )
    except VaultError as error:
        raise explain_vault(error) from error
    except AgentFailed as error:
        raise RestoreProblem(f"The machine could not restore the workspace: {error.detail}") from error


async def compare(vaults: Vaults, link: AgentLink, *, workspace_id: str, manifest: str) -> Comparison:
    """Hash the workspace on the machine and compare it with a snapshot.

    Errors: RestoreProblem, StorageUnreachable; AgentLost (unknown).
    """
    repository = await asyncio.to_thread(vaults.repository, workspace_id)
    try:
        return await compare_workspace(link, repository, manifest)
    except VaultError as error:
        raise explain_vault(error) from error
    except AgentFailed as error:
        raise RestoreProblem(f"The machine could not compare its workspace: {error.detail}") from error
