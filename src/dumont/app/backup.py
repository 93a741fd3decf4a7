"""`dumont backup` and `dumont restore-backup`: the installation's database saved to a folder, and brought back."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from dumont.app.home import StartError, open_home, read_secret
from dumont.cli import CliError, ends_well
from dumont.core import Clock, Settings, load_settings

if TYPE_CHECKING:
    from dumont.db import Manifest

_TELL_SECONDS = 0.2
_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document, nothing else.")


@click.command()
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace a backup that has this name.")
@_as_json
@ends_well
def backup(folder: Path, force: bool, as_json: bool) -> None:
    """Save the database to FOLDER, whether or not Dumont runs; says what else to copy."""
    from dumont.db import save_backup

    with _in_sentences("No backup was written."):
        settings = load_settings()
        secret = _known_secret(settings)
        with _existing_database(settings, secret) as url, _Progress("Saving", quiet=as_json) as progress:
            saved = save_backup(url, folder, secret, Clock().now(), replace=force, on_progress=progress.tell)
    others = _also_copy(settings)
    if as_json:
        click.echo(json.dumps({**_document(folder, saved), "also_copy": others}, indent=2))
        return
    click.echo(f"Saved {_amount(saved)} to {folder} ({saved.dump_bytes / 1e6:.1f} MB), and read it back.")
    if saved.left_out:
        click.echo(f"Left out, because they are not Dumont's: schemas {', '.join(saved.left_out)}.")
    click.echo("It holds the database alone. Keep a copy of these too; without the key, no snapshot can be read:")
    for other in others:
        click.echo(f"  {other}")


@click.command("restore-backup")
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace a database that is not empty; what it holds is saved first.")
@_as_json
@ends_well
def restore_command(folder: Path, force: bool, as_json: bool) -> None:
    """Bring a backup's database back into this home (or DATABASE_URL); Dumont must not run."""
    from dumont.db import holds_tables, read_backup, restore_backup

    with _in_sentences("The database is as it was."):
        settings = load_settings()
        secret = _known_secret(settings)
        manifest = read_backup(folder, secret)
        with _alone(settings), _any_database(settings, secret) as url:
            saved_first = None
            if holds_tables(url):
                saved_first = _save_first(settings, secret, url, force=force)
            with _Progress("Restoring", quiet=as_json) as progress:
                restore_backup(
                    url, folder, manifest, secret, replace=saved_first is not None, on_progress=progress.tell
                )
    if as_json:
        before = str(saved_first) if saved_first else None
        click.echo(json.dumps({**_document(folder, manifest), "saved_first": before}, indent=2))
        return
    click.echo(f"Restored {_amount(manifest)} from {folder}, as they were at {manifest.made_at}.")
    if saved_first:
        click.echo(f"What was there before is in {saved_first}.")
    click.echo(
        "Machines rented or given back since then are not known to it: compare `dumont ps` with the marketplace."
    )


def _save_first(settings: Settings, secret: bytes, url: str, *, force: bool) -> Path:
    from dumont.db import BackupError, save_backup

    if not force:
        raise BackupError(
            "The database is not empty. Set DUMONT_HOME (or DATABASE_URL) to a new one, or replace what is there with "
            "--force; it is saved first."
        )
    now = Clock().now()
    folder = settings.home / f"before-restore-{now:%Y%m%dT%H%M%S.%f}"
    try:
        save_backup(url, folder, secret, now)
    except BackupError as error:
        raise BackupError(
            f"{error} What is there could not be saved, so it is not replaced. Move the database away by hand, or "
            "restore into a new home."
        ) from error
    return folder


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Hold the home's lock, so that Dumont does not run and cannot start meanwhile."""
    handle = open_home(settings)
    try:
        yield
    finally:
        os.close(handle)


@contextmanager
def _existing_database(settings: Settings, secret: bytes) -> Iterator[str]:
    """Give the owner's URL of the database that there is; makes none."""
    from dumont.db import has_cluster, visit_database

    if settings.database_url is not None:
        yield settings.database_url
        return
    if not has_cluster(settings.home):
        raise StartError(f"There is no database in {settings.home}. Set DUMONT_HOME to the folder of an installation.")
    with visit_database(settings.home, secret) as url:
        yield url


@contextmanager
def _any_database(settings: Settings, secret: bytes) -> Iterator[str]:
    """Give the owner's URL of the database, made now where there is none."""
    from dumont.db import EmbeddedPostgres

    if settings.database_url is not None:
        yield settings.database_url
        return
    server = EmbeddedPostgres(settings.home, secret)
    try:
        yield server.start()
    finally:
        server.stop()


def _known_secret(settings: Settings) -> bytes:
    """Read the secret key, and never make one: a new key belongs to no backup."""
    if settings.secret_key is None and not (settings.home / "secret.key").is_file():
        raise StartError(
            f"{settings.home} has no secret.key, and DUMONT_SECRET_KEY is not set. Set DUMONT_HOME to an installation, "
            "or copy the key of the one that was backed up into it."
        )
    return read_secret(settings)[0]


def _also_copy(settings: Settings) -> list[str]:
    """Name what an installation has besides its database."""
    home = settings.home
    key = "DUMONT_SECRET_KEY of the environment" if settings.secret_key is not None else str(home / "secret.key")
    store = Path(settings.store) if settings.store else home / "vault"
    parts = [store, home / "ssh", home / "clock.json", home / "sandbox"]
    return [key, *(str(path) for path in (*parts, settings.env_file) if path is not None and path.exists())]


def _document(folder: Path, manifest: "Manifest") -> dict[str, object]:
    return {
        "folder": str(folder.absolute()),
        "made_at": manifest.made_at,
        "revision": manifest.revision,
        "dump_bytes": manifest.dump_bytes,
        "dump_sha256": manifest.dump_sha256,
        "tables": len(manifest.tables),
        "rows": manifest.rows,
        "left_out": manifest.left_out,
    }


def _amount(manifest: "Manifest") -> str:
    return f"{len(manifest.tables)} tables with {manifest.rows} rows"


@contextmanager
def _in_sentences(kept: str) -> Iterator[None]:
    """End with a sentence; SIGTERM ends what was started in good order, as Ctrl-C does. `kept` says what then holds."""
    from dumont.db import BackupError, DatabaseStartError, DatabaseUnavailable

    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    except (BackupError, DatabaseStartError, StartError, DatabaseUnavailable) as error:
        raise CliError(str(error), code="backup") from error
    except KeyboardInterrupt as error:
        click.echo(f"Stopped. {kept}", err=True)
        raise click.exceptions.Exit(130) from error
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


class _Progress:
    """One line on stderr that grows on a terminal; elsewhere it is written once, at the end."""

    def __init__(self, word: str, *, quiet: bool) -> None:
        self._word = word
        self._live = sys.stderr.isatty() and not quiet
        self._quiet = quiet
        self._size = 0
        self._told_at = 0.0

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *raised: object) -> None:
        if self._live:
            click.echo("\r\x1b[K", err=True, nl=False)
        if not self._quiet and raised[0] is None:
            click.echo(self._line(), err=True)

    def tell(self, size: int) -> None:
        self._size = size
        if self._live and time.monotonic() - self._told_at > _TELL_SECONDS:
            self._told_at = time.monotonic()
            click.echo(f"\r\x1b[K{self._line()}", err=True, nl=False)

    def _line(self) -> str:
        return f"{self._word}: {self._size / 1e6:.1f} MB"
