"""Workspaces and their snapshots: what outlives machines."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Text, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from dumont.core import Act, Problem
from dumont.db import Base


class Workspace(Base):
    """The files of one instance, whatever machine they lie on. Its id names its repository in the vault.

    `epoch` rises with every writer: a manifest of an older epoch never replaces a newer one.
    """

    __tablename__ = "workspace"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    team_id: Mapped[str] = mapped_column(Text)
    epoch: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]


class Snapshot(Base):
    """One saved state of a workspace; `ready` only after it was read back and verified. Sizes in bytes."""

    __tablename__ = "snapshot"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    team_id: Mapped[str] = mapped_column(Text)
    workspace_id: Mapped[str] = mapped_column(Text)
    instance_id: Mapped[str] = mapped_column(Text)
    operation_id: Mapped[str] = mapped_column(Text)
    parent_id: Mapped[str | None] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text)
    manifest: Mapped[str | None] = mapped_column(Text)
    merkle_root: Mapped[str | None] = mapped_column(Text)
    files: Mapped[int | None] = mapped_column(BigInteger)
    bytes_total: Mapped[int | None] = mapped_column(BigInteger)
    bytes_new: Mapped[int | None] = mapped_column(BigInteger)
    bytes_stored: Mapped[int | None] = mapped_column(BigInteger)
    seconds: Mapped[float | None]
    unstable: Mapped[list[str]] = mapped_column(JSONB)
    read_errors: Mapped[list[str]] = mapped_column(JSONB)
    bytes_verified: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime]
    completed_at: Mapped[datetime | None]
    verified_at: Mapped[datetime | None]
    problem: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    epoch: Mapped[int | None] = mapped_column(BigInteger)
    begun_at: Mapped[datetime | None] = mapped_column(server_default=func.clock_timestamp())
    name: Mapped[str | None] = mapped_column(Text)
    keep_forever: Mapped[bool] = mapped_column(default=False)
    restore_point: Mapped[bool] = mapped_column(default=False)
    damaged_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]


class Lease(Base):
    """Somebody works on a workspace's repository: writes into it, reads from it, or collects in it.

    Times are the database's. `subject` is the snapshot's id of a writer, the manifest of a reader.
    """

    __tablename__ = "workspace_lease"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    team_id: Mapped[str] = mapped_column(Text)
    workspace_id: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text)
    subject: Mapped[str] = mapped_column(Text)
    epoch: Mapped[int | None] = mapped_column(BigInteger)
    taken_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    expires_at: Mapped[datetime]


class Policy(Base):
    """Which snapshots of an instance are kept, and how often they are read back; an empty `instance_id` is the team's.

    Units: `quick_hours` and `sample_hours` between two checks of a kind, 0 for never.
    """

    __tablename__ = "snapshot_policy"

    team_id: Mapped[str] = mapped_column(Text, primary_key=True)
    instance_id: Mapped[str] = mapped_column(Text, primary_key=True)
    enabled: Mapped[bool]
    keep_last: Mapped[int]
    keep_daily: Mapped[int]
    keep_weekly: Mapped[int]
    quick_hours: Mapped[int]
    sample_hours: Mapped[int]
    updated_at: Mapped[datetime]


class Check(Base):
    """One verification of a snapshot after it was made, and what it found.

    `outcome` is unknown where the store could not answer. `touched` holds files that cannot be had whole, by snapshot.
    """

    __tablename__ = "snapshot_check"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    team_id: Mapped[str] = mapped_column(Text)
    workspace_id: Mapped[str] = mapped_column(Text)
    snapshot_id: Mapped[str] = mapped_column(Text)
    depth: Mapped[str] = mapped_column(Text)
    outcome: Mapped[str] = mapped_column(Text)
    bytes_checked: Mapped[int | None] = mapped_column(BigInteger)
    chunks_checked: Mapped[int | None] = mapped_column(BigInteger)
    packs_checked: Mapped[int | None] = mapped_column(BigInteger)
    missing: Mapped[list[str]] = mapped_column(JSONB)
    damaged: Mapped[list[str]] = mapped_column(JSONB)
    touched: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    detail: Mapped[str | None] = mapped_column(Text)
    seconds: Mapped[float]
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class CollectionRun(Base):
    """One collection in one workspace's repository. Units: bytes as they lie in the store."""

    __tablename__ = "collection"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    team_id: Mapped[str] = mapped_column(Text)
    workspace_id: Mapped[str] = mapped_column(Text)
    packs_marked: Mapped[int] = mapped_column(BigInteger)
    bytes_marked: Mapped[int] = mapped_column(BigInteger)
    packs_deleted: Mapped[int] = mapped_column(BigInteger)
    bytes_freed: Mapped[int] = mapped_column(BigInteger)
    packs_repacked: Mapped[int] = mapped_column(BigInteger)
    problem: Mapped[str | None] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class SnapshotNotFound(Problem):
    """No snapshot of this team has this id."""

    code, status, act = "snapshot-not-found", 404, Act.FIX
    title = "There is no such snapshot"


class SnapshotProtected(Problem):
    """The snapshot is to be kept: for ever, as a restore point, or as the newest of its workspace."""

    code, status, act = "snapshot-protected", 409, Act.FIX
    title = "The snapshot is to be kept"


class SnapshotInUse(Problem):
    """Something needs the snapshot now: an instance that wakes from it, or a restore; extra: used_by."""

    code, status, act = "snapshot-in-use", 409, Act.FIX
    title = "The snapshot is needed"


class SnapshotFailed(Problem):
    """The snapshot could not be taken; nothing was stopped and nothing was lost."""

    code, status, act = "snapshot-failed", 409, Act.REPORT
    title = "The snapshot failed"


class SnapshotIncomplete(Problem):
    """Some files could not be saved, so only the kept machine has them; extra: paths."""

    code, status, act = "snapshot-incomplete", 409, Act.FIX
    title = "Some files are on the kept machine only"


class StorageUnreachable(Problem):
    """The place where snapshots are kept cannot be written or read now (full, gone, refused)."""

    code, status, act = "storage-unreachable", 503, Act.WAIT
    title = "The snapshot storage cannot be used now"


class VerificationProblem(Problem):
    """The snapshot was read back and is not whole, so nothing was stopped or destroyed on its account."""

    code, status, act = "snapshot-verification-failed", 500, Act.REPORT
    title = "The snapshot did not verify"


class PathNotAllowed(Problem):
    """A path does not lie in the workspace."""

    code, status, act = "path-not-allowed", 422, Act.FIX
    title = "The path is not in the workspace"


class PathNotFound(Problem):
    """Paths or patterns that fit nothing in the snapshot; extra: paths."""

    code, status, act = "snapshot-path-not-found", 404, Act.FIX
    title = "The snapshot has no such path"


class RestoreProblem(Problem):
    """The restore did not finish; the target is as it was before."""

    code, status, act = "restore-verification-failed", 500, Act.REPORT
    title = "The restore failed"
