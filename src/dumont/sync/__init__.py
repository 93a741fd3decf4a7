"""Versioned sync: the history of a workspace, kept by restic on the machine and guarded by us."""

from dumont.sync.api import router
from dumont.sync.workflows import begin_due

__all__ = ["begin_due", "router"]
