"""A sandbox whose payment service is judged, and somebody who takes its notices."""

import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.support.payments import Payer, pix_service
from tests.support.sandbox import SandboxProcess, start_sandbox, wait_until

from dumont.payments import PixService


@dataclass
class Mailbox:
    """Takes notices as (headers, body); `refuse` says how many more are answered with 503."""

    url: str = ""
    refuse: int = 0
    taken: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    def wait_for(self, count: int) -> list[tuple[dict[str, str], bytes]]:
        """Wait until so many notices were taken and return them."""
        wait_until(lambda: len(self.taken) >= count, seconds=15, what=f"{count} notices")
        return self.taken


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    """One sandbox for the module."""
    running = start_sandbox(tmp_path_factory.mktemp("psp"))
    yield running
    running.stop()


@pytest.fixture
async def service(sandbox: SandboxProcess) -> AsyncIterator[PixService]:
    """The plug-in."""
    service = pix_service(sandbox)
    yield service
    await service.close()


@pytest.fixture(scope="module")
def payer(sandbox: SandboxProcess) -> Payer:
    """Somebody who pays."""
    return Payer(sandbox)


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    """Somebody who takes notices on a free port."""
    box = Mailbox()

    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            box.refuse -= 1
            if box.refuse < 0:
                box.taken.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(503 if box.refuse >= 0 else 200)
            self.end_headers()

        def log_request(self, code: object = "-", size: object = "-") -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    box.url = f"http://127.0.0.1:{server.server_port}/callback"
    yield box
    server.shutdown()
    thread.join()
    server.server_close()
