"""The sandbox's log in JSON lines: each request, each decision about a fault, each change of a machine's state.

Two logs of the same scenario can be compared. Bodies stand there as hashes, and keys not at all.
"""

import hashlib
import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

_KEPT_LINES = 20_000
_FILE_LIMIT = 16 << 20

Line = dict[str, Any]


class Journal:
    """Lines in memory and in a file; once the file is full it becomes `.old` and a new one is begun."""

    def __init__(self, path: Path, now_s: Callable[[], float]) -> None:
        self.path = path
        self._now_s = now_s
        self._lines: deque[Line] = deque(maxlen=_KEPT_LINES)
        self._unwritten: list[Line] = []
        self._seq = 0

    def write(self, kind: str, entity: str, **facts: Any) -> None:
        """Add a line: `kind` is request, decision or state."""
        self._seq += 1
        line = {"seq": self._seq, "virtual_time": round(self._now_s(), 6), "kind": kind, "entity": entity, **facts}
        self._lines.append(line)
        self._unwritten.append(line)

    def lines(self, after: int = 0) -> list[Line]:
        """Return the lines that are still in memory, from the one after that `seq`."""
        return [line for line in self._lines if line["seq"] > after]

    def flush(self) -> None:
        """Write what is new to the file."""
        if not self._unwritten:
            return
        text = "".join(json.dumps(line) + "\n" for line in self._unwritten)
        self._unwritten.clear()
        with self.path.open("a") as stream:
            stream.write(text)
            full = stream.tell() > _FILE_LIMIT
        if full:
            self.path.replace(self.path.with_suffix(".old"))

    def clear(self) -> None:
        """Begin anew."""
        self._lines.clear()
        self._unwritten.clear()
        self._seq = 0
        self.path.unlink(missing_ok=True)


def body_hash(body: bytes) -> str:
    """Return a short fingerprint of a body."""
    return hashlib.sha256(body).hexdigest()[:16]


def first_difference(one: Iterable[Line], other: Iterable[Line]) -> tuple[Line | None, Line | None] | None:
    """Compare two runs entity by entity, in the order of each; return the first two lines that differ, or None.

    What depends on the moment is left out: numbers and times of lines, and the bodies of replies.
    """
    left, right = _by_entity(one), _by_entity(other)
    for entity in [*left, *(name for name in right if name not in left)]:
        mine, theirs = left.get(entity, []), right.get(entity, [])
        for at in range(max(len(mine), len(theirs))):
            a, b = (lines[at] if at < len(lines) else None for lines in (mine, theirs))
            if a is None or b is None or _lasting(a) != _lasting(b):
                return a, b
    return None


def read_journal(path: Path) -> list[Line]:
    """Read a log file.

    Errors: ValueError naming the line that is no JSON object.
    """
    lines = []
    for number, text in enumerate(path.read_text().splitlines(), 1):
        try:
            line = json.loads(text)
            lines.append({"seq": int(line["seq"]), **line})
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"line {number} of {path} is not a line of a sandbox's log") from error
    return lines


def _by_entity(lines: Iterable[Line]) -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        if line["kind"] in ("request", "decision"):
            found[f"{line['kind']} {line.get('rule', '')} {line['entity']}"].append(line)
    return dict(found)


def _lasting(line: Line) -> Line:
    kept = {name: value for name, value in line.items() if name not in ("seq", "virtual_time", "reply")}
    return {**kept, "status": (line.get("reply") or {}).get("status")}
