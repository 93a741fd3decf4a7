"""Fold Vast's four status fields and its message into one of our states.

Source: the vocabulary and its lies: "exited" is the rest after a stop, a null status is no news, a queued start
shows cur_state stopped with intended_status running, and new words may appear.
"""

import logging
import re

from dumont.providers.contract import MachineState
from dumont.providers.vast.values import Row, text

_log = logging.getLogger(__name__)

_NEVER_STARTS = re.compile(
    r"OCI runtime create failed|manifest unknown|pull access denied|unauthorized|Error response from daemon", re.I
)
_DOWN = frozenset({"stopped", "exited"})
_COMING = frozenset({None, "created", "loading", "rebooting", "restarting", "recycling", "scheduling"})
_LOST = frozenset({"offline", "unknown"})
_reported: set[str] = set()


def state_of(row: Row, *, reachable: bool) -> tuple[MachineState, str | None]:
    """Return the state and what the provider says about it.

    Guarantees: reads only this one answer; whether a stopped machine was preempted is for those who know what they
    asked. `failed` with "ended" right after a start may be the previous end: believe it when seen again.
    """
    actual, message = text(row, "actual_status"), (text(row, "status_msg") or "")[:300] or None
    intended, current = text(row, "intended_status"), text(row, "cur_state")
    if actual in (None, "created", "loading") and message and _NEVER_STARTS.search(message):
        return MachineState.FAILED, message
    if actual in _LOST:
        return MachineState.UNREACHABLE, message or "The provider has no contact with the host."
    if current == "unloaded":
        return MachineState.STOPPING, "The provider is taking the machine away."
    if intended == "stopped":
        return _wanted_down(actual), message
    if intended == "running":
        return _wanted_up(actual, current, message, reachable)
    if actual in _COMING:
        return MachineState.PROVISIONING, message
    return _unknown(actual, intended), message


def _wanted_down(actual: str | None) -> MachineState:
    if actual in _DOWN:
        return MachineState.STOPPED
    if actual in _COMING or actual == "running":
        return MachineState.STOPPING
    return _unknown(actual, "stopped")


def _wanted_up(
    actual: str | None, current: str | None, message: str | None, reachable: bool
) -> tuple[MachineState, str | None]:
    if current == "stopped" and actual != "running":
        return (MachineState.WAITING_FOR_GPU if message else MachineState.PROVISIONING), message
    if actual == "running":
        return (MachineState.RUNNING if reachable else MachineState.PROVISIONING), message
    if actual in _DOWN:
        return MachineState.FAILED, message or "The machine's container ended."
    if actual in _COMING:
        return MachineState.PROVISIONING, message
    return _unknown(actual, "running"), message


def _unknown(actual: str | None, intended: str | None) -> MachineState:
    word = f"{actual}/{intended}"
    if word not in _reported and len(_reported) < 100:
        _reported.add(word)
        _log.warning("a status that we do not know: %s", word)
    return MachineState.UNKNOWN
