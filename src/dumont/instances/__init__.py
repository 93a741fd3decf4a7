"""Rented machines from launch to destruction, under ids that outlive the machines."""

from dumont.instances.acquire import PATIENT, Wish, acquire, named
from dumont.instances.api import read_instance, router, show_begun
from dumont.instances.documents import InstanceDocument
from dumont.instances.keys_api import router as keys_router
from dumont.instances.losses import Losses
from dumont.instances.machines import boot, start, stop, stop_again
from dumont.instances.model import (
    HostLost,
    Instance,
    InstanceNotFound,
    OperationInProgress,
    Rental,
    SshUnreachable,
    Status,
)
from dumont.instances.needed import needed_snapshots
from dumont.instances.power import pause as pause_workflow
from dumont.instances.power import reboot as reboot_workflow
from dumont.instances.power import resume as resume_workflow
from dumont.instances.queries import get_rental, rentals_of
from dumont.instances.release import release
from dumont.instances.service import expect, find_instance, move, same_again
from dumont.instances.service import start as start_operation
from dumont.instances.shell import drop_link, explain_remote, hold_link
from dumont.instances.stray_api import router as stray_router
from dumont.instances.sweeps import Sweep, begin_stopping, finish_destroying
from dumont.instances.true_ups import true_up_ended
from dumont.instances.watch import keep_watch
from dumont.instances.watch_queries import WatchReport, watch_report
from dumont.instances.workflows import take_machine, wish_of
from dumont.instances.world import Held, Patience, World

__all__ = [
    "PATIENT",
    "Held",
    "HostLost",
    "Instance",
    "InstanceDocument",
    "InstanceNotFound",
    "Losses",
    "OperationInProgress",
    "Patience",
    "Rental",
    "SshUnreachable",
    "Status",
    "Sweep",
    "WatchReport",
    "Wish",
    "World",
    "acquire",
    "begin_stopping",
    "boot",
    "drop_link",
    "expect",
    "explain_remote",
    "find_instance",
    "finish_destroying",
    "get_rental",
    "hold_link",
    "keep_watch",
    "keys_router",
    "move",
    "named",
    "needed_snapshots",
    "pause_workflow",
    "read_instance",
    "reboot_workflow",
    "release",
    "rentals_of",
    "resume_workflow",
    "router",
    "same_again",
    "show_begun",
    "start",
    "start_operation",
    "stop",
    "stop_again",
    "stray_router",
    "take_machine",
    "true_up_ended",
    "watch_report",
    "wish_of",
]
