"""A group of commands that imports only the one it is asked for, so that none pays for the others."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click


@dataclass(frozen=True)
class Entry:
    """Where a command lives (`package.module:name`) and under which heading the help shows it."""

    place: str
    heading: str

    def load(self) -> click.Command:
        """Import the command."""
        module, _, attribute = self.place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


class LazyGroup(click.Group):
    """A click group over entries; the help lists them under their headings, in the order given."""

    def __init__(self, entries: Mapping[str, Entry], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.entries = dict(entries)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return one command, imported now."""
        entry = self.entries.get(cmd_name)
        return entry.load() if entry else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands under their headings."""
        width = max(len(name) for name in self.entries)
        for heading in dict.fromkeys(entry.heading for entry in self.entries.values()):
            rows = [
                (name.ljust(width), entry.load().get_short_help_str(limit=200))
                for name, entry in self.entries.items()
                if entry.heading == heading
            ]
            with formatter.section(heading):
                formatter.write_dl(rows)
