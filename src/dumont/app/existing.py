"""The database of an installation that exists, for commands that look at it whether or not the product runs."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from dumont.app.home import StartError, read_secret
from dumont.cli import CliError
from dumont.core import Settings


@contextmanager
def existing_database(settings: Settings, secret: bytes) -> Iterator[str]:
    """Give the owner's URL of the database that there is; makes none.

    Errors: StartError where there is none.
    """
    from dumont.db import has_cluster, visit_database

    if settings.database_url is not None:
        yield settings.database_url
        return
    if not has_cluster(settings.home):
        raise StartError(f"There is no database in {settings.home}. Set DUMONT_HOME to the folder of an installation.")
    with visit_database(settings.home, secret) as url:
        yield url


def known_secret(settings: Settings) -> bytes:
    """Read the secret key, and never make one: a new key belongs to no database that exists.

    Errors: StartError.
    """
    if settings.secret_key is None and not (settings.home / "secret.key").is_file():
        raise StartError(
            f"{settings.home} has no secret.key, and DUMONT_SECRET_KEY is not set. Set DUMONT_HOME to an installation, "
            "or copy the key of the one that was backed up into it."
        )
    return read_secret(settings)[0]


@contextmanager
def in_sentences(kept: str) -> Iterator[None]:
    """End with a sentence; SIGTERM ends what was started in good order, as Ctrl-C does. `kept` says what then holds."""
    from dumont.db import BackupError, DatabaseStartError, DatabaseUnavailable

    first = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _leave) if first else None
    try:
        yield
    except (BackupError, DatabaseStartError, StartError, DatabaseUnavailable) as error:
        raise CliError(str(error), code="database") from error
    except KeyboardInterrupt as error:
        click.echo(f"Stopped. {kept}", err=True)
        raise click.exceptions.Exit(130) from error
    finally:
        if first:
            signal.signal(signal.SIGTERM, before)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
