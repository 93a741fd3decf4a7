"""Saved workspaces: rows that people see and the work with the vault behind them."""

from dumont.snapshots.api import router
from dumont.snapshots.model import (
    RestoreProblem,
    Snapshot,
    SnapshotFailed,
    SnapshotIncomplete,
    SnapshotNotFound,
    StorageUnreachable,
    VerificationProblem,
    Workspace,
)
from dumont.snapshots.queries import get as get_snapshot
from dumont.snapshots.service import (
    Vaults,
    begin_snapshot,
    compare,
    complete_snapshot,
    create_workspace,
    fail_snapshot,
    restore,
    save,
    verify,
)

__all__ = [
    "RestoreProblem",
    "Snapshot",
    "SnapshotFailed",
    "SnapshotIncomplete",
    "SnapshotNotFound",
    "StorageUnreachable",
    "Vaults",
    "VerificationProblem",
    "Workspace",
    "begin_snapshot",
    "compare",
    "complete_snapshot",
    "create_workspace",
    "fail_snapshot",
    "get_snapshot",
    "restore",
    "router",
    "save",
    "verify",
]
