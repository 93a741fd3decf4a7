"""A marketplace that speaks Vast.ai's REST API over real machines on this computer: folders, processes, SSH."""

from collections.abc import Callable

from dumont.sandbox.client import LedgerLine, SandboxControl, SandboxControlError
from dumont.sandbox.journal import first_difference, read_journal
from dumont.sandbox.scenario import with_scenario
from dumont.sandbox.settings import SandboxRefused, SandboxSettings

__all__ = [
    "LedgerLine",
    "SandboxControl",
    "SandboxControlError",
    "SandboxRefused",
    "SandboxSettings",
    "first_difference",
    "read_journal",
    "run",
    "with_scenario",
]


def run(settings: SandboxSettings, tell: Callable[[str], None] | None = None) -> None:
    """Serve a sandbox until it is told to stop; see `dumont.sandbox.server.run`.

    Errors: SandboxRefused with a sentence for a person when it cannot start.
    """
    # The server's imports take half a second, which those who only want the control client need not pay.
    from dumont.sandbox.server import run as serve

    serve(settings, tell)
