"""Versioned sync: what is to be synced and how often, every run of it, and what can go wrong."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from dumont.core import Act, Problem
from dumont.db import Base


class SyncPolicy(Base):
    """What of an instance's workspace is synced, how often, and how much of the history is kept.

    `guard_run_id` is the run that tripped the deletion guard; while it is set nothing is synced by itself.
    """

    __tablename__ = "sync_policy"

    instance_id: Mapped[str] = mapped_column(Text, primary_key=True)
    team_id: Mapped[str] = mapped_column(Text)
    workspace_id: Mapped[str] = mapped_column(Text)
    enabled: Mapped[bool]
    interval_seconds: Mapped[int]
    paths: Mapped[list[str]] = mapped_column(JSONB)
    exclude: Mapped[list[str]] = mapped_column(JSONB)
    keep_last: Mapped[int]
    bandwidth_mbps_max: Mapped[float | None]
    deletion_guard_percent: Mapped[int]
    guard_run_id: Mapped[str | None] = mapped_column(Text)
    consecutive_failures: Mapped[int]
    next_run_at: Mapped[datetime | None]
    pruned_at: Mapped[datetime | None]


class SyncRun(Base):
    """One piece of work on a workspace's history; one at a time. A `ready` or `held` sync is a point in time.

    `repository_bytes` is what the packs took up after it. Sizes in bytes, `seconds` real ones.
    """

    __tablename__ = "sync_run"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    team_id: Mapped[str] = mapped_column(Text)
    workspace_id: Mapped[str] = mapped_column(Text)
    instance_id: Mapped[str] = mapped_column(Text)
    operation_id: Mapped[str | None] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text)
    snapshot_id: Mapped[str | None] = mapped_column(Text)
    parent_id: Mapped[str | None] = mapped_column(Text)
    paths: Mapped[list[str]] = mapped_column(JSONB)
    exclude: Mapped[list[str]] = mapped_column(JSONB)
    files_new: Mapped[int | None] = mapped_column(BigInteger)
    files_changed: Mapped[int | None] = mapped_column(BigInteger)
    files_unmodified: Mapped[int | None] = mapped_column(BigInteger)
    files_total: Mapped[int | None] = mapped_column(BigInteger)
    files_vanished: Mapped[int | None] = mapped_column(BigInteger)
    bytes_read: Mapped[int | None] = mapped_column(BigInteger)
    bytes_added: Mapped[int | None] = mapped_column(BigInteger)
    bytes_uploaded: Mapped[int | None] = mapped_column(BigInteger)
    bytes_resumed: Mapped[int | None] = mapped_column(BigInteger)
    repository_bytes: Mapped[int | None] = mapped_column(BigInteger)
    seconds: Mapped[float | None]
    unreadable: Mapped[list[str]] = mapped_column(JSONB)
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    forgotten_at: Mapped[datetime | None]
    pruned_at: Mapped[datetime | None]
    problem: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))


class SyncUnavailable(Problem):
    """There is no restic, here or on the machine, and none can be had."""

    code, status, act = "sync-unavailable", 409, Act.FIX
    title = "Versioned sync is not available here"


class SyncFailed(Problem):
    """The sync did not become a point in time; earlier points are as they were, and what was sent is used next time."""

    code, status, act = "sync-failed", 409, Act.REPORT
    title = "The sync failed"


class SyncEmpty(Problem):
    """The chosen paths hold no files, so there is no point to make; where there were some before, the guard trips."""

    code, status, act = "sync-empty", 409, Act.FIX
    title = "There is nothing to sync"


class SyncRestoreFailed(Problem):
    """Nothing was put in place on the machine; its files are as they were."""

    code, status, act = "sync-restore-failed", 409, Act.REPORT
    title = "The files were not restored"


class SyncPointNotFound(Problem):
    """The instance's history has no such point in time, or that point has no such path."""

    code, status, act = "sync-point-not-found", 404, Act.FIX
    title = "There is no such point in the history"


class SyncGuarded(Problem):
    """Too many files vanished, so nothing more is synced until somebody accepts it; extra: run_id."""

    code, status, act = "sync-guarded", 409, Act.FIX
    title = "The deletion guard has stopped the sync"
