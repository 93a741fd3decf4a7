"""Parts of a snapshot: which of its paths are meant, and where they are to lie in a workspace."""

import fnmatch
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dumont.vault.errors import NotInSnapshot
from dumont.vault.manifest import Entry, Kind

_SPECIAL = re.compile(r"[*?\[]")
_NEW_FOLDER_MODE = 0o755


@dataclass(frozen=True)
class Choice:
    """What of a snapshot is meant: paths and patterns below its root (none: everything), and the folder they go to.

    `into` is relative to the workspace, empty for the workspace itself; what is chosen keeps its path below it.
    `replace`: a chosen folder takes the place of the one that is there; else only what the snapshot has is written.
    """

    paths: tuple[str, ...] = ()
    into: str = ""
    replace: bool = False

    @property
    def whole(self) -> bool:
        """Whether the workspace becomes what the snapshot is, with nothing beside it."""
        return self.replace and not self.paths and not self.into


@dataclass(frozen=True)
class Chosen:
    """The entries that were chosen, below their new folder, with the folders on the way to them.

    `places` are the paths that are put into the workspace, each with what lies below it where that is to be replaced.
    """

    entries: list[Entry]
    places: list[bytes]


def choose(entries: Sequence[Entry], choice: Choice) -> Chosen:
    """Return what a choice means.

    Guarantees: entries keep the rules of a manifest; hard links among them stay, those to others become plain files.
    Errors: NotInSnapshot where a path or pattern fits nothing.
    """
    roots = _roots(entries, choice.paths)
    frame = {b"/".join(parts[:n]) for parts in (root.split(b"/") for root in roots) for n in range(1, len(parts))}
    inside = {entry.path for entry in _below(entries, roots)}
    wanted = [entry for entry in entries if entry.path in inside or entry.path in frame]
    into = choice.into.encode("utf-8", "surrogateescape")
    placed = [entry.changed(path=_join(into, entry.path)) for entry in wanted]
    tops = [path for path in sorted(roots) if path.rpartition(b"/")[0] not in inside]
    if not choice.paths and into and (choice.replace or not entries):
        places = [into]
    else:
        places = [_join(into, path) for path in (tops if choice.replace else sorted(inside))]
    return Chosen([*_folders(into), *_regrouped(placed)], places)


def chosen_entries(entries: Sequence[Entry], paths: Sequence[str]) -> list[Entry]:
    """Return what paths and patterns mean, with all that lies below it; everything where there are none.

    Errors: NotInSnapshot.
    """
    return list(_below(entries, _roots(entries, paths)))


def _roots(entries: Sequence[Entry], patterns: Sequence[str]) -> set[bytes]:
    """Return the paths that the patterns name themselves; those at the top where there are no patterns."""
    names = {entry.path.decode("utf-8", "surrogateescape"): entry.path for entry in entries}
    if not patterns:
        return {entry.path for entry in entries if b"/" not in entry.path}
    roots: set[bytes] = set()
    absent = []
    for pattern in patterns:
        if pattern in names:
            roots.add(names[pattern])
            continue
        parts = pattern.split("/") if _SPECIAL.search(pattern) else []
        found = [path for name, path in names.items() if parts and _fits(parts, name.split("/"))]
        roots.update(found)
        absent += [] if found else [pattern]
    if absent:
        raise NotInSnapshot(absent)
    return roots


def _fits(pattern: list[str], names: list[str]) -> bool:
    """Tell whether a path is what a pattern means: `*` and `?` stay within a name, `**` stands for any folders."""
    last = len(pattern) - 1
    at = _skipped({0}, pattern)
    for name in names:
        onward: set[int] = set()
        for place in at - {last + 1}:
            if pattern[place] == "**":
                onward |= {place, place + 1} if place == last else {place}
            elif fnmatch.fnmatchcase(name, pattern[place]):
                onward.add(place + 1)
        at = _skipped(onward, pattern)
    return last + 1 in at


def _skipped(at: set[int], pattern: list[str]) -> set[int]:
    """Add the places behind every `**` that may stand for no folder; at the end it stands for one name at least."""
    for place in range(len(pattern) - 1):
        if place in at and pattern[place] == "**":
            at.add(place + 1)
    return at


def _below(entries: Sequence[Entry], roots: set[bytes]) -> Iterator[Entry]:
    """Yield the roots and all that lies below them; folders stand before what they hold."""
    inside: set[bytes] = set()
    for entry in entries:
        if entry.path in roots or entry.path.rpartition(b"/")[0] in inside:
            if entry.kind is Kind.FOLDER:
                inside.add(entry.path)
            yield entry


def _join(into: bytes, path: bytes) -> bytes:
    return into + b"/" + path if into else path


def _folders(into: bytes) -> Iterator[Entry]:
    """Yield the folder that files go to, and those above it, as they come to be where they are not there."""
    parts = into.split(b"/") if into else []
    for number in range(1, len(parts) + 1):
        yield Entry(b"/".join(parts[:number]), Kind.FOLDER, _NEW_FOLDER_MODE, 0, 0, time.time_ns())


def _regrouped(entries: list[Entry]) -> Iterator[Entry]:
    """Number hard links by first appearance, as a scan of the restored tree does; one that is alone is none."""
    counts = Counter(entry.group for entry in entries if entry.group)
    numbers: dict[int, int] = {}
    for entry in entries:
        group = 0
        if counts[entry.group] > 1:
            group = numbers.setdefault(entry.group, len(numbers) + 1)
        yield entry if group == entry.group else entry.changed(group=group)
