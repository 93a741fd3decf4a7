"""The command line: a face of the public API for people and scripts, with no door of its own.

`dumont.app` mounts it with `app.add_typer(dumont.cli.commands)`.
"""

from dumont.cli.app import app as commands
from dumont.cli.app import main

__all__ = ["commands", "main"]
