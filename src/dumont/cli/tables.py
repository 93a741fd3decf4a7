"""Tables and documents on stdout: aligned columns, or JSON when asked for.

Drawn here: importing rich costs as much as a third of all that `dumont ps` does.
"""

import json
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

_GAP = "  "
_NARROWEST = 6
_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"


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
    """Write a table to stdout; `empty` is the sentence for no rows.

    On a terminal words are cut to fit its width, figures never; in a pipe nothing is cut.
    """
    cells = [list(row) for row in rows]
    if not cells:
        print(empty)
        return
    terminal = sys.stdout.isatty()
    room = shutil.get_terminal_size().columns if terminal else None
    heading, *lines = lay_out(columns, cells, room)
    print(f"{_BOLD}{heading}{_PLAIN}" if terminal else heading)
    for line in lines:
        print(line)


def lay_out(columns: Sequence[Column], cells: list[list[str]], room: int | None) -> list[str]:
    """Return the lines of a table, the headings first; `room` is the width to fit into where that is possible."""
    table = [[column.heading for column in columns], *cells]
    widths = [max(_width(row[at]) for row in table) for at in range(len(columns))]
    if room is not None:
        _narrow(widths, columns, room)
    return [_line(row, widths, columns) for row in table]


def show_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Write names and values, one pair a line."""
    pairs = list(facts)
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        print(f"{name.ljust(width)}{_GAP}{value}")


def _narrow(widths: list[int], columns: Sequence[Column], room: int) -> None:
    words = [at for at, column in enumerate(columns) if not column.figures]
    while sum(widths) + len(_GAP) * (len(widths) - 1) > room:
        widest = max(words, key=lambda at: widths[at])
        if widths[widest] <= max(_NARROWEST, len(columns[widest].heading)):
            return
        widths[widest] -= 1


def _line(row: Sequence[str], widths: Sequence[int], columns: Sequence[Column]) -> str:
    shown = []
    for cell, width, column in zip(row, widths, columns, strict=True):
        cut = _cut(cell, width)
        blank = " " * (width - _width(cut))
        shown.append(blank + cut if column.figures else cut + blank)
    return _GAP.join(shown).rstrip()


def _cut(cell: str, width: int) -> str:
    if _width(cell) <= width:
        return cell
    kept = cell
    while kept and _width(kept) > width - 1:
        kept = kept[:-1]
    return kept + "…"


def _width(cell: str) -> int:
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in cell)
