"""The sandbox's process: takes its home and its port, serves until told to stop, and puts everything away."""

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dumont.sandbox.api import VastApi, unserved
from dumont.sandbox.control import Control
from dumont.sandbox.parts import Parts
from dumont.sandbox.psp import Psp
from dumont.sandbox.settings import SandboxRefused, SandboxSettings
from dumont.sandbox.store import Store

_BEAT_SECONDS = 1.0
_SHORTEST_SECONDS = 0.05


def run(settings: SandboxSettings, tell: Callable[[str], None] | None = None) -> None:
    """Serve a sandbox until SIGINT, SIGTERM, or the end of stdin where that is watched.

    Calls `tell` with its URL as soon as it answers; without, it prints one JSON line on stdout: ready, port, url.

    Errors: SandboxRefused with a sentence for a person when it cannot start.
    """
    settings.check()
    if settings.host == "localhost":
        settings = replace(settings, host="127.0.0.1")
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _lock(settings.home), _listen(settings) as listener:
        key = settings.key or _secret(settings.home / "api.key")
        token = _secret(settings.home / "control.token")
        store = Store(settings.home / "sandbox.db")
        try:
            asyncio.run(_serve(settings, store, listener, key, token, tell or _print))
        finally:
            store.close()


async def _serve(
    settings: SandboxSettings,
    store: Store,
    listener: socket.socket,
    key: str,
    token: str,
    tell: Callable[[str], None],
) -> None:
    parts = Parts(settings, store)
    api = VastApi(parts, key)
    psp = Psp(settings.home, key, parts.clock)
    routes = [*api.routes(), *Control(parts, token, api.serving.limits).routes(), *psp.routes()]
    app = Starlette(routes=routes, exception_handlers={404: unserved, 405: unserved, HTTPException: unserved})
    app.router.redirect_slashes = False
    server = _Server(_config(_Paths(app)))
    _stop_on_signals(server)
    if settings.watch_stdin:
        _stop_on_eof(server)
    parts.fleet.recover()
    # The first look at a moving market is the dear one; it is taken before somebody waits for it.
    asyncio.get_running_loop().call_later(_BEAT_SECONDS / 4, parts.market.offers)
    beats = asyncio.create_task(_beat(parts))
    announcing = asyncio.create_task(_announce(server, listener, tell))
    notices = asyncio.create_task(psp.run())
    try:
        await server.serve(sockets=[listener])
    finally:
        for task in (beats, announcing, notices):
            task.cancel()
        await asyncio.gather(beats, announcing, notices, return_exceptions=True)
        psp.close()
        await parts.troubles.begin_again()
        await parts.fleet.shut_down()
        parts.journal.flush()


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )


async def _beat(parts: Parts) -> None:
    while True:
        parts.beat()
        # An outbid machine ends when it happens, not at the next beat.
        wait = parts.clock.real_delay(parts.market.next_change() - parts.market.now_s())
        await asyncio.sleep(min(_BEAT_SECONDS, max(_SHORTEST_SECONDS, wait)))


async def _announce(server: uvicorn.Server, listener: socket.socket, tell: Callable[[str], None]) -> None:
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.005)
    host, port = listener.getsockname()[:2]
    tell(f"http://{host}:{port}")


def _print(url: str) -> None:
    port = int(url.rsplit(":", 1)[1])
    sys.stdout.write(json.dumps({"ready": True, "port": port, "url": url}) + "\n")
    sys.stdout.flush()


class _Server(uvicorn.Server):
    """Leaves signals to us, because machines must be put away before the process ends."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Protocol(HttpToolsProtocol):
    """Lets a reply cut its own connection, which ASGI has no word for."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {"dumont.transport": self.transport}  # type: ignore[dict-item]


class _Paths:
    """Serves `//api/v0/x/`, `/api/v0/x/` and `/api/v0/x` alike, without a redirect."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = "/" + scope["path"].strip("/")
        await self._app(scope, receive, send)


def _stop_on_signals(server: uvicorn.Server) -> None:
    def stop() -> None:
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)


def _stop_on_eof(server: uvicorn.Server) -> None:
    def watch() -> None:
        while os.read(0, 4096):
            continue
        server.should_exit = True

    threading.Thread(target=watch, name="stdin", daemon=True).start()


@contextlib.contextmanager
def _lock(home: Path) -> Iterator[IO[str]]:
    with (home / "lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SandboxRefused(f"Another sandbox is running in {home}; stop it or choose another --home.") from error
        yield stream


@contextlib.contextmanager
def _listen(settings: SandboxSettings) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as error:
            raise SandboxRefused(
                f"Port {settings.port} on {settings.host} cannot be used ({error.strerror}); choose another --port."
            ) from error
        yield listener


def _secret(path: Path) -> str:
    if not path.exists():
        fresh = path.with_suffix(".new")
        fresh.touch(0o600)
        fresh.write_text(secrets.token_hex(32))
        fresh.replace(path)
    return path.read_text().strip()
