"""Workspaces and their snapshots: what outlives machines."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Text
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


class SnapshotNotFound(Problem):
    """No snapshot of this team has this id."""

    code, status, act = "snapshot-not-found", 404, Act.FIX
    title = "There is no such snapshot"


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


class RestoreProblem(Problem):
    """The restore did not finish; the target is as it was before."""

    code, status, act = "restore-verification-failed", 500, Act.REPORT
    title = "The restore failed"
