"""The whole product for tests: `dumont up` as its own process, used as people use it, ended without a trace."""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from dumont.client import Client, Instance, Operation
from dumont.sandbox import LedgerLine, SandboxControl

DUMONT = Path(sys.executable).with_name("dumont")
START_SECONDS = 90.0
STOP_SECONDS = 60.0
OPERATION_SECONDS = 120.0
_PORTS = range(10_000, 20_000)
"""Below the sandbox's own ports and below those that the system gives to outgoing connections."""
_given: set[int] = set()


@dataclass(frozen=True)
class Said:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


@dataclass
class Product:
    """One home and the `dumont up` that runs in it now, if any. `more` are further settings."""

    home: Path
    port: int
    sandbox_port: int
    more: dict[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None
    _client: Client | None = None

    @property
    def url(self) -> str:
        """The API's address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """A clean environment with this home; nothing of the person who runs the tests."""
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG") if name in os.environ}
        own = {
            "HOME": str(self.home.parent),
            "DUMONT_HOME": str(self.home),
            "DUMONT_PORT": str(self.port),
            "DUMONT_SANDBOX_PORT": str(self.sandbox_port),
            "DUMONT_SANDBOX_MARKET": "still",
            "DUMONT_SANDBOX_OFFERS": "0",
            "DUMONT_POLL_SECONDS": "0.1",
            "DUMONT_LIMIT_TOKEN_REQUESTS_MINUTE": "100000",
            "DUMONT_LIMIT_TOKEN_REQUESTS_AT_ONCE": "100000",
        }
        return {**kept, **own, **self.more}

    def start(self) -> str:
        """Start it and wait until it is ready; returns what it told.

        Errors: AssertionError with all that it said when it ends or takes too long.
        """
        self.spawn()
        deadline = time.monotonic() + START_SECONDS
        while "Ctrl-C stops everything" not in self.out():
            assert self.process is not None
            ended = self.process.poll()
            assert ended is None, f"it ended with {ended}:\n{self.out()}\n{self.err()}"
            assert time.monotonic() < deadline, f"not ready after {START_SECONDS} s:\n{self.out()}\n{self.err()}"
            time.sleep(0.05)
        return self.out()

    def spawn(self, *, file_bytes: int | None = None, piped: bool = False) -> "subprocess.Popen[bytes]":
        """Start it without waiting; `file_bytes` lets no file of it grow beyond that, as a disk without room would."""

        def limit() -> None:
            if file_bytes is not None:
                import resource

                resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

        assert self.process is None or self.process.poll() is not None, "it runs already"
        self._client = None
        with self._log("out").open("wb") as out, self._log("err").open("ab") as err:
            self.process = subprocess.Popen(
                [str(DUMONT), "up"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else out,
                stderr=subprocess.PIPE if piped else err,
                env=self.environment,
                cwd=self.home.parent,
                preexec_fn=limit,
                start_new_session=True,
            )
        return self.process

    def refused(self, *, file_bytes: int | None = None) -> Said:
        """Start it where it cannot start, and return how it ended."""
        process = self.spawn(file_bytes=file_bytes, piped=True)
        out, err = process.communicate(timeout=START_SECONDS)
        return Said(process.returncode, out.decode(), err.decode())

    def out(self) -> str:
        """What it printed since the last start."""
        return self._log("out").read_text()

    def err(self) -> str:
        """What it logged since the first start."""
        return self._log("err").read_text()

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Ask it to end; returns its exit code, and sees that no process of it is left.

        Errors: AssertionError naming what was left.
        """
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(STOP_SECONDS)
        self.expect_nothing_running()
        return code

    def kill9(self) -> None:
        """Kill `dumont up` alone, as the kernel would; what it started must end or be taken over by itself."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def restart(self) -> str:
        """Start it again over the same home, at once."""
        return self.start()

    def expect_nothing_running(self, seconds: float = 60.0) -> None:
        """See that no process of this home is left.

        Errors: AssertionError with their command lines.
        """
        deadline = time.monotonic() + seconds
        while left := self.processes():
            assert time.monotonic() < deadline, f"still running: {left}"
            time.sleep(0.05)

    def processes(self) -> dict[int, str]:
        """List what runs for this home: by environment, command line or working folder."""
        places = [os.fsencode(place) for place in (self.home, self.cluster) if place is not None]
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid() and any(p in _told(entry) for p in places):
                found[int(entry.name)] = _command_line(entry)
        return found

    @property
    def cluster(self) -> Path | None:
        """Where the database lies when that is outside the home."""
        record = self.home / "postgres.json"
        return Path(json.loads(record.read_text())["cluster"]) if record.is_file() else None

    def remove(self) -> None:
        """End all that runs and delete what lies outside the home."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        deadline = time.monotonic() + 10
        while left := self.processes():
            for pid in left:
                if time.monotonic() > deadline:
                    _kill(pid)
            time.sleep(0.05)
        cluster = self.cluster
        if cluster is not None and cluster.parent == Path("/var/lib/dumont"):
            shutil.rmtree(cluster, ignore_errors=True)

    @property
    def profile(self) -> dict[str, Any]:
        """The profile that the first start wrote."""
        found: dict[str, Any] = json.loads((self.home / "cli.json").read_text())
        return found

    @property
    def client(self) -> Client:
        """A client signed in as the profile says."""
        if self._client is None:
            known = self.profile
            token = Client(self.url).login(known["user"], known["password"]).access_token
            self._client = Client(self.url, token)
        return self._client

    @property
    def control(self) -> SandboxControl:
        """The private endpoints of its marketplace."""
        token = (self.home / "sandbox" / "control.token").read_text().strip()
        return SandboxControl(f"http://127.0.0.1:{self.sandbox_port}", token)

    def http(self, token: str | None = None) -> httpx.Client:
        """Return a plain HTTP client, with a bearer token or without any."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=60)

    def sign_in(self) -> str:
        """Return a fresh access token of the first user."""
        known = self.profile
        return str(Client(self.url).login(known["user"], known["password"]).access_token)

    def cli(self, *words: str, timeout: float = 120.0, **more: str) -> Said:
        """Run the command line as a user of this home would; `more` are further variables."""
        done = subprocess.run(
            [str(DUMONT), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**self.environment, **more},
            cwd=self.home.parent,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def open_cli(self, *words: str) -> "Iterator[subprocess.Popen[bytes]]":
        """Start the command line and leave it running, its output in pipes; it ends with the block."""
        process = subprocess.Popen(
            [str(DUMONT), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
            cwd=self.home.parent,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    def run_on(self, name: str, script: str) -> str:
        """Run a shell script in an instance's workspace and return what it printed."""
        said = self.cli("exec", name, "--", "sh", "-c", script)
        assert said.code == 0, said
        return said.out

    def launch(self, label: str = "one") -> Instance:
        """Launch the cheapest offer with the command line, and return the running instance."""
        said = self.cli("launch", "--label", label, "--json")
        assert said.code == 0, said
        return next(self.client.iter_instances(label=label))

    def ended(self, operation_id: str | None, *, seconds: float = OPERATION_SECONDS) -> Operation:
        """Wait until an operation has ended, and return it.

        Errors: AssertionError when it does not.
        """
        assert operation_id is not None
        deadline = time.monotonic() + seconds
        while not (found := self.client.operation(operation_id, wait_seconds=2)).ended:
            assert time.monotonic() < deadline, f"{operation_id} has not ended: {found.raw}"
        return found

    def bills(self, instance_id: str) -> list[LedgerLine]:
        """Read the marketplace's lines of an instance's machines that were not given back."""
        labels = {machine["label"] for machine in self.client.machines(instance_id)}
        return [line for line in self.control.ledger() if line.label in labels and line.destroyed_at is None]

    def _log(self, name: str) -> Path:
        return self.home.parent / f"{self.home.name}.{name}.log"


@contextmanager
def product(folder: Path, **more: str) -> Iterator[Product]:
    """Prepare a product below `folder` on free ports; ends it and removes what it left outside the folder."""
    made = Product(folder / "home", free_port(), free_port(), more)
    try:
        yield made
    finally:
        made.remove()


def free_port() -> int:
    """Find a port that nobody listens on, and that nobody else in this run of tests is told."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = random.choice(_PORTS[worker % 16 :: 16])
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _given.add(port)
            return port


def password_in(told: str) -> str | None:
    """Find the password in what a start told."""
    found = re.search(r"^Password: +(\S+)$", told, re.MULTILINE)
    return found.group(1) if found else None


def _told(entry: Path) -> bytes:
    try:
        return b"\0".join(
            [
                (entry / "environ").read_bytes(),
                (entry / "cmdline").read_bytes(),
                os.fsencode((entry / "cwd").readlink()),
            ]
        )
    except OSError:
        return b""


def _command_line(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
    except OSError:
        return "?"


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
