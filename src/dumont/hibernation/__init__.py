"""Sleep without paying and wake without loss."""

from dumont.hibernation.api import routers
from dumont.hibernation.drying import DrySweep
from dumont.hibernation.restoring import restore_running as restore_workflow
from dumont.hibernation.sleep import hibernate as hibernate_workflow
from dumont.hibernation.wake import wake as wake_workflow

__all__ = ["DrySweep", "hibernate_workflow", "restore_workflow", "routers", "wake_workflow"]
