"""Sleep without paying and wake without loss."""

from dumont.hibernation.api import router
from dumont.hibernation.drying import DrySweep
from dumont.hibernation.sleep import hibernate as hibernate_workflow
from dumont.hibernation.wake import wake as wake_workflow

__all__ = ["DrySweep", "hibernate_workflow", "router", "wake_workflow"]
