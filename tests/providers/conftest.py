"""Providers under judgement, and a scripted server that says what a marketplace may say."""

import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import pytest_asyncio
from tests.support.sandbox import SandboxProcess, start_sandbox

from dumont.providers import Provider, VastProvider

Reply = tuple[int, Any]
Script = Callable[["Asked"], Reply | None]


@dataclass(frozen=True)
class Asked:
    """One request as it arrived; `raw` is its whole head."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]
    raw: str


@dataclass
class ScriptedServer:
    """Answers by `script`: (status, JSON value or text), or None to cut the connection without an answer."""

    url: str
    asked: list[Asked] = field(default_factory=list)
    script: Script = lambda asked: (500, "no script")

    def count(self, method: str) -> int:
        """How many requests came with that method."""
        return sum(1 for one in self.asked if one.method == method)


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    """A server on a free port whose answers a test decides."""

    class Face(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length) or b"null")
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, parts.path, query, body, headers, self.requestline)
            server.asked.append(asked)
            reply = server.script(asked)
            if reply is None:
                self.close_connection = True
                return
            self.say(*reply)

        def say(self, status: int, value: Any) -> None:
            data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if isinstance(value, str) else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = answer

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Keep quiet."""

    class Listener(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A caller who hangs up early is part of some tests."""

    listener = Listener(("127.0.0.1", 0), Face)
    server = ScriptedServer(f"http://127.0.0.1:{listener.server_address[1]}")
    thread = threading.Thread(target=listener.serve_forever, args=(0.02,))
    thread.start()
    yield server
    listener.shutdown()
    listener.server_close()
    thread.join()


SECRET = "key-that-must-not-show"


@pytest_asyncio.fixture
async def scripted_vast(scripted: ScriptedServer) -> AsyncIterator[VastProvider]:
    """Our Vast plug-in at the scripted server."""
    provider = VastProvider("vast", scripted.url, SECRET, doubt_delays=(0.01, 0.05, 0.1), enforce_gaps=False)
    yield provider
    await provider.close()


@pytest.fixture(scope="module")
def marketplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    """One running sandbox for a module's tests, which use machines and labels of their own."""
    home: Path = tmp_path_factory.mktemp("marketplace")
    process = start_sandbox(home)
    yield process
    process.stop()
    process.end_leftovers()


@pytest.fixture
def sandbox(marketplace: SandboxProcess) -> Iterator[SandboxProcess]:
    """The running sandbox without faults, and without machines when the test is over."""
    marketplace.control.clear_faults()
    yield marketplace
    marketplace.control.clear_faults()
    for machine in marketplace.control.state()["machines"]:
        marketplace.call("DELETE", f"/api/v0/instances/{machine['instance_id']}/", {})


def _vast(url: str, key: str) -> Provider:
    return VastProvider("vast", url, key, doubt_delays=(0.05, 0.2, 1), enforce_gaps=False)


Plugin = Callable[[str, str], Provider]
PLUGINS: dict[str, Plugin] = {"vast": _vast}
"""Every plug-in under the name of its records: made from the sandbox's address and a key, without patience."""


@pytest.fixture(params=sorted(PLUGINS))
def plugin(request: pytest.FixtureRequest) -> Plugin:
    """Each plug-in of ours in turn, to be made with an address and a key."""
    return PLUGINS[request.param]


@pytest_asyncio.fixture
async def provider(sandbox: SandboxProcess, plugin: Plugin) -> AsyncIterator[Provider]:
    """Each provider of ours in turn, at the sandbox that speaks its API."""
    judged = plugin(sandbox.url, sandbox.key)
    yield judged
    await judged.close()
