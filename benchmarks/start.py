"""`start`: CPU until the product is ready, and memory when it idles, without the sandbox."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.installation import COMMAND, Home, Laboratory, new_home, ready_url, running
from benchmarks.metrics import Metric, median
from benchmarks.processes import Memory, cpu_seconds, family, memory

IDLE_SECONDS = 5.0


@dataclass(frozen=True)
class _Started:
    """One start: CPU until ready, of our own processes and of the sandbox, wall time, and memory when it idles."""

    cpu: float
    sandbox_cpu: float
    wall: float
    memory: Memory
    sandbox_memory: Memory


def measure(laboratory: Laboratory, quick: bool) -> Iterator[Metric]:
    """Measure starts from nothing, starts over what is there, and memory."""
    fresh, again = [], []
    idle = 0.5 if quick else IDLE_SECONDS
    if not quick:
        with new_home() as home:
            _start(home, 0)  # so that bytecode and file cache are warm, as they are for everybody but the first
    for _ in range(1 if quick else 3):
        with new_home() as home:
            fresh.append(_start(home, 0))
            again += [_start(home, idle) for _ in range(1 if quick else 2)]
    yield _cpu("ready_cpu_s", again)
    yield _cpu("ready_fresh_cpu_s", fresh)
    sandbox = median([start.sandbox_memory.pss for start in again])
    yield _memory("rss_all_mb", [start.memory for start in again], {"sandbox_pss": sandbox})
    api, _ = laboratory.api()
    time.sleep(idle)
    yield _memory("rss_api_mb", [memory(family(api.pid)[0])], {})


def _start(home: Home, idle_seconds: float) -> _Started:
    """Start everything once and stop it again."""
    begun = time.monotonic()
    with running(home, [*COMMAND, "up"]) as product:
        ready_url(product)
        wall = time.monotonic() - begun
        own, sandbox = family(product.pid)
        used, sandbox_used = cpu_seconds(own), cpu_seconds(sandbox)
        time.sleep(idle_seconds)
        own, sandbox = family(product.pid)
        return _Started(used, sandbox_used, wall, memory(own), memory(sandbox))


def _cpu(name: str, found: list[_Started]) -> Metric:
    more: dict[str, float | str] = {
        "sandbox_cpu_s": median([start.sandbox_cpu for start in found]),
        "wall_s": median([start.wall for start in found]),
        "runs": str(len(found)),
    }
    return Metric(name, median([start.cpu for start in found]), "s", more=more)


def _memory(name: str, found: list[Memory], more: dict[str, float | str]) -> Metric:
    rss = median([one.rss for one in found])
    return Metric(name, median([one.pss for one in found]), "MB", more={"kind": "pss", "rss": rss, **more})
