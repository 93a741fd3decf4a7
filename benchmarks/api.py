"""`api`: an authenticated read, and a list of 100 of 10,000 rows, beside a bare route and a bare SELECT."""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import psycopg

from benchmarks.installation import Laboratory
from benchmarks.metrics import Metric, median
from benchmarks.processes import cpu_seconds, family, own_cpu_seconds
from benchmarks.rows import Person, make_instances, register
from benchmarks.wire import Wire, crowd
from dumont.db import psycopg_url

LIST = "/api/v1/instances?limit=100"
_BARE_SELECT = "SELECT * FROM instance WHERE status <> 'destroyed' ORDER BY created_at DESC, id DESC LIMIT 101"


@dataclass(frozen=True)
class _Stage:
    """What is asked: the API, its process and that of the database, the bare peer, and who asks for which instance."""

    api: str
    api_pid: int
    database_pid: int
    bare: str
    bare_pid: int
    app_url: str
    person: Person
    instance_id: str

    @property
    def read(self) -> str:
        return f"/api/v1/instances/{self.instance_id}"


def measure(laboratory: Laboratory, quick: bool) -> Iterator[Metric]:
    """Measure reads and lists over one API process."""
    _, urls, database_pid = laboratory.database()
    api, url = laboratory.api()
    person = register(url)
    ids = make_instances(urls, person, 500 if quick else 10_000)
    with laboratory.run("benchmarks.bare") as process:
        bare = process.line_with("bare").split()[-1]
        stage = _Stage(url, api.pid, database_pid, bare, process.pid, urls.app, person, ids[len(ids) // 2])
        yield from _reads(stage, rounds=2 if quick else 7, each=30 if quick else 200)
        yield from _lists(stage, rounds=2 if quick else 7, each=3 if quick else 30)


def _reads(stage: _Stage, *, rounds: int, each: int) -> Iterator[Metric]:
    token = stage.person.token
    times: list[float] = []
    bare_times: list[float] = []
    cpu: list[float] = []
    bare_cpu: list[float] = []
    database_cpu: list[float] = []
    with closing(Wire(stage.api, stage.read, token)) as wire, closing(Wire(stage.bare, "/one")) as bare:
        wire.timed(30)
        bare.timed(30)
        for _ in range(rounds):
            used = own_cpu_seconds(stage.api_pid)
            database_used = cpu_seconds(family(stage.database_pid)[0])
            times += wire.timed(each)
            cpu.append((own_cpu_seconds(stage.api_pid) - used) * 1000 / (each + 1))
            database_cpu.append((cpu_seconds(family(stage.database_pid)[0]) - database_used) * 1000 / (each + 1))
            bare_used = own_cpu_seconds(stage.bare_pid)
            bare_times += bare.timed(each)
            bare_cpu.append((own_cpu_seconds(stage.bare_pid) - bare_used) * 1000 / (each + 1))
    best = sorted(times)[len(times) // 10]
    yield Metric("read_p50_ms", median(times), "ms", peer=median(bare_times), more={"p10_ms": best})
    yield Metric(
        "read_cpu_ms", median(cpu), "ms", peer=median(bare_cpu), more={"database_cpu_ms": median(database_cpu)}
    )
    yield _throughput(stage, rounds, each // 4)


def _throughput(stage: _Stage, rounds: int, each: int) -> Metric:
    """Count reads for each second of CPU of the API's process while eight people ask at once."""
    people, rates, walls = 8, [], []
    for _ in range(rounds):
        used = own_cpu_seconds(stage.api_pid)
        walls.append(people * each / crowd(stage.api, stage.read, stage.person.token, people=people, each=each))
        rates.append(people * each / (own_cpu_seconds(stage.api_pid) - used))
    return Metric("read_rps_core", median(rates), "1/s", more={"wall_rps": median(walls)})


def _lists(stage: _Stage, *, rounds: int, each: int) -> Iterator[Metric]:
    times: list[float] = []
    bare_times: list[float] = []
    cpu: list[float] = []
    with (
        closing(Wire(stage.api, LIST, stage.person.token)) as wire,
        psycopg.connect(psycopg_url(stage.app_url)) as connection,
    ):
        size = len(wire.ask())
        for _ in range(rounds):
            used = own_cpu_seconds(stage.api_pid)
            times += wire.timed(each)
            cpu.append((own_cpu_seconds(stage.api_pid) - used) * 1000 / (each + 1))
            bare_times += [_bare_select(connection, stage.person.team_id) for _ in range(each)]
    best = sorted(times)[len(times) // 10]
    more: dict[str, float | str] = {"p10_ms": best, "cpu_ms": median(cpu)}
    yield Metric("list_100_of_10k_ms", median(times), "ms", peer=median(bare_times), more=more)
    yield Metric("list_kb", size / 1000, "kB")


def _bare_select(connection: "psycopg.Connection[tuple[object, ...]]", team_id: str) -> float:
    begun = time.perf_counter()
    with connection.transaction():
        connection.execute("SELECT set_config('dumont.team_id', %s, true)", [team_id])
        connection.execute(_BARE_SELECT).fetchall()
    return (time.perf_counter() - begun) * 1000
