"""`dumont up`: everything on this machine with one command."""

import logging
import signal
import sys
import time
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import click
import structlog

from dumont.app.home import (
    StartError,
    check_temporary_folder,
    open_home,
    read_secret,
    recovery_code,
    settle_clock,
)
from dumont.core import Settings, SettingsError, load_settings

if TYPE_CHECKING:
    from dumont.app.product import Ready


@click.command()
def up() -> None:
    """Start Dumont Cloud on this machine: database, sandbox marketplace, API and worker."""
    _start(api=True, worker=True, embedded=True)


@click.command()
@click.argument("role", type=click.Choice(["api", "worker"]))
def serve(role: str) -> None:
    """Run one role on a database that several processes share: docs/howto/scale-out.md."""
    _start(api=role == "api", worker=role == "worker", embedded=False)


@click.command("migrate")
def migrate_command() -> None:
    """Bring the database of DATABASE_URL up to date, as its owner; `up` does it by itself."""
    from dumont.app.product import prepare_database
    from dumont.db import DatabaseUnavailable

    try:
        settings = load_settings()
        if settings.database_url is None:
            raise StartError("Set DATABASE_URL to the owner's address of the database.")
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        secret, _ = read_secret(settings)
        urls = prepare_database(settings, secret, settings.database_url)
    except (StartError, SettingsError, DatabaseUnavailable) as error:
        click.echo(str(error), err=True)
        raise click.exceptions.Exit(2) from error
    click.echo("The database is up to date." if urls.second_wall else "Up to date, but without a role of its own.")


def _start(*, api: bool, worker: bool, embedded: bool) -> None:
    started = time.monotonic()
    stopping = _Stopping()
    stopping.install()
    try:
        settings, secret = _prepare(embedded)
    except (StartError, SettingsError) as error:
        _refuse(error)
    from dumont.app.product import Product, Roles
    from dumont.db import DatabaseStartError, DatabaseUnavailable

    def on_ready(ready: "Ready") -> None:
        stopping.serving = True
        code = recovery_code(secret) if ready.password is not None and settings.secret_key is None else None
        _tell(settings, ready, code, time.monotonic() - started)

    try:
        Product(settings, secret, Roles(api, worker, embedded)).run(on_ready)
    except (StartError, SettingsError, DatabaseStartError, DatabaseUnavailable) as error:
        _refuse(error)
    click.echo("Stopped. Your instances and snapshots are kept; ./run brings them back." if embedded else "Stopped.")


def _prepare(embedded: bool) -> tuple[Settings, bytes]:
    """Read the settings, take the home, and find what must be right before the slow parts are even imported.

    Errors: StartError, SettingsError.
    """
    settings = load_settings()
    _log_to_stderr(settings)
    if embedded:
        open_home(settings)
    else:
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    check_temporary_folder()
    secret, _ = read_secret(settings)
    return settle_clock(settings), secret


def _refuse(error: Exception) -> NoReturn:
    click.echo(str(error), err=True)
    raise click.exceptions.Exit(2) from error


@dataclass
class _Stopping:
    """SIGINT and SIGTERM end a start at once; while the server serves, it takes them itself and ends in good order."""

    serving: bool = False

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._take)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if not self.serving:
            raise SystemExit(128 + number)


def _log_to_stderr(settings: Settings) -> None:
    level = getattr(logging, settings.log_level.upper(), logging.INFO)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")


def _tell(settings: Settings, ready: "Ready", code: str | None, seconds: float) -> None:
    if ready.url is None:
        click.echo(f"The worker is ready in {seconds:.1f} s.")
        return
    lines = ["", f"Dumont Cloud is ready in {seconds:.1f} s:  {ready.url}", f"Files:      {settings.home}"]
    if ready.password is not None:
        lines += [
            f"User:       {ready.user}",
            f"Password:   {ready.password}",
            "            (shown once; the command line is signed in already by the profile below)",
        ]
    lines.append(f"Profile:    {ready.profile}")
    if code is not None:
        lines += ["Recovery:   write this down; with it the snapshots can be read even when this machine is lost:"]
        lines += [f"            {code}"]
    if settings.provider == "sandbox":
        lines.append("Market:     sandbox (machines are processes on this computer; nothing is paid)")
    lines += [
        "",
        "Try, in another terminal:",
        "  .venv/bin/dumont demo          the whole job, proven byte by byte",
        "  .venv/bin/dumont offers        what can be rented now",
        "  .venv/bin/dumont launch        rent the cheapest",
        "Ctrl-C stops everything that this started.",
        "",
    ]
    click.echo("\n".join(lines))
    sys.stdout.flush()
