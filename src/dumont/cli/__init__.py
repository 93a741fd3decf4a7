"""The command line: a face of the public API for people and scripts, with no door of its own.

`dumont.app` makes its own group of `COMMANDS` and its own entries: `LazyGroup({**COMMANDS, "up": Entry(...)})`.
"""

from dumont.cli.app import COMMANDS, main
from dumont.cli.exit import CliError, ends_well
from dumont.cli.lazy import Entry, LazyGroup

__all__ = ["COMMANDS", "CliError", "Entry", "LazyGroup", "ends_well", "main"]
