"""Sandboxes for tests: started as their own process, talked to over HTTP and SSH, ended without a trace."""

import http.client
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dumont.sandbox import SandboxControl

_START_SECONDS = 60.0


@dataclass
class SandboxProcess:
    """A running sandbox. `home` may be started again after `stop` or `kill9`."""

    url: str
    key: str
    control: SandboxControl
    home: Path
    process: "subprocess.Popen[str]"
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def port(self) -> int:
        """The port of the API."""
        return int(self.url.rsplit(":", 1)[1])

    def call(self, method: str, path: str, body: Any = None, *, key: str | None = "") -> tuple[int, Any]:
        """Ask the API once and return (status, document or text); `key` None sends no key, "" the account's."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            headers = {} if key is None else {"Authorization": f"Bearer {key or self.key}"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            reply = connection.getresponse()
            raw = reply.read().decode()
            is_json = reply.getheader("content-type") == "application/json"
            return reply.status, json.loads(raw) if is_json else raw
        finally:
            connection.close()

    def offers(self, **filters: Any) -> list[dict[str, Any]]:
        """Search; cheapest first."""
        status, document = self.call("POST", "/api/v0/bundles/", {"order": [["dph_total", "asc"]], **filters})
        assert status == 200, document
        return list(document["offers"])

    def rent(self, offer_id: int | None = None, **body: Any) -> int:
        """Rent an offer, the cheapest where none is named, and return the instance number."""
        offer = self.offers()[0]["id"] if offer_id is None else offer_id
        status, document = self.call("PUT", f"/api/v0/asks/{offer}/", {"image": "ubuntu:22.04", "disk": 10, **body})
        assert status == 200 and document["success"], document
        return int(document["new_contract"])

    def instance(self, number: int) -> dict[str, Any] | None:
        """Return the instance's document, None once it is gone."""
        status, document = self.call("GET", f"/api/v0/instances/{number}/?owner=me")
        assert status == 200, document
        shown: dict[str, Any] | None = document["instances"]
        return shown

    def wait_for(self, number: int, status: str | None, *, seconds: float = 60) -> dict[str, Any]:
        """Poll until `actual_status` is that word and return the document."""

        def there() -> dict[str, Any] | None:
            shown = self.instance(number)
            return shown if shown is not None and shown["actual_status"] == status else None

        shown: dict[str, Any] = wait_until(there, seconds=seconds, what=f"instance {number} to be {status}")
        return shown

    def stop_clock(self, at: float) -> None:
        """Let the time stand still at that moment to come: what a living market shows depends on nothing but it."""
        shown = self.control.turn_clock(pause=True)
        self.control.turn_clock(advance_s=at - float(shown["now"]))

    def add_key(self, public_key: str) -> int:
        """Add a public key to the account; machines rented from now on accept it."""
        status, document = self.call("POST", "/api/v0/ssh/", {"ssh_key": public_key})
        assert status == 200, document
        return int(document["key"]["id"])

    def stop(self) -> None:
        """End it politely and wait; nothing of its machines is left running."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self._wait()

    def kill9(self) -> None:
        """End it as a crash would; its machines' processes go on until a restart or `end_leftovers`."""
        self.process.kill()
        self._wait()

    def restart(self, **options: Any) -> "SandboxProcess":
        """Start it again over the same home and on the same port."""
        return start_in(self.home, **{**self.options, "port": self.port, **options})

    def processes(self, number: int | None = None) -> list[int]:
        """Return the living processes of one machine or of all of this sandbox, found by their environment."""
        home = f"HOME={self.home}/machines/" + ("" if number is None else f"{number}/root")
        return [pid for pid, values in _environments() if any(_is_home(value, home, number) for value in values)]

    def end_leftovers(self) -> None:
        """Kill what machines left behind after `kill9`."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)

    def _wait(self) -> None:
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)
            raise
        finally:
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    stream.close()


def start_sandbox(tmp_path: Path, **options: Any) -> SandboxProcess:
    """Start a sandbox in `tmp_path/sandbox` on a free port and wait until it answers.

    `options` become arguments: `speed=3600` is `--speed 3600`, `rate_limits=True` is `--rate-limits`.
    """
    return start_in(tmp_path / "sandbox", **options)


def start_in(home: Path, **options: Any) -> SandboxProcess:
    """As `start_sandbox`, with the home named exactly."""
    chosen: dict[str, Any] = {
        "port": 0,
        "root_ok": os.getuid() == 0,
        "watch_stdin": True,
        "start_seconds": 0.05,
        "offers": 0,
    }
    chosen |= {"market": "still", **options}
    arguments = [sys.executable, "-m", "dumont.sandbox", "--home", str(home)]
    for name, value in chosen.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            arguments.append(flag)
        elif value is not False and value is not None:
            arguments += [flag, str(value)]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        ready = _first_line(process)
    except BaseException:
        process.kill()
        process.wait()
        raise
    key = options.get("key") or (home / "api.key").read_text()
    control = SandboxControl(ready["url"], (home / "control.token").read_text())
    return SandboxProcess(ready["url"], str(key), control, home, process, options)


def wait_until(probe: "Callable[[], Any]", *, seconds: float = 60, what: str = "it") -> Any:
    """Ask until the answer is true and return it.

    Errors: AssertionError after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not (answer := probe()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)
    return answer


@pytest.fixture
def sandboxes(tmp_path: Path) -> Iterator[Callable[..., SandboxProcess]]:
    """Start sandboxes that end with the test: `sandboxes(speed=3600)`; each call has a home of its own."""
    running: list[SandboxProcess] = []

    def start(**options: Any) -> SandboxProcess:
        home = options.pop("home", None) or tmp_path / f"sandbox{len(running)}"
        running.append(start_in(home, **options))
        return running[-1]

    yield start
    for one in running:
        one.stop()
        one.end_leftovers()


def _first_line(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], _START_SECONDS)
    assert readable, f"the sandbox did not answer within {_START_SECONDS} s"
    line = process.stdout.readline()
    assert line, f"the sandbox ended with {process.wait()}"
    ready: dict[str, Any] = json.loads(line)
    return ready


def _environments() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            values = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        yield int(entry.name), values


def _is_home(value: str, home: str, number: int | None) -> bool:
    return value == home if number is not None else value.startswith(home)
