"""`fleet`: many launches and many destroys at once, by one API and one worker over a sandbox without delays."""

import asyncio
import http.client
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg

from benchmarks.installation import (
    COMMAND,
    NO_LIMITS,
    BenchmarkError,
    Home,
    Laboratory,
    connect,
    deadline,
    ready_url,
    running,
)
from benchmarks.metrics import Metric
from benchmarks.processes import cpu_seconds, family
from benchmarks.rows import register
from dumont.app.roles import list_workflows
from dumont.client import Client
from dumont.db import DatabaseUrls, psycopg_url
from dumont.sandbox import SandboxControl

_OFFERS = 1000
_PEOPLE = 4
"""So many connections ask at once; the requests of each follow one another."""


@dataclass
class _Fleet:
    """The processes of one installation, and what they have used."""

    url: str
    token: str
    control: SandboxControl
    records: "psycopg.Connection[tuple[Any, ...]]"
    pids: dict[str, int]
    used: dict[str, float] = field(default_factory=dict)

    def begin(self) -> None:
        """Begin to count CPU here."""
        self.used = self._cpu()

    def cpu(self) -> dict[str, float]:
        """Return the CPU seconds of each process since `begin`."""
        return {f"{name}_cpu": used - self.used[name] for name, used in self._cpu().items()}

    def _cpu(self) -> dict[str, float]:
        found = {}
        for name, pid in self.pids.items():
            own, sandbox = family(pid)
            found[name] = cpu_seconds([*own, *sandbox])
        return found

    def count(self, status: str) -> int:
        """Count the instances of a status in the records."""
        row = self.records.execute("SELECT count(*) FROM instance WHERE status = %s", [status]).fetchone()
        return int(row[0]) if row else 0

    def billed(self) -> int:
        """Count the machines that the marketplace bills."""
        return sum(line.destroyed_at is None for line in self.control.ledger())

    def ask_all(self, requests: list[tuple[str, str, dict[str, Any] | None]]) -> list[dict[str, Any]]:
        """Make requests over a few connections and return the answers, in any order."""
        with ThreadPoolExecutor(_PEOPLE) as pool:
            return [answer for part in pool.map(self._ask, _parts(requests)) for answer in part]

    def _ask(self, requests: list[tuple[str, str, dict[str, Any] | None]]) -> list[dict[str, Any]]:
        connection = connect(self.url)
        try:
            return [self._one(connection, *request) for request in requests]
        finally:
            connection.close()

    def _one(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: dict[str, Any] | None
    ) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        connection.request(method, f"/api/v1/{path}", None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        document: dict[str, Any] = json.loads(answer.read())
        if answer.status != 202:
            raise BenchmarkError(f"{method} {path} was answered {answer.status}: {document}")
        return document


def _parts(requests: list[Any]) -> list[list[Any]]:
    return [requests[at::_PEOPLE] for at in range(_PEOPLE)]


def measure(laboratory: Laboratory, quick: bool) -> Iterator[Metric]:
    """Launch many instances at once, see them all running and billed; destroy them all and see none billed."""
    count = 8 if quick else 200
    home, urls, database = laboratory.database()
    asyncio.run(list_workflows(urls.owner))
    with _fleet(home, urls, database) as fleet:
        offers = _offers(fleet, count + 1)
        instances = _launch(fleet, offers[:1])  # the first of all takes connections, imports and plans
        yield _launches(fleet, offers[1:], instances)
        yield _destroys(fleet, instances)


@contextmanager
def _fleet(home: Home, urls: DatabaseUrls, database: int) -> Iterator[_Fleet]:
    with ExitStack() as parts:
        folder = home.path / "sandbox"
        arguments = ["--home", str(folder), "--port", "0", "--offers", str(_OFFERS), "--root-ok", "--market", "still"]
        command = [sys.executable, "-m", "dumont.sandbox", *arguments, "--start-seconds", "0", "--credit", "100000"]
        sandbox = parts.enter_context(running(home, command))
        market = str(json.loads(sandbox.line_with('"url"'))["url"])
        settings = {"DUMONT_SANDBOX_URL": market, "DUMONT_SANDBOX_KEY": (folder / "api.key").read_text().strip()}
        settings |= {**NO_LIMITS, "DUMONT_DATABASE_APP_URL": urls.app, "DUMONT_DATABASE_WORKER_URL": urls.worker}
        api = parts.enter_context(running(home, [*COMMAND, "serve", "api"], **settings))
        worker = parts.enter_context(running(home, [*COMMAND, "serve", "worker"], **settings))
        url = ready_url(api)
        worker.line_with("worker is ready")
        records = parts.enter_context(psycopg.connect(psycopg_url(urls.owner), autocommit=True))
        records.execute("SELECT set_config('dumont.sweep', 'on', false)")
        records.execute("TRUNCATE offer_listing CASCADE")  # what other parts saw was another marketplace
        control = SandboxControl(market, (folder / "control.token").read_text().strip())
        pids = {"api": api.pid, "worker": worker.pid, "postgres": database, "sandbox": sandbox.pid}
        yield _Fleet(url, register(url).token, control, records, pids)


def _offers(fleet: _Fleet, count: int) -> list[str]:
    """Choose offers on as many different hosts."""
    found: dict[str, str] = {}
    for offer in Client(fleet.url, fleet.token).iter_offers():
        found.setdefault(offer.raw["machine_id"], offer.id)
        if len(found) == count:
            return list(found.values())
    raise BenchmarkError(f"the market has {len(found)} hosts, {count} are needed")


def _launch(fleet: _Fleet, offers: list[str]) -> list[str]:
    asked: list[tuple[str, str, dict[str, Any] | None]] = [
        ("POST", "instances", {"offer_id": offer, "attempts": 1}) for offer in offers
    ]
    begun = fleet.count("running")
    found = [str(answer["id"]) for answer in fleet.ask_all(asked)]
    _wait(lambda: fleet.count("running") == begun + len(offers), lambda: f"{fleet.count('running')} run")
    return found


def _launches(fleet: _Fleet, offers: list[str], instances: list[str]) -> Metric:
    fleet.begin()
    begun = time.perf_counter()
    instances += _launch(fleet, offers)
    seconds = time.perf_counter() - begun
    used = fleet.cpu()
    if fleet.billed() != len(instances):
        raise BenchmarkError(f"{len(instances)} instances run, and {fleet.billed()} machines are billed")
    return _metric("launch_200_s", seconds, len(offers), used)


def _destroys(fleet: _Fleet, instances: list[str]) -> Metric:
    fleet.begin()
    begun = time.perf_counter()
    fleet.ask_all([("DELETE", f"instances/{instance}", None) for instance in instances])
    _wait(lambda: fleet.count("destroyed") == len(instances), lambda: f"{fleet.count('destroyed')} are destroyed")
    seconds = time.perf_counter() - begun
    used = fleet.cpu()
    if fleet.billed():
        raise BenchmarkError(f"all are destroyed, and {fleet.billed()} machines are billed")
    return _metric("destroy_200_s", seconds, len(instances), used)


def _metric(name: str, seconds: float, count: int, used: dict[str, float]) -> Metric:
    """State the control plane's time: the wall's, less the part for which the sandbox's processes held the cores."""
    cores = len(os.sched_getaffinity(0))
    own = sum(used.values()) - used["sandbox_cpu"]
    more: dict[str, float | str] = {"count": count, "wall_s": seconds, "cores": cores, "own_cpu_s": own, **used}
    return Metric(name, seconds - used["sandbox_cpu"] / cores, "s", more=more)


def _wait(holds: Callable[[], bool], state: Callable[[], str]) -> None:
    until = deadline()
    while not holds():
        if time.monotonic() > until:
            raise BenchmarkError(f"waited in vain: {state()}")
        time.sleep(0.05)
