"""The two roles of the product, API and worker, as parts that one process or many can run."""

import asyncio
import ipaddress
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import structlog
import uvicorn
from fastapi import FastAPI
from sqlalchemy import text

import dumont.ledger  # noqa: F401 - its nightly audit is recorded on import
from dumont.app.charging import keep_charging
from dumont.app.wiring import build_api, build_world, find_dry_wallet
from dumont.billing import TopupDesk, keep_topups
from dumont.bookkeeping import also_ask
from dumont.core import Settings, SettingsError
from dumont.db import Database, DatabaseUrls, Listener, Subscriptions, set_sweep
from dumont.durable import REGISTRY, Worker, raise_alarms
from dumont.identity import IdentityService, build_authenticator
from dumont.instances import keep_watch
from dumont.providers import Provider

log = structlog.get_logger()
SWEEP_SECONDS = 2.0
NEWS_AT_ONCE = 1000
Providers = dict[str, Provider]


async def start_worker(
    parts: AsyncExitStack,
    settings: Settings,
    secret: bytes,
    urls: DatabaseUrls,
    providers: Providers,
    desk: TopupDesk,
) -> None:
    """Start the worker role in this event loop; `parts` stops it."""
    database = Database(urls.worker, pool_size=6, application_name="dumont-worker")
    parts.push_async_callback(database.close)
    world = build_world(settings, secret, database, providers)
    also_ask(find_dry_wallet)
    worker = Worker(urls.worker, world, database, settings.worker_concurrency, settings.poll_seconds, _exit_now)
    await worker.start()
    parts.push_async_callback(worker.stop)
    parts.push_async_callback(_end, asyncio.create_task(_sweep(database)))
    parts.push_async_callback(_end, asyncio.create_task(keep_watch(world)))
    parts.push_async_callback(_end, asyncio.create_task(keep_topups(database, desk)))
    parts.push_async_callback(_end, asyncio.create_task(keep_charging(world, urls.worker)))


async def start_api(
    parts: AsyncExitStack,
    settings: Settings,
    secret: bytes,
    urls: DatabaseUrls,
    providers: Providers,
    desk: TopupDesk,
) -> tuple[FastAPI, IdentityService]:
    """Build the API role in this event loop; `parts` stops it."""
    authenticator = build_authenticator(secret, settings)
    parts.callback(authenticator.close)
    database = Database(urls.app, pool_size=5, glances=4, application_name="dumont-api")
    parts.push_async_callback(database.close)
    listener = Listener(urls.app)
    await listener.start()
    parts.push_async_callback(listener.close)
    api = build_api(
        settings,
        secret,
        database=database,
        listener=listener,
        authenticator=authenticator,
        providers=providers,
        desk=desk,
    )
    return api, authenticator


async def serve_http(
    api: FastAPI, listening: socket.socket, settings: Settings, on_ready: Callable[[], Awaitable[None]]
) -> None:
    """Answer HTTP until SIGINT or SIGTERM; calls `on_ready` once when the first request can be answered."""
    server = uvicorn.Server(server_config(api, settings))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn offers no event to wait for
        await asyncio.sleep(0.01)
    if server.started:
        await on_ready()
    await serving


def server_config(api: FastAPI, settings: Settings) -> uvicorn.Config:
    """Return how the HTTP server runs: whose word about a caller's address it takes is a setting, by default nobody's.

    Errors: SettingsError for proxies that are neither addresses nor networks.
    """
    proxies = _proxies(settings.trusted_proxies)
    return uvicorn.Config(
        api,
        log_level=settings.log_level if settings.log_level != "info" else "warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=3,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies,
    )


def _proxies(named: str | None) -> list[str]:
    try:
        return [str(ipaddress.ip_network(one.strip())) for one in (named or "").split(",") if one.strip()]
    except ValueError as error:
        raise SettingsError(f"DUMONT_TRUSTED_PROXIES takes addresses and networks, with commas: {error}.") from error


async def list_workflows(owner_url: str) -> None:
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
            await subscriptions.deliver(database, limit=NEWS_AT_ONCE)
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
