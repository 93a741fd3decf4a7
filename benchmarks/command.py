"""`cli`: what the command line costs, beside an interpreter that does nothing."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping

from benchmarks.installation import COMMAND, BenchmarkError, Laboratory
from benchmarks.metrics import Metric, median
from benchmarks.rows import make_instances, register

INSTANCES = 10


def measure(laboratory: Laboratory, quick: bool) -> Iterator[Metric]:
    """Measure `dumont ps` over ten instances."""
    home, urls, _ = laboratory.database()
    _, url = laboratory.api()
    person = register(url)
    make_instances(urls, person, INSTANCES)
    environment = home.environment(DUMONT_URL=url, DUMONT_TOKEN=person.token)
    used, bare = [], []
    for _ in range(2 if quick else 15):
        seconds, text = _cpu([*COMMAND, "ps"], environment)
        if text.count(b"training-") != INSTANCES:
            raise BenchmarkError(f"dumont ps showed something else: {text!r}")
        used.append(seconds)
        bare.append(_cpu([sys.executable, "-c", "pass"], environment)[0])
    yield Metric("cli_ps_cpu_s", median(used), "s", peer=median(bare))


def _cpu(arguments: list[str], environment: Mapping[str, str]) -> tuple[float, bytes]:
    """Run a command; returns the CPU that it and its children used, and what it printed."""
    process = subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    text = process.stdout.read()
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise BenchmarkError(f"{arguments} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime, text
