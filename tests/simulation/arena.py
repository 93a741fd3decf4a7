"""Where seeds are run: one database, one marketplace, one process that forks workers and marketplaces, three teams."""

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from tests.simulation.plan import TEAMS
from tests.simulation.script import Script
from tests.support.api import Person, running_api
from tests.support.product import free_port

from dumont.core import Settings
from dumont.db import DatabaseUrls, psycopg_url
from dumont.durable import REGISTRY
from dumont.providers import Offer, OfferQuery, VastProvider
from dumont.sandbox import SandboxControl

KEY = "the key of a simulation"
WAIT_SECONDS = 60.0
_FORGET = (
    "DELETE FROM dbos.workflow_status",
    "TRUNCATE operation, rental_span, rental, instance, snapshot, workspace, stray_machine, watch_turn CASCADE",
)
Answer = TypeVar("Answer")


@dataclass
class Arena:
    """What the seeds of one process share; one seed at a time."""

    urls: DatabaseUrls
    folder: Path
    port: int
    people: list[Person]
    offers: list[Offer]

    @property
    def home(self) -> Path:
        """The product's home."""
        return self.folder / "home"

    @property
    def control(self) -> SandboxControl:
        """The private endpoints of the marketplace."""
        return SandboxControl(f"http://127.0.0.1:{self.port}", (self.folder / "sandbox/control.token").read_text())

    def patiently(self, ask: Callable[[SandboxControl], Answer]) -> Answer:
        """Ask the marketplace again and again while it is dead; what is asked must bear to be done twice."""
        until = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                return ask(self.control)
            except (OSError, http.client.HTTPException):
                assert time.monotonic() < until, f"the marketplace is gone; see {self.folder}/sandbox.log"
                time.sleep(0.05)

    def begin(self, script: Script, strangers: Sequence[str | None]) -> dict[int, str | None]:
        """Forget the last seed, let others rent machines under these labels, and hand out the script of the next.

        Returns the labels of the strangers' machines by number.
        """
        before = self.broken
        Path(script.log).unlink(missing_ok=True)
        Script(script.seed, str(self.folder / "between.log"), calm=True, broken=script.broken).write(self.folder)
        with psycopg.connect(psycopg_url(self.urls.owner)) as connection:
            for statement in _FORGET:
                connection.execute(statement.encode())
        self.patiently(lambda control: control.reset(seed=script.seed))
        made = {self._rent(label): label for label in strangers}
        for rule in script.rules:
            self.control.add_rule(rule)
        script.write(self.folder)
        if before != script.broken:
            self.kill("worker")
        return made

    def kill(self, role: str) -> None:
        """Kill the worker or the marketplace of now."""
        with suppress(ProcessLookupError, FileNotFoundError):
            os.kill(int((self.folder / f"{role}.pid").read_text()), signal.SIGKILL)

    @property
    def broken(self) -> str | None:
        """In which way the product of now is broken on purpose."""
        return Script.read(self.folder).broken

    def _rent(self, label: str | None) -> int:
        """Rent a machine as somebody else who has the same account."""
        offer = self.offers[-1]
        body = {"image": "ubuntu:22.04", "disk": 10} | ({"label": label} if label else {})
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
            connection.request("PUT", f"/api/v0/asks/{offer.provider_offer_id}/", json.dumps(body), headers)
            return int(json.loads(connection.getresponse().read())["new_contract"])
        finally:
            connection.close()


@contextmanager
def open_arena(urls: DatabaseUrls, folder: Path) -> Iterator[Arena]:
    """Start what seeds need; all of it ends with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    Script(0, str(folder / "between.log"), calm=True).write(folder)
    with psycopg.connect(psycopg_url(urls.owner)) as connection:
        for name in REGISTRY.definitions:
            connection.execute("INSERT INTO durable_workflow (name) VALUES (%s) ON CONFLICT DO NOTHING", [name])
    port = free_port()
    lives = _start_lives(urls, folder, port)
    try:
        arena = Arena(urls, folder, port, [], [])
        arena.people, arena.offers = asyncio.run(_prepared(urls, folder, port))
        yield arena
    finally:
        lives.communicate(timeout=60)
        _end_leftovers(folder / "sandbox")


def _start_lives(urls: DatabaseUrls, folder: Path, port: int) -> "subprocess.Popen[bytes]":
    document: dict[str, Any] = {
        "home": str(folder / "home"),
        "folder": str(folder),
        "worker_url": urls.worker,
        "sandbox_home": str(folder / "sandbox"),
        "sandbox_url": f"http://127.0.0.1:{port}",
        "sandbox_port": port,
        "sandbox_key": KEY,
    }
    script = str(Path(__file__).with_name("lives.py"))
    return subprocess.Popen(
        [sys.executable, script, json.dumps(document)], stdin=subprocess.PIPE, start_new_session=True
    )


async def _prepared(urls: DatabaseUrls, folder: Path, port: int) -> tuple[list[Person], list[Offer]]:
    async with running_api(urls, settings=Settings(home=folder / "home")) as api:
        people = [await api.person() for _ in range(TEAMS)]
    provider = VastProvider("sandbox", f"http://127.0.0.1:{port}", KEY, enforce_gaps=False)
    until = time.monotonic() + WAIT_SECONDS
    try:
        while not await _answers(port):
            assert time.monotonic() < until, f"the marketplace did not start; see {folder}/sandbox.log"
            await asyncio.sleep(0.05)
        return people, await provider.offers(OfferQuery(num_gpus=1))
    finally:
        await provider.close()


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def _end_leftovers(home: Path) -> None:
    """Kill what the machines of a killed marketplace left running."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if f"HOME={home}/machines/".encode() in (entry / "environ").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
