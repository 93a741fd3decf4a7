"""`watch`: how soon a loss is seen, and how soon a machine that no row owns is found, by a whole installation."""

import http.client
import json
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

from benchmarks.installation import (
    COMMAND,
    NO_LIMITS,
    BenchmarkError,
    Home,
    Laboratory,
    Process,
    deadline,
    new_home,
    ready_url,
)
from benchmarks.installation import running as running_program
from benchmarks.metrics import Metric, median
from dumont.client import Client, Instance
from dumont.sandbox import SandboxControl


class _Installation:
    """`dumont up` over one home, which can be killed and started again."""

    def __init__(self, home: Home, parts: ExitStack, settings: dict[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._home, self._parts, self._settings = home, parts, settings
        self._process: Process | None = None
        self.client = self.start()

    def start(self) -> Client:
        """Start it and return a client that is signed in."""
        settings = {"DUMONT_SANDBOX_PORT": str(self._port), **self._settings}
        self._process = self._parts.enter_context(running_program(self._home, [*COMMAND, "up"], **settings))
        url = ready_url(self._process)
        profile = json.loads((self._home.path / "cli.json").read_text())
        self.client = Client(url, Client(url).login(profile["user"], profile["password"]).access_token)
        return self.client

    def kill(self) -> None:
        """Kill it without warning."""
        if self._process is None:
            raise BenchmarkError("it does not run")
        self._process.popen.kill()
        self._process.popen.wait()

    @property
    def control(self) -> SandboxControl:
        """The private endpoints of its marketplace."""
        token = (self._home.path / "sandbox" / "control.token").read_text().strip()
        return SandboxControl(f"http://127.0.0.1:{self._port}", token)

    def launch(self) -> Instance:
        """Begin to launch the cheapest single GPU."""
        offer = next(self.client.iter_offers(num_gpus=1))
        return self.client.create_instance(offer.id)

    def launched(self) -> Instance:
        """Launch an instance and see it running."""
        instance = self.launch()
        self.becomes(instance.id, "running")
        return instance

    def becomes(self, instance_id: str, status: str) -> float:
        """Wait until an instance has a status; returns the seconds that it took."""
        return _seconds_until(lambda: self._status(instance_id) == status, f"an instance to be {status}")

    def _status(self, instance_id: str) -> str | None:
        return self.client.instance(instance_id, include_destroyed=True).status

    def machine(self, instance_id: str) -> dict[str, Any]:
        """Return the newest machine of an instance."""
        return self.client.machines(instance_id)[-1]

    def rent_outside(self, label: str) -> int:
        """Rent a machine under a label of ours, as an order whose answer came too late."""
        key = (self._home.path / "sandbox" / "api.key").read_text().strip()
        found = self._ask("POST", "/api/v0/bundles/", {"order": [["dph_total", "asc"]], "limit": 1}, key)
        body = {"image": "ubuntu:22.04", "disk": 10, "label": label}
        return int(self._ask("PUT", f"/api/v0/asks/{found['offers'][0]['id']}/", body, key)["new_contract"])

    def _ask(self, method: str, path: str, body: dict[str, Any], key: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request(method, path, json.dumps(body), {"Authorization": f"Bearer {key}"})
            answer = connection.getresponse()
            document: dict[str, Any] = json.loads(answer.read())
        finally:
            connection.close()
        if answer.status != 200:
            raise BenchmarkError(f"the marketplace answered {answer.status}: {document}")
        return document


def measure(laboratory: Laboratory, quick: bool) -> Iterator[Metric]:
    """Measure losses and orphans over one installation of its own."""
    with new_home() as home, ExitStack() as parts:
        settings = {**NO_LIMITS, **({"DUMONT_SWEEP_SECONDS": "4", "DUMONT_LOSS_SECONDS": "1"} if quick else {})}
        installation = _Installation(home, parts, settings)
        yield _losses(installation, 1 if quick else 5)
        yield _orphans(installation, 1 if quick else 3)


def _losses(installation: _Installation, count: int) -> Metric:
    """Pull the plug of a machine's host at any moment of the watch's period."""
    instance = installation.launched()
    number = int(installation.machine(instance.id)["provider_machine_id"])
    seen, back = [], []
    for _ in range(count):
        time.sleep(random.uniform(0, 4))
        installation.control.kill_host(number)
        seen.append(installation.becomes(instance.id, "offline"))
        installation.control.restore_host(number)
        back.append(installation.becomes(instance.id, "running"))
    installation.client.destroy_instance(instance.id)
    return Metric("loss_seen_s", max(seen), "s", more={"median_s": median(seen), "back_s": median(back)})


def _orphans(installation: _Installation, count: int) -> Metric:
    """Kill at the moment in which only the marketplace knows of a machine; and let answers come too late."""
    adopted = [_adopted(installation) for _ in range(count)]
    destroyed = [_destroyed(installation) for _ in range(count)]
    more: dict[str, float | str] = {"adopted_s": max(adopted), "destroyed_s": max(destroyed)}
    return Metric("orphan_found_s", max([*adopted, *destroyed]), "s", more=more)


def _adopted(installation: _Installation) -> float:
    """Kill -9 between the marketplace's yes and our reading of it; the seconds until a row owns the machine."""
    known = len(installation.control.ledger())
    installation.control.add_fault("accept_then_drop", {"ops": ["create"]})
    instance = installation.launch()
    _seconds_until(lambda: len(installation.control.ledger()) > known, "the marketplace to make a machine")
    installation.kill()
    begun = time.monotonic()
    installation.start()
    _seconds_until(lambda: installation.machine(instance.id)["provider_machine_id"], "a row to own the machine")
    found = time.monotonic() - begun
    installation.becomes(instance.id, "running")
    installation.client.destroy_instance(instance.id)
    installation.becomes(instance.id, "destroyed")
    return found


def _destroyed(installation: _Installation) -> float:
    """Let a machine appear under a label that was given up; the seconds until it is destroyed."""
    instance = installation.launched()
    label = installation.machine(instance.id)["label"]
    installation.client.destroy_instance(instance.id)
    installation.becomes(instance.id, "destroyed")
    number = installation.rent_outside(label)
    return _seconds_until(
        lambda: installation.control.line(number).destroyed_at is not None, "the orphan to be destroyed"
    )


def _seconds_until(holds: Callable[[], Any], what: str) -> float:
    begun, until = time.monotonic(), deadline()
    while not holds():
        if time.monotonic() > until:
            raise BenchmarkError(f"waited in vain for {what}")
        time.sleep(0.05)
    return time.monotonic() - begun
