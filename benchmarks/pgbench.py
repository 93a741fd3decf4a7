"""The ledger's peer: `pgbench -N -M prepared` on the same server, in slices of seconds."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg.conninfo import conninfo_to_dict

from benchmarks.installation import BenchmarkError
from benchmarks.processes import cpu_seconds, family
from dumont.db import psycopg_url, with_database
from dumont.db.embedded.binaries import installed_binaries

DATABASE = "bench_pgbench"
_TPS = re.compile(r"tps = ([0-9.]+) \(without initial connection time\)")
_COUNT = re.compile(r"number of transactions actually processed: ([0-9]+)")


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

    Its CPU holds the start of one server process for each client, which ours pays before its slice.
    """
    used = cpu_seconds(family(server_pid)[0])
    said = _run(url, "-n", "-N", "-M", "prepared", "-c", str(clients), "-j", "2", "-T", str(seconds))
    rate, count = _TPS.search(said), _COUNT.search(said)
    if rate is None or count is None:
        raise BenchmarkError(f"pgbench said something else: {said}")
    return Slice(float(rate[1]), (cpu_seconds(family(server_pid)[0]) - used) / int(count[1]))


def _run(url: str, *words: str) -> str:
    """Run pgbench; the password goes by its environment."""
    parts = conninfo_to_dict(psycopg_url(url))
    program = str(installed_binaries().program("pgbench"))
    named = {"PGHOST": "host", "PGPORT": "port", "PGUSER": "user", "PGPASSWORD": "password", "PGDATABASE": "dbname"}
    environment = {**os.environ, **{name: str(parts[key]) for name, key in named.items() if parts.get(key)}}
    done = subprocess.run([program, *words], env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchmarkError(f"pgbench ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout
