"""Saved workspaces: rows that people see and the work with the vault behind them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dumont.snapshots.api import read_snapshot
from dumont.snapshots.api import router as _router
from dumont.snapshots.figures import cost_month
from dumont.snapshots.keeping import also_needed
from dumont.snapshots.keeping_api import router as _keeping_router
from dumont.snapshots.keeping_queries import Verdicts, verdicts
from dumont.snapshots.leases import Leases
from dumont.snapshots.looking import preview_operation
from dumont.snapshots.model import (
    PathNotAllowed,
    PathNotFound,
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
from dumont.snapshots.places import ROOT, PathText, choice_of, workspace_path, workspace_paths
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

if TYPE_CHECKING:
    from dumont.snapshots.bulk import Bucket, BulkFailed, fetch_tree, send_tree
    from dumont.snapshots.here import agent_here
    from dumont.snapshots.importing import begin_import, end_import, fail_import, find_ready

routers = (_keeping_router, _router)
"""All routes of snapshots; those with fixed words before those with an id."""

__all__ = [
    "ROOT",
    "Bucket",
    "BulkFailed",
    "Leases",
    "PathNotAllowed",
    "PathNotFound",
    "PathText",
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
    "agent_here",
    "also_needed",
    "begin_import",
    "begin_snapshot",
    "choice_of",
    "collect_workspace",
    "compare",
    "complete_snapshot",
    "cost_month",
    "create_workspace",
    "end_import",
    "fail_import",
    "fail_snapshot",
    "fetch_tree",
    "find_ready",
    "get_snapshot",
    "preview_operation",
    "read_snapshot",
    "restore",
    "routers",
    "save",
    "send_tree",
    "verdicts",
    "verify",
    "workspace_path",
    "workspace_paths",
]

_LATER = {
    **dict.fromkeys(("Bucket", "BulkFailed", "fetch_tree", "send_tree"), "bulk"),
    **dict.fromkeys(("begin_import", "end_import", "fail_import", "find_ready"), "importing"),
    "agent_here": "here",
}


def __getattr__(name: str) -> Any:
    """Bring what carries plain trees only where it is asked for: servers and workers never do."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"dumont.snapshots.{_LATER[name]}"), name)
