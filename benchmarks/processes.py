"""What processes have used, told from /proc: CPU with their ended children, and memory."""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_SANDBOX = b"dumont.sandbox"
_PROC = Path("/proc")


@dataclass(frozen=True)
class Memory:
    """Units: MB of 1,000,000 bytes. In `pss` a page that several processes share counts once among them."""

    pss: float
    rss: float


def family(pid: int) -> tuple[list[int], list[int]]:
    """Return the living processes that descend from `pid`, itself included: (our own, those of the sandbox)."""
    children: dict[int, list[int]] = {}
    for path in _PROC.iterdir():
        parent = _parent(int(path.name)) if path.name.isdigit() else None
        if parent is not None:
            children.setdefault(parent, []).append(int(path.name))
    own: list[int] = []
    sandbox: list[int] = []
    _collect(pid, children, own, sandbox, foreign=False)
    return own, sandbox


def _collect(pid: int, children: dict[int, list[int]], own: list[int], sandbox: list[int], *, foreign: bool) -> None:
    foreign = foreign or _SANDBOX in _read(pid, "cmdline")
    (sandbox if foreign else own).append(pid)
    for child in children.get(pid, []):
        _collect(child, children, own, sandbox, foreign=foreign)


def cpu_seconds(pids: Iterable[int]) -> float:
    """Sum user and system time, with that of children that have ended and were waited for."""
    return sum(sum(int(word) for word in fields[11:15]) for pid in pids if (fields := _stat(pid))) * _TICK


def own_cpu_seconds(pid: int) -> float:
    """Return the CPU time of one process without its children, in nanosecond resolution."""
    return time.clock_gettime(_clock_of(pid))


def _clock_of(pid: int) -> int:
    """Number the CPU clock of another process; source: clock_getcpuclockid(3), linux/posix-timers_types.h."""
    return (~pid << 3) | 2


def memory(pids: Iterable[int]) -> Memory:
    """Sum the memory of processes."""
    pss = rss = 0
    for pid in pids:
        for line in _read(pid, "smaps_rollup").decode().splitlines():
            name, _, rest = line.partition(":")
            pss += int(rest.split()[0]) if name == "Pss" else 0
            rss += int(rest.split()[0]) if name == "Rss" else 0
    return Memory(pss * 1024 / 1e6, rss * 1024 / 1e6)


def _stat(pid: int) -> list[bytes]:
    """Return the fields of /proc/pid/stat behind the name: state first; empty for a process that is gone."""
    return _read(pid, "stat").rpartition(b")")[2].split()


def _parent(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[1]) if fields else None


def _read(pid: int, name: str) -> bytes:
    try:
        return (_PROC / str(pid) / name).read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
