"""The processes of a machine: started with a clean environment and a mark, found by the mark, ended for good."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_NUMBER = b"DUMONT_MACHINE="
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def environment(number: int, marker: str, folder: Path, extra: dict[str, str]) -> dict[str, str]:
    """Return the environment of a machine's commands: nothing of the sandbox's own, and the two marks last."""
    root = folder / "root"
    return {
        "LANG": "C.UTF-8",
        **extra,
        "HOME": str(root),
        "USER": "root",
        "LOGNAME": "root",
        "SHELL": "/bin/bash",
        "PATH": f"{folder / 'bin'}:{_SYSTEM_PATH}",
        "TMPDIR": str(root / "tmp"),
        "VAST_CONTAINERLABEL": f"C.{number}",
        "DUMONT_MACHINE": str(number),
        "DUMONT_SANDBOX": marker,
    }


class _Census:
    """The living processes of every machine of one sandbox; who asks while others wait shares one look with them."""

    def __init__(self, marker: str) -> None:
        self._mark = f"DUMONT_SANDBOX={marker}".encode()
        self._turn = threading.Lock()
        self._begun = float("-inf")
        self._found: Mapping[bytes, Sequence[int]] = {}

    def take(self) -> Mapping[bytes, Sequence[int]]:
        """Return the processes by their machine's number, as a look found them that began after this call did."""
        asked = time.monotonic()
        with self._turn:
            if self._begun < asked:
                begun = time.monotonic()
                self._found = self._look()
                self._begun = begun
            return self._found

    def _look(self) -> Mapping[bytes, Sequence[int]]:
        found: dict[bytes, list[int]] = {}
        for entry in os.listdir("/proc"):  # noqa: PTH208 - a plain listing is much cheaper here
            if entry.isdigit():
                number = _machine_of(f"/proc/{entry}", self._mark)
                if number is not None:
                    found.setdefault(number, []).append(int(entry))
        return found


_census: dict[str, _Census] = {}


def marked(marker: str, number: int | None = None) -> list[int]:
    """Return the living processes of a machine, or of all machines of a sandbox; only of the own user.

    Guarantees: processes that left their session are found too, because the mark is in their environment.
    """
    machines = _census.setdefault(marker, _Census(marker)).take()
    if number is not None:
        return list(machines.get(str(number).encode(), ()))
    return [pid for pids in machines.values() for pid in pids]


def end(marker: str, number: int | None = None, *, grace: float = 0.5) -> None:
    """End the processes: TERM, up to `grace` real seconds, then KILL until none is left; returns when all are gone.

    A process that is frozen stays frozen and is killed so, as in a container that is stopped.

    Errors: RuntimeError if a process outlives KILL for five seconds.
    """
    deadline = time.monotonic() + grace
    if grace > 0:
        _signal(marked(marker, number), signal.SIGTERM)
        while time.monotonic() < deadline and marked(marker, number):
            time.sleep(0.02)
    deadline = time.monotonic() + 5
    clean = 0
    # Twice, because a process has no environment for a moment while it becomes another program.
    while clean < 2:
        left = marked(marker, number)
        clean = 0 if left else clean + 1
        if time.monotonic() > deadline and left:
            raise RuntimeError(f"processes {left} outlived SIGKILL")
        _signal(left, signal.SIGKILL)
        time.sleep(0.005)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _machine_of(folder: str, mark: bytes) -> bytes | None:
    """Return the number of the machine that a process belongs to; None for a stranger's or one that is gone."""
    try:
        if os.stat(folder).st_uid != os.getuid():  # noqa: PTH116
            return None
        with open(f"{folder}/environ", "rb") as stream:  # noqa: PTH123
            environ = stream.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    if mark not in environ:
        return None
    words = environ.split(b"\0")
    numbers = [word.removeprefix(_NUMBER) for word in words if word.startswith(_NUMBER)]
    return numbers[-1] if mark in words and numbers else None
