"""Stop the user's processes while a workspace is saved, and let them go on afterwards; never anybody else's."""

import json
import os
import signal
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

from dumont.agent.errors import AgentFailed

_CONTAINER_FILES = ("/.dockerenv", "/run/.containerenv")
_SPARED = ("sshd", "sftp-server", "dropbear")
_ROUNDS = 20
_APART_SECONDS = 0.01


class Process(NamedTuple):
    """A process as /proc shows it; `start` tells it from a later one with the same number."""

    pid: int
    name: str
    state: str
    parent: int
    start: int


class Scope(NamedTuple):
    """Whose processes may be frozen: those with this marker in their environment, or all (None) in a container."""

    marker: bytes | None


def scope_of(environ: Mapping[str, str], container_files: Iterable[str] = _CONTAINER_FILES) -> Scope:
    """Decide what belongs to this machine.

    Errors: AgentFailed `not_a_machine` where nothing says that this is a rented machine: it may be somebody's laptop.
    """
    marker = environ.get("DUMONT_MACHINE")
    if marker:
        return Scope(f"DUMONT_MACHINE={marker}".encode())
    if environ.get("VAST_CONTAINERLABEL") or any(os.path.exists(path) for path in container_files):
        return Scope(None)
    raise AgentFailed("not_a_machine", "This is not a container, nothing was frozen.")


class Freezer:
    """Freeze and thaw, with a record on disk so that a later agent can thaw what a killed one froze."""

    def __init__(self, environ: Mapping[str, str], record: str) -> None:
        self._environ = environ
        self._record = record
        self._frozen: dict[int, int] = {}
        self._held_until = 0.0

    def hold(self, seconds: float) -> None:
        """Keep what is frozen for that long although the wire ends: the machine is about to be stopped.

        Guarantees: whoever speaks to this machine next may end the hold at once (`thaw_left`).
        """
        self._held_until = time.monotonic() + seconds
        self._write_record()

    @property
    def hold_left(self) -> float:
        """Seconds for which the hold goes on."""
        return max(0.0, self._held_until - time.monotonic()) if self._frozen else 0.0

    def thaw_left(self) -> int:
        """Thaw what an earlier agent froze if that agent is gone or only holds; return how many processes."""
        try:
            left = json.loads(_read(self._record))
            agent = _process(int(left["agent"][0]))
            if agent is not None and agent.start == left["agent"][1] and agent.pid != os.getpid():
                if not left.get("holding"):
                    return 0
                os.kill(agent.pid, signal.SIGKILL)
            self._frozen.update({int(pid): int(start) for pid, start in left["frozen"]})
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return 0
        return self.thaw()

    def freeze(self) -> int:
        """Stop the user's processes; return how many. Processes that were stopped before are not ours to continue.

        Guarantees: sshd, this agent and its ancestors go on; repeats until two passes in a row find nothing new,
        because a process shows no environment for a moment while it becomes another program.
        Errors: AgentFailed `not_a_machine`.
        """
        scope = scope_of(self._environ)
        clean = 0
        for _ in range(_ROUNDS):
            fresh = [p for p in self._candidates(scope) if self._frozen.get(p.pid) != p.start]
            clean = 0 if fresh else clean + 1
            if clean == 2:
                break
            if not fresh:
                time.sleep(_APART_SECONDS)
                continue
            self._frozen.update({p.pid: p.start for p in fresh})
            self._write_record()
            for process in fresh:
                self._signal(process.pid, process.start, signal.SIGSTOP)
        return len(self._frozen)

    def thaw(self) -> int:
        """Continue what was frozen; return how many. Doing it twice is fine."""
        count = sum(self._signal(pid, start, signal.SIGCONT) for pid, start in self._frozen.items())
        self._frozen.clear()
        self._held_until = 0.0
        with suppress(OSError):
            os.unlink(self._record)
        return count

    def _candidates(self, scope: Scope) -> list[Process]:
        spared = _self_and_ancestors()
        return [
            process
            for process in map(_process, _pids())
            if process is not None
            and process.pid not in spared
            and process.state not in "TtZXx"
            and not process.name.startswith(_SPARED)
            and (process.parent in self._frozen or _belongs(process.pid, scope))
        ]

    def _signal(self, pid: int, start: int, number: int) -> bool:
        now = _process(pid)
        if now is None or now.start != start:
            return False
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
            return True
        self._frozen.pop(pid, None) if number == signal.SIGSTOP else None
        return False

    def _write_record(self) -> None:
        me = _process(os.getpid())
        agent = [os.getpid(), me.start if me else 0]
        text = json.dumps({"agent": agent, "frozen": list(self._frozen.items()), "holding": self._held_until > 0})
        os.makedirs(os.path.dirname(self._record), exist_ok=True)
        temporary = f"{self._record}.{os.getpid()}"
        with open(temporary, "w", encoding="ascii") as stream:
            stream.write(text)
        os.replace(temporary, self._record)


def _belongs(pid: int, scope: Scope) -> bool:
    if pid <= 2:
        return False
    try:
        if scope.marker is None:
            return bool(_read(f"/proc/{pid}/cmdline"))
        return scope.marker in _read(f"/proc/{pid}/environ").split(b"\x00")
    except OSError:
        return False


def _self_and_ancestors() -> set[int]:
    found = {os.getpid()}
    pid = os.getppid()
    while pid > 0 and pid not in found:
        found.add(pid)
        parent = _process(pid)
        pid = parent.parent if parent else 0
    return found


def _read(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _process(pid: int) -> Process | None:
    try:
        text = _read(f"/proc/{pid}/stat").decode(errors="replace")
    except OSError:
        return None
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return Process(pid, head.partition("(")[2], fields[0], int(fields[1]), int(fields[19]))
