"""The sandbox's payment service for tests: the plug-in over it, and what payers do there."""

import base64
import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.sandbox import SandboxProcess, wait_until

from dumont.core import derive_key
from dumont.payments import PixService

PIX_KEY = "pix@dumont.example"


def pix_service(sandbox: SandboxProcess, **changes: Any) -> PixService:
    """The plug-in over a sandbox's payment service."""
    values: dict[str, Any] = {
        "client_id": "dumont",
        "client_secret": sandbox.key,
        "webhook_secret": webhook_secret(sandbox),
        "key": PIX_KEY,
        "receiver": "Dumont Computação Ltda",
        "city": "São Paulo",
        "simulated": True,
    }
    return PixService(f"{sandbox.url}/_psp", **{**values, **changes})


def webhook_secret(sandbox: SandboxProcess) -> str:
    """What the sandbox signs its notices with."""
    return derive_key(sandbox.key.encode(), "pix-webhook").hex()


class Payer:
    """Somebody with a bank's app, and a hand on the sandbox's payment service; one connection for each call."""

    def __init__(self, sandbox: SandboxProcess) -> None:
        self._port = sandbox.port
        account = base64.b64encode(f"dumont:{sandbox.key}".encode()).decode()
        said = self.ask("POST", "oauth/token", {}, headers={"Authorization": f"Basic {account}"})
        self._token = said["access_token"]

    def pay(self, **wish: Any) -> dict[str, Any]:
        """Pay by `txid` or `code`; see the sandbox's `psp_payer.Wish`."""
        return self.ask("POST", "sim/pay", wish)

    def ask(
        self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None, status: int = 0
    ) -> dict[str, Any]:
        """Ask the service and return its document; a refusal is an error unless `status` awaits it."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            sent = headers or {"Authorization": f"Bearer {self._token}"}
            connection.request(method, f"/_psp/{path}", None if body is None else json.dumps(body), sent)
            reply = connection.getresponse()
            document: dict[str, Any] = json.loads(reply.read())
        finally:
            connection.close()
        assert reply.status == status or (status == 0 and reply.status < 300), (reply.status, document)
        return document


@dataclass
class Mailbox:
    """Takes notices as (headers, body); `refuse` says how many more are answered with 503."""

    url: str = ""
    refuse: int = 0
    taken: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    def wait_for(self, count: int) -> list[tuple[dict[str, str], bytes]]:
        """Wait until so many notices were taken and return them."""
        wait_until(lambda: len(self.taken) >= count, seconds=60, what=f"{count} notices")
        return self.taken


@contextmanager
def open_mailbox() -> Iterator[Mailbox]:
    """Take notices on a free port."""
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
    try:
        yield box
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
