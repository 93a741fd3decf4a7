"""The product in one process, whole or one role of it: parts started in order and stopped in reverse."""

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

from dumont.app.home import StartError, check_provider, follow_url, write_profile
from dumont.app.marketplace import check_marketplace, start_marketplace
from dumont.app.paying import build_desk, watch_payments
from dumont.app.roles import list_workflows, serve_http, start_api, start_worker
from dumont.app.wiring import build_providers
from dumont.core import Settings
from dumont.db import WORKER_ROLE, Database, DatabaseUrls, EmbeddedPostgres, migrate, resolve_urls, sqlalchemy_url
from dumont.durable import migrate_engine
from dumont.identity import IdentityService, find_user

log = structlog.get_logger()
FIRST_USER = "admin@dumont.localhost"


@dataclass(frozen=True)
class Ready:
    """What there is to tell once everything answers. `password` only at the first start; `url` None without API."""

    url: str | None
    profile: Path
    user: str | None = None
    password: str | None = None


@dataclass(frozen=True)
class Roles:
    """Which parts this process runs; `embedded` allows a database and a marketplace of our own."""

    api: bool
    worker: bool
    embedded: bool


class Product:
    """One process of an installation."""

    def __init__(self, settings: Settings, secret: bytes, roles: Roles) -> None:
        self._settings = settings
        self._secret = secret
        self._roles = roles
        self._parts = ExitStack()

    def run(self, on_ready: Callable[[Ready], None]) -> None:
        """Start everything, serve until SIGINT or SIGTERM, and stop everything that was started.

        Errors: StartError, DatabaseStartError, SettingsError with a sentence.
        """
        with self._parts:
            check_provider(self._settings)
            if self._roles.embedded and self._settings.provider == "sandbox" and self._settings.sandbox_url is None:
                check_marketplace(self._settings)
            listening = self._listen() if self._roles.api else None
            urls = self._database()
            sandbox = self._marketplace()
            with asyncio.Runner(loop_factory=None if self._roles.worker else _quick_loop) as runner:
                runner.run(self._serve(urls, sandbox, listening, on_ready))

    def _listen(self) -> socket.socket:
        # asyncio sends small answers at once (TCP_NODELAY) only on sockets that name TCP; without, each waits 40 ms
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
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
        if owner is None and not self._roles.embedded:
            return self._given_urls()
        if owner is None:
            server = EmbeddedPostgres(self._settings.home, self._secret)
            owner = server.start()
            self._parts.callback(server.stop)
        return prepare_database(self._settings, self._secret, owner)

    def _given_urls(self) -> DatabaseUrls:
        """Take the addresses of a database that somebody with the owner's rights has prepared."""
        app, worker = self._settings.database_app_url, self._settings.database_worker_url
        if (self._roles.api and app is None) or (self._roles.worker and worker is None):
            raise StartError(
                "This role needs a database: set DATABASE_URL (the owner, who also migrates), or "
                "DUMONT_DATABASE_APP_URL for the API and DUMONT_DATABASE_WORKER_URL for a worker."
            )
        app, worker = (sqlalchemy_url(url) if url else "" for url in (app, worker))
        return DatabaseUrls("", app, worker, second_wall=True)

    def _marketplace(self) -> tuple[str, str] | None:
        if self._settings.provider != "sandbox":
            return None
        if self._settings.sandbox_url is not None:
            return self._settings.sandbox_url, self._settings.sandbox_key or ""
        if not self._roles.embedded:
            raise StartError("Set DUMONT_SANDBOX_URL and DUMONT_SANDBOX_KEY, or DUMONT_PROVIDER=vast with its key.")
        marketplace = start_marketplace(self._settings, root_ok=os.getuid() == 0)
        self._parts.callback(marketplace.stop)
        return marketplace.url, marketplace.key

    async def _serve(
        self,
        urls: DatabaseUrls,
        sandbox: tuple[str, str] | None,
        listening: socket.socket | None,
        on_ready: Callable[[Ready], None],
    ) -> None:
        async with AsyncExitStack() as parts:
            providers = build_providers(self._settings, sandbox)
            for provider in providers.values():
                parts.push_async_callback(provider.close)
            desk, payments = build_desk(self._settings, sandbox)
            if payments is not None:
                parts.push_async_callback(payments.close)
            if self._roles.worker:
                await start_worker(parts, self._settings, self._secret, urls, providers, desk)
            if listening is None:
                on_ready(Ready(None, self._settings.home / "cli.json"))
                await _until_stopped()
                return
            api, identity = await start_api(parts, self._settings, self._secret, urls, providers, desk)
            url = f"http://{self._settings.host}:{listening.getsockname()[1]}"
            if payments is not None:
                watching = asyncio.create_task(watch_payments(payments, self._settings.public_url or url))
                parts.callback(watching.cancel)

            async def ready() -> None:
                on_ready(await self._first_user(api.state.database, identity, url))

            await serve_http(api, listening, self._settings, ready)

    async def _first_user(self, database: Database, identity: IdentityService, url: str) -> Ready:
        """Make the first user of an embedded installation and his profile; a repetition changes nothing."""
        profile = self._settings.home / "cli.json"
        async with database.begin() as session:
            known = await find_user(session, FIRST_USER)
        if known is not None or not self._roles.embedded:
            if self._roles.embedded:
                follow_url(self._settings.home, url, FIRST_USER)
            return Ready(url, profile)
        password = secrets.token_urlsafe(18)
        write_profile(self._settings.home, url, FIRST_USER, password)
        async with database.begin() as session:
            await identity.register_user(
                session, email=FIRST_USER, password=password, name="Admin", username="admin", is_operator=True
            )
        return Ready(url, profile, FIRST_USER, password)


def prepare_database(settings: Settings, secret: bytes, owner_url: str) -> DatabaseUrls:
    """Bring schema, roles, durable engine and the list of workflows up to date, as the owner.

    Errors: DatabaseUnavailable.
    """
    migrate(owner_url, secret)
    urls = resolve_urls(settings, secret, owner_url)
    migrate_engine(owner_url, WORKER_ROLE if urls.worker != urls.owner else None)
    asyncio.run(list_workflows(urls.owner))
    if not urls.second_wall:
        log.warning("the application connects as the owner: row-level security is not the second wall")
    return urls


def _quick_loop() -> asyncio.AbstractEventLoop:
    """Make the loop of a process that only answers requests; workers keep the one that asyncssh is tried with."""
    import uvloop

    return uvloop.new_event_loop()


async def _until_stopped() -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
