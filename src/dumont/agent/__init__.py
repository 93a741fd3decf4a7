"""The agent: a small program on the rented machine, and the control plane's end of the conversation with it."""

from dumont.agent.bundle import Interpreter, bundle_for
from dumont.agent.errors import AgentFailed, AgentLost
from dumont.agent.link import AgentLink, Hello, WireLike
from dumont.agent.protocol import Progress
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
