"""Saved workspaces: rows that people see and the work with the vault behind them."""

from dumont.snapshots.api import router as _router
from dumont.snapshots.keeping import also_needed
from dumont.snapshots.keeping_api import router as _keeping_router
from dumont.snapshots.keeping_queries import Verdicts, verdicts
from dumont.snapshots.leases import Leases
from dumont.snapshots.model import (
    RestoreProblem,
    Snapshot,
    SnapshotFailed,
    SnapshotIncomplete,
    SnapshotInUse,
    SnapshotNotFound,
    SnapshotProtected,
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
from dumont.snapshots.workflows import collect_workspace

routers = (_keeping_router, _router)
"""All routes of snapshots; those with fixed words before those with an id."""

__all__ = [
    "Leases",
    "RestoreProblem",
    "Snapshot",
    "SnapshotFailed",
    "SnapshotInUse",
    "SnapshotIncomplete",
    "SnapshotNotFound",
    "SnapshotProtected",
    "StorageUnreachable",
    "Vaults",
    "Verdicts",
    "VerificationProblem",
    "Workspace",
    "also_needed",
    "begin_snapshot",
    "collect_workspace",
    "compare",
    "complete_snapshot",
    "create_workspace",
    "fail_snapshot",
    "get_snapshot",
    "restore",
    "routers",
    "save",
    "verdicts",
    "verify",
]
