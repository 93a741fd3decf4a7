"""How policies and runs of sync are shown, and the bodies of requests about them."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from dumont.http import ProblemDocument
from dumont.snapshots import ROOT, PathText
from dumont.sync.model import SyncPolicy, SyncRun

Kind = Literal["sync", "restore", "list", "check", "prune"]


class PolicyBody(BaseModel):
    """What of the workspace is synced, and how often; what is absent stays as it is. Paths lie in `/workspace`."""

    model_config = ConfigDict(extra="ignore")

    enabled: bool | None = None
    interval_seconds: Annotated[int | None, Field(ge=30, le=86_400)] = None
    paths: Annotated[list[PathText] | None, Field(min_length=1, max_length=32)] = None
    exclude: Annotated[list[PathText] | None, Field(max_length=64)] = None
    keep_last: Annotated[int | None, Field(ge=1, le=1000)] = None
    bandwidth_mbps_max: Annotated[float | None, Field(ge=0.01, le=100_000, allow_inf_nan=False)] = None
    deletion_guard_percent: Annotated[int | None, Field(ge=1, le=100)] = None


class PolicyDocument(BaseModel):
    """What is synced and how often, how much is kept, and when the next sync is due."""

    instance_id: str
    enabled: bool
    interval_seconds: int
    paths: list[str]
    exclude: list[str]
    keep_last: int
    bandwidth_mbps_max: float | None
    deletion_guard_percent: int
    guard_tripped: bool
    next_run_at: datetime | None


class RunDocument(BaseModel):
    """One piece of work on the history. A sync that is `ready` or `held` is a point in time; sizes are in bytes.

    `data_added_bytes` is what the machine says it added, `bytes_uploaded` what arrived; `bytes_resumed` had arrived
    with a sync that was cut off.
    """

    id: str
    kind: Kind
    status: Literal["running", "ready", "held", "failed", "stopped"]
    instance_id: str
    operation_id: str | None
    snapshot_id: str | None
    parent_id: str | None
    is_incremental: bool
    paths: list[str]
    files_new: int | None
    files_changed: int | None
    files_unmodified: int | None
    files_vanished: int | None
    files_total: int | None
    bytes_read: int | None
    data_added_bytes: int | None
    bytes_uploaded: int | None
    bytes_resumed: int | None
    repository_bytes: int | None
    duration_seconds: float | None
    bytes_per_second: float | None
    unreadable: list[str]
    started_at: datetime
    finished_at: datetime | None
    forgotten_at: datetime | None
    problem: ProblemDocument | None


class SummaryDocument(BaseModel):
    """What all syncs so far took: the first against the later ones. Unknown until there are such."""

    first_full_seconds: float | None
    median_incremental_seconds: float | None
    speedup: float | None
    dedup_ratio: float | None = Field(description="Bytes of all points to the bytes that were sent.")


class HistoryDocument(BaseModel):
    """A page of runs, newest first, and what they took."""

    runs: list[RunDocument]
    summary: SummaryDocument
    count: int
    total: int | None
    next_cursor: str | None


class PointsDocument(BaseModel):
    """A page of points in time."""

    points: list[RunDocument]
    count: int
    total: int | None
    next_cursor: str | None


class SyncDocument(BaseModel):
    """How the sync of an instance stands; `lag_seconds` since the last one that succeeded."""

    instance_id: str
    enabled: bool
    synced: bool
    is_syncing: bool
    guard_tripped: bool
    last_sync: datetime | None
    lag_seconds: float | None
    last_snapshot_id: str | None
    sync_count: int
    consecutive_failures: int
    next_run_at: datetime | None
    repository_bytes: int
    last_run: RunDocument | None
    last_error: ProblemDocument | None


class TreeBody(BaseModel):
    """What to list of a point."""

    model_config = ConfigDict(extra="ignore")

    path: PathText = ROOT
    limit: Annotated[int, Field(ge=1, le=2000)] = 1000


class SyncRestoreBody(BaseModel):
    """Which paths to bring back, and into which folder of the workspace; without one, to where they were."""

    model_config = ConfigDict(extra="ignore")

    paths: Annotated[list[PathText], Field(min_length=1, max_length=1000)]
    target_path: PathText = ROOT


class CheckBody(BaseModel):
    """How much of the data to read back."""

    model_config = ConfigDict(extra="ignore")

    read_data_percent: Annotated[int, Field(ge=0, le=100)] = 5


class PruneHistoryBody(BaseModel):
    """Whether only to say how much room pruning would give back."""

    model_config = ConfigDict(extra="ignore")

    dry_run: bool = False


class ReleaseBody(BaseModel):
    """The owner's word that the files may be gone."""

    model_config = ConfigDict(extra="ignore")

    accept_deletions: Literal[True]


def shown_path(path: str) -> str:
    """Show a path relative to the workspace as people write it."""
    return ROOT if path == "." else f"{ROOT}/{path}"


def policy_document(policy: SyncPolicy) -> PolicyDocument:
    """Show a policy."""
    names = set(PolicyDocument.model_fields) - {"paths", "exclude", "guard_tripped"}
    return PolicyDocument(
        **{name: getattr(policy, name) for name in names},
        paths=[shown_path(path) for path in policy.paths],
        exclude=[f"{ROOT}{pattern}" if pattern.startswith("/") else pattern for pattern in policy.exclude],
        guard_tripped=policy.guard_run_id is not None,
    )


_SAME = (
    *("id", "kind", "status", "instance_id", "operation_id", "snapshot_id", "parent_id"),
    *("files_new", "files_changed", "files_unmodified", "files_vanished", "files_total", "bytes_read"),
    *("bytes_uploaded", "bytes_resumed", "repository_bytes", "unreadable"),
    *("started_at", "finished_at", "forgotten_at", "problem"),
)


def run_document(run: SyncRun) -> RunDocument:
    """Show a run."""
    rate = run.bytes_read / run.seconds if run.bytes_read is not None and run.seconds else None
    return RunDocument(
        **{name: getattr(run, name) for name in _SAME},
        is_incremental=run.parent_id is not None,
        paths=[shown_path(path) for path in run.paths],
        data_added_bytes=run.bytes_added,
        duration_seconds=run.seconds,
        bytes_per_second=rate,
    )
