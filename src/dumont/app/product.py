"""The whole product in one process: database, marketplace, API and worker, started in order and stopped in reverse."""

import asyncio
import os
import secrets
import signal
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path

import structlog
import uvicorn
from sqlalchemy import text

from dumont.app.home import StartError, write_profile
from dumont.app.marketplace import start_marketplace
from dumont.app.wiring import build_api, build_providers, build_world
from dumont.core import Settings
from dumont.db import (
    WORKER_ROLE,
    Database,
    DatabaseUrls,
    EmbeddedPostgres,
    Listener,
    Subscriptions,
    migrate,
    resolve_urls,
    set_sweep,
)
from dumont.durable import REGISTRY, Worker, migrate_engine, raise_alarms
from dumont.identity import IdentityService, build_authenticator, find_user

log = structlog.get_logger()
FIRST_USER = "admin@dumont.localhost"
SWEEP_SECONDS = 2.0


@dataclass(frozen=True)
class Ready:
    """What there is to tell once everything answers. `password` only at the first start."""

    url: str
    profile: Path
    user: str | None
    password: str | None


class Product:
    """One installation on the embedded default, or on the operator's database."""

    def __init__(self, settings: Settings, secret: bytes) -> None:
        self._settings = settings
        self._secret = secret
        self._parts = ExitStack()

    def run(self, on_ready: Callable[[Ready], None]) -> None:
        """Start everything, serve until SIGINT or SIGTERM, and stop everything that was started.

        Errors: StartError, DatabaseStartError, SettingsError with a sentence.
        """
        with self._parts:
            listening = self._listen()
            urls = self._database()
            sandbox = self._marketplace()
            asyncio.run(self._serve(urls, sandbox, listening, on_ready))

    def _listen(self) -> socket.socket:
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._parts.callback(listening.close)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((self._settings.host, self._settings.port))
            listening.listen(1024)
        except OSError as error:
            raise StartError(
                f"Port {self._settings.port} on {self._settings.host} cannot be used ({error.strerror}). "
                "Stop what uses it, or set DUMONT_PORT to another one."
            ) from error
        return listening

    def _database(self) -> DatabaseUrls:
        owner = self._settings.database_url
        if owner is None:
            server = EmbeddedPostgres(self._settings.home, self._secret)
            owner = server.start()
            self._parts.callback(server.stop)
        migrate(owner, self._secret)
        urls = resolve_urls(self._settings, self._secret, owner)
        migrate_engine(owner, WORKER_ROLE if urls.worker != urls.owner else None)
        if not urls.second_wall:
            log.warning("the application connects as the owner: row-level security is not the second wall")
        return urls

    def _marketplace(self) -> tuple[str, str] | None:
        if self._settings.provider != "sandbox":
            return None
        root_ok = os.getuid() == 0
        marketplace = start_marketplace(self._settings, root_ok=root_ok)
        self._parts.callback(marketplace.stop)
        return marketplace.url, marketplace.key

    async def _serve(
        self,
        urls: DatabaseUrls,
        sandbox: tuple[str, str] | None,
        listening: socket.socket,
        on_ready: Callable[[Ready], None],
    ) -> None:
        async with AsyncExitStack() as parts:
            providers = build_providers(self._settings, sandbox)
            for provider in providers.values():
                parts.push_async_callback(provider.close)
            work = Database(urls.worker, pool_size=6, application_name="dumont-worker")
            parts.push_async_callback(work.close)
            world = build_world(self._settings, self._secret, work, providers)
            await _list_workflows(urls.owner)
            worker = Worker(urls.worker, world, work, self._settings.workers, on_fenced=_exit_now)
            await worker.start()
            parts.push_async_callback(worker.stop)
            parts.push_async_callback(_end, asyncio.create_task(_sweep(work)))
            authenticator = build_authenticator(self._secret, self._settings)
            parts.callback(authenticator.close)
            api = Database(urls.app, pool_size=8, application_name="dumont-api")
            parts.push_async_callback(api.close)
            listener = Listener(urls.app)
            await listener.start()
            parts.push_async_callback(listener.close)
            ready = await self._first_user(api, authenticator, listening)
            application = build_api(
                self._settings,
                self._secret,
                database=api,
                listener=listener,
                authenticator=authenticator,
                providers=providers,
            )
            await _serve_http(application, listening, self._settings, lambda: on_ready(ready))

    async def _first_user(self, database: Database, identity: IdentityService, listening: socket.socket) -> Ready:
        url = f"http://{self._settings.host}:{listening.getsockname()[1]}"
        profile = self._settings.home / "cli.json"
        async with database.begin() as session:
            known = await find_user(session, FIRST_USER)
        if known is not None:
            return Ready(url, profile, None, None)
        password = secrets.token_urlsafe(18)
        write_profile(self._settings.home, url, FIRST_USER, password)
        async with database.begin() as session:
            await identity.register_user(
                session, email=FIRST_USER, password=password, name="Admin", username="admin", is_operator=True
            )
        return Ready(url, profile, FIRST_USER, password)


async def _serve_http(
    application: object, listening: socket.socket, settings: Settings, on_ready: Callable[[], None]
) -> None:
    config = uvicorn.Config(
        application,  # type: ignore[arg-type]
        log_level=settings.log_level if settings.log_level != "info" else "warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=3,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn offers no event to wait for
        await asyncio.sleep(0.01)
    if server.started:
        on_ready()
    await serving


async def _list_workflows(owner_url: str) -> None:
    """Write the names that the API role may enqueue; only the owner can."""
    owner = Database(owner_url, pool_size=1, application_name="dumont-start")
    try:
        async with owner.begin() as session:
            for name in REGISTRY.definitions:
                await session.execute(
                    text("INSERT INTO durable_workflow (name) VALUES (:name) ON CONFLICT DO NOTHING"), {"name": name}
                )
    finally:
        await owner.close()


async def _sweep(database: Database) -> None:
    """Deliver news and raise alarms, again and again; an error is logged and the next round tries again."""
    subscriptions = Subscriptions()
    while True:
        try:
            await subscriptions.deliver(database)
            async with database.begin() as session:
                await set_sweep(session)
                await raise_alarms(session)
        except Exception as error:  # noqa: BLE001 - a sweep outlives every error; each is logged
            log.warning("sweep will try again", error=repr(error))
        await asyncio.sleep(SWEEP_SECONDS)


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _exit_now() -> None:
    """End this process at once: another worker may already do our work."""
    os.kill(os.getpid(), signal.SIGKILL)
