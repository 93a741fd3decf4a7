"""The ledger's peer: `pgbench -N -M prepared` on the same server, in slices of seconds."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import psycopg
from psycopg.conninfo import conninfo_to_dict

from benchmarks.installation import BenchmarkError
from benchmarks.processes import cpu_seconds, family
from dumont.db import psycopg_url, with_database
from dumont.db.embedded.binaries import installed_binaries

DATABASE = "bench_pgbench"
_PROGRESS = re.compile(r"progress: ([0-9.]+) s, ([0-9.]+) tps")


@dataclass(frozen=True)
class Slice:
    """What one slice did. Units: transactions per second of wall time; CPU of the server in seconds for each."""

    rate: float
    server_cpu: float


@contextmanager
def pgbench_tables(owner_url: str, scale: int) -> Iterator[str]:
    """Make pgbench's tables in a database of their own; gives its address, and drops it at the end."""
    with psycopg.connect(psycopg_url(owner_url), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {DATABASE}")
    url = with_database(owner_url, DATABASE)
    try:
        _run(url, "-i", "-q", "-s", str(scale))
        yield url
    finally:
        with psycopg.connect(psycopg_url(owner_url), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


def run_pgbench(url: str, server_pid: int, *, clients: int, seconds: int) -> Slice:
    """Run one slice: each transaction updates an account, reads it and writes a line of history.

    It is measured from its second second on, when every server process has begun and has its plans, as ours have.
    """
    words = ("-n", "-N", "-M", "prepared", "-c", str(clients), "-j", "2", "-T", str(seconds + 2), "-P", "1")
    marks: list[tuple[float, float, float]] = []
    with _started(url, *words) as running:
        assert running.stderr is not None
        said = []
        for line in running.stderr:
            said.append(line)
            if (told := _PROGRESS.match(line)) is not None:
                marks.append((float(told[1]), float(told[2]), cpu_seconds(family(server_pid)[0])))
        if running.wait() != 0 or len(marks) <= seconds:
            raise BenchmarkError(f"pgbench ended with {running.returncode}: {''.join(said)[-2000:]}")
    (begun, _, used), *_, (ended, _, spent) = marks[: seconds + 1]
    done = sum(rate * (mark - before) for (before, _, _), (mark, rate, _) in pairwise(marks[: seconds + 1]))
    return Slice(done / (ended - begun), (spent - used) / done)


def _run(url: str, *words: str) -> None:
    with _started(url, *words) as running:
        _, complaint = running.communicate()
        if running.returncode != 0:
            raise BenchmarkError(f"pgbench ended with {running.returncode}: {complaint[-2000:]}")


def _started(url: str, *words: str) -> "subprocess.Popen[str]":
    """Start pgbench; the password goes by its environment."""
    parts = conninfo_to_dict(psycopg_url(url))
    program = str(installed_binaries().program("pgbench"))
    named = {"PGHOST": "host", "PGPORT": "port", "PGUSER": "user", "PGPASSWORD": "password", "PGDATABASE": "dbname"}
    environment = {**os.environ, **{name: str(parts[key]) for name, key in named.items() if parts.get(key)}}
    return subprocess.Popen(
        [program, *words], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
