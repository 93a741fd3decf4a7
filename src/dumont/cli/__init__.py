"""The command line: a face of the public API for people and scripts, with no door of its own.

`dumont.app` makes its own group of `COMMANDS` and its own entries: `LazyGroup({**COMMANDS, "up": Entry(...)})`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from dumont.cli.app import COMMANDS, main
from dumont.cli.lazy import Entry, LazyGroup

if TYPE_CHECKING:
    from dumont.cli.amounts import shown
    from dumont.cli.exit import CliError, ends_well
    from dumont.cli.keys import register_key
    from dumont.cli.progress import follow
    from dumont.cli.session import Signed, sign_in
    from dumont.cli.tables import Column, show_json, show_table

_LATER = {
    "CliError": "exit",
    "Column": "tables",
    "Signed": "session",
    "ends_well": "exit",
    "follow": "progress",
    "register_key": "keys",
    "show_json": "tables",
    "show_table": "tables",
    "shown": "amounts",
    "sign_in": "session",
}
"""Names of this door whose modules are imported at first use, so that a command pays only for its own."""

__all__ = [
    "COMMANDS",
    "CliError",
    "Column",
    "Entry",
    "LazyGroup",
    "Signed",
    "ends_well",
    "follow",
    "main",
    "register_key",
    "show_json",
    "show_table",
    "shown",
    "sign_in",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(name)
    return getattr(importlib.import_module(f"dumont.cli.{_LATER[name]}"), name)
