"""A marketplace that speaks Vast.ai's REST API over real machines on this computer: folders, processes, SSH."""

from dumont.sandbox.client import LedgerLine, SandboxControl, SandboxControlError
from dumont.sandbox.journal import first_difference
from dumont.sandbox.settings import SandboxRefused, SandboxSettings

__all__ = [
    "LedgerLine",
    "SandboxControl",
    "SandboxControlError",
    "SandboxRefused",
    "SandboxSettings",
    "first_difference",
    "run",
]


def run(settings: SandboxSettings) -> None:
    """Serve a sandbox until it is told to stop; see `dumont.sandbox.server.run`.

    Errors: SandboxRefused with a sentence for a person when it cannot start.
    """
    # The server's imports take half a second, which those who only want the control client need not pay.
    from dumont.sandbox.server import run as serve

    serve(settings)
