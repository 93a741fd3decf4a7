"""Wires the rooms together: providers, the worker's world, the API application."""

from dataclasses import replace
from datetime import datetime
from functools import partial

from fastapi import FastAPI
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from dumont import billing, bookkeeping, hibernation, identity, instances, market, operations, snapshots, sync
from dumont.app.home import no_key
from dumont.app.storing import build_vaults
from dumont.core import Settings, derive_key
from dumont.db import Database, Listener
from dumont.http import Limits, create_app, problems
from dumont.identity import IdentityService
from dumont.instances import Instance, Patience, Status, World
from dumont.providers import Provider, VastProvider
from dumont.remote import SshIdentity

SANDBOX_PATIENCE = Patience(poll_seconds=0.25, absence_seconds=0.5, doubt_seconds=3.0, lost_seconds=2.0)
VAST_URL = "https://console.vast.ai"


def build_providers(settings: Settings, sandbox: tuple[str, str] | None) -> dict[str, Provider]:
    """Build the plug-ins that are configured; `sandbox` is the URL and key of our own marketplace.

    Errors: StartError when the default provider is not among them.
    """
    found: dict[str, Provider] = {}
    if sandbox is not None:
        url, key = sandbox
        found["sandbox"] = VastProvider("sandbox", url, key, doubt_delays=(0.2, 0.5, 1, 2), enforce_gaps=False)
    if settings.vast_key is not None:
        found["vast"] = VastProvider("vast", settings.vast_url or VAST_URL, settings.vast_key)
    if settings.provider not in found:
        raise no_key(settings)
    return found


def build_world(settings: Settings, secret: bytes, database: Database, providers: dict[str, Provider]) -> World:
    """Build what the worker's steps need.

    Errors: StartError where the store cannot be used.
    """
    vaults = replace(build_vaults(settings, secret), leases=snapshots.Leases(database))
    return World(
        database=database,
        clock=settings.clock,
        settings=settings,
        providers=providers,
        ssh=SshIdentity.from_seed(derive_key(secret, "ssh"), "dumont-cloud"),
        vaults=vaults,
        agent_cache=settings.home / "agent",
        patience={"sandbox": SANDBOX_PATIENCE},
    )


def build_api(
    settings: Settings,
    secret: bytes,
    *,
    database: Database,
    listener: Listener,
    authenticator: IdentityService,
    providers: dict[str, Provider],
    desk: billing.TopupDesk | None = None,
) -> FastAPI:
    """Build the API of all rooms."""
    authenticator.may_close_team(_keep_what_lives)
    authenticator.on_team_created(partial(give_wallet, settings))
    authenticator.on_team_created(partial(give_categories, settings))
    bookkeeping.also_ask(find_dry_wallet)
    app = create_app(
        database=database,
        authenticator=authenticator,
        secret=secret,
        limits=Limits(settings),
        routers=[
            *identity.routers,
            operations.router,
            market.router,
            *snapshots.routers,
            *billing.routers,
            instances.router,
            instances.stray_router,
            instances.keys_router,
            *hibernation.routers,
            sync.router,
            *bookkeeping.routers,
        ],
    )
    app.state.settings = settings
    app.state.clock = settings.clock
    app.state.providers = providers
    app.state.topup_desk = desk or billing.TopupDesk(None, None, settings.clock)
    app.state.offers = market.Offers(providers, database, settings.clock)
    app.state.listener = listener
    return app


async def find_dry_wallet(session: AsyncSession, team_id: str, now: datetime) -> list[bookkeeping.Insight]:
    """Find whether a team's wallet runs dry soon; billing knows how long it lasts, bookkeeping tells people."""
    found = await billing.runway(session, team_id, now)
    if found is None:
        return []
    return bookkeeping.wallet_dry(
        available=found.available,
        burn_hour=found.burn_hour,
        runs_out_at=found.runs_out_at,
        currency=found.currency,
        now=now,
    )


async def give_wallet(settings: Settings, session: AsyncSession, team_id: str) -> None:
    """Make the wallet of a new team, in the transaction that makes the team."""
    await billing.ensure_wallet(session, team_id, settings.clock.now())


async def give_categories(settings: Settings, session: AsyncSession, team_id: str) -> None:
    """Make the categories that a new team begins with, in the same transaction."""
    await bookkeeping.give_categories(session, team_id, settings.clock.now())


async def _keep_what_lives(session: AsyncSession, team_id: str) -> None:
    """Refuse to close a team that still has something: a machine that costs, or a saved one that would be forgotten."""
    alive = select(func.count()).where(Instance.team_id == team_id, Instance.status != Status.DESTROYED.value)
    found = await session.scalar(alive)
    if found:
        detail = f"Instances that this team still has: {found}. Destroy them first."
        raise problems.WrongState("in use", ["empty"], detail)
