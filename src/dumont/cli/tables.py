"""Tables and documents on stdout: rich on a terminal, plain aligned columns in a pipe, JSON when asked for."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

_GAP = "  "


@dataclass(frozen=True)
class Column:
    """One column: its heading, and whether its cells are figures (then they stand to the right)."""

    heading: str
    figures: bool = False


def show_json(document: Any) -> None:
    """Write one JSON document to stdout."""
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def show_table(columns: Sequence[Column], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """Write a table to stdout; `empty` is the sentence for no rows."""
    cells = [list(row) for row in rows]
    if not cells:
        print(empty)
    elif sys.stdout.isatty():
        _show_rich(columns, cells)
    else:
        _show_plain(columns, cells)


def show_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Write names and values, one pair a line."""
    pairs = list(facts)
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        print(f"{name.ljust(width)}{_GAP}{value}")


def _show_plain(columns: Sequence[Column], cells: list[list[str]]) -> None:
    table = [[column.heading for column in columns], *cells]
    widths = [max(len(row[at]) for row in table) for at in range(len(columns))]
    for row in table:
        shown = (
            cell.rjust(width) if column.figures else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        )
        print(_GAP.join(shown).rstrip())


def _show_rich(columns: Sequence[Column], cells: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column.heading, justify="right" if column.figures else "left", no_wrap=True)
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(table)
