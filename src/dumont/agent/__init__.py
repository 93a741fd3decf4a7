"""The agent: a small program on the rented machine, and the control plane's end of the conversation with it."""

from typing import TYPE_CHECKING, Any

from dumont.agent.errors import AgentFailed, AgentLost
from dumont.agent.protocol import Progress

if TYPE_CHECKING:
    from dumont.agent.bundle import Interpreter, bundle_for
    from dumont.agent.link import AgentLink, Hello, WireLike
    from dumont.agent.pipes import Pipes
    from dumont.agent.start import HandsLike, start_agent
    from dumont.agent.workspace import (
        Comparison,
        Restored,
        SavedSnapshot,
        compare_workspace,
        restore_workspace,
        save_workspace,
    )

__all__ = [
    "AgentFailed",
    "AgentLink",
    "AgentLost",
    "Comparison",
    "HandsLike",
    "Hello",
    "Interpreter",
    "Pipes",
    "Progress",
    "Restored",
    "SavedSnapshot",
    "WireLike",
    "bundle_for",
    "compare_workspace",
    "restore_workspace",
    "save_workspace",
    "start_agent",
]

_PLACES = {
    **dict.fromkeys(("Interpreter", "bundle_for"), "bundle"),
    **dict.fromkeys(("AgentLink", "Hello", "WireLike"), "link"),
    "Pipes": "pipes",
    **dict.fromkeys(("HandsLike", "start_agent"), "start"),
    **dict.fromkeys(("Comparison", "Restored", "SavedSnapshot"), "workspace"),
    **dict.fromkeys(("compare_workspace", "restore_workspace", "save_workspace"), "workspace"),
}


def __getattr__(name: str) -> Any:
    """Load the control plane's end where it is asked for: machines do without it and start in half the time."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"dumont.agent.{_PLACES[name]}"), name)
