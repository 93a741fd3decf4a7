"""What the processes of a simulation share: the script of the seed of now, who has died where, and what happened.

The driver writes the script to a file; workers and marketplace read it at every boundary, die where it says, and write
each boundary, death and fault as a line of the seed's log. Counts go over all lives, so a boundary is the same again
however the processes take turns.
"""

import json
import os
import signal
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCRIPT = "script.json"


@dataclass(frozen=True)
class Death:
    """Where a process dies by SIGKILL: the `nth` time that anybody comes to this boundary.

    `who` is worker or sandbox. Workers have the boundaries before and after each step (`step`, by its name) and each
    order to the provider (`call`, by its kind); the sandbox those of each order that it carries out (`order`).
    """

    who: str
    kind: str
    name: str
    when: str
    nth: int

    @property
    def place(self) -> tuple[str, str, str, str]:
        """The boundary without the count."""
        return (self.who, self.kind, self.name, self.when)

    def __str__(self) -> str:
        return f"{self.who} dies {self.when} {self.kind} {self.name} #{self.nth}"


@dataclass(frozen=True)
class Script:
    """What a seed asks of the processes. `calm`: no more deaths, and no faults after a restart; `broken`: sabotage."""

    seed: int
    log: str
    deaths: list[Death] = field(default_factory=list)
    rules: list[dict[str, Any]] = field(default_factory=list)
    calm: bool = False
    broken: str | None = None

    def write(self, folder: Path) -> None:
        """Let the processes have it from now on."""
        fresh = folder / f"{SCRIPT}.new"
        fresh.write_text(json.dumps(asdict(self)))
        fresh.replace(folder / SCRIPT)

    @classmethod
    def read(cls, folder: Path) -> "Script":
        """Read the script of now."""
        found = json.loads((folder / SCRIPT).read_text())
        return cls(**{**found, "deaths": [Death(**death) for death in found["deaths"]]})


class Fate:
    """The script as one process meets it."""

    def __init__(self, folder: Path, who: str) -> None:
        self._folder, self._who = folder, who
        self._stamp = 0
        self._script = Script(0, "")
        self._counts: Counter[tuple[str, str, str, str]] = Counter()

    @property
    def script(self) -> Script:
        """The script of now."""
        stamp = (self._folder / SCRIPT).stat().st_mtime_ns
        if stamp != self._stamp:
            self._script, self._stamp = Script.read(self._folder), stamp
            self._counts = _counted(Path(self._script.log))
        return self._script

    def meet(self, kind: str, name: str, when: str) -> None:
        """Come to a boundary: write it down, and die there if it is written so."""
        script = self.script
        place = (self._who, kind, name, when)
        self._counts[place] += 1
        tell(script.log, "\t".join(place))
        here = [death for death in script.deaths if death.place == place and death.nth == self._counts[place]]
        if here and not script.calm:
            tell(script.log, f"death\t{here[0]}")
            os.kill(os.getpid(), signal.SIGKILL)

    def tell(self, text: str) -> None:
        """Write a line of the log."""
        tell(self.script.log, text)


def tell(log: str, text: str) -> None:
    """Add a line to a seed's log; lines of several processes do not mix."""
    with open(log, "a") as stream:  # noqa: PTH123 - one write of one line
        stream.write(f"{time.time():.3f}\t{text}\n")


def _counted(log: Path) -> Counter[tuple[str, str, str, str]]:
    """Count the boundaries that former lives came to."""
    found: Counter[tuple[str, str, str, str]] = Counter()
    for line in log.read_text().splitlines() if log.exists() else []:
        parts = line.split("\t")[1:]
        if len(parts) == 4:
            found[(parts[0], parts[1], parts[2], parts[3])] += 1
    return found
