"""`dumont backup` and `dumont restore-backup`: the installation's database saved to a folder, and brought back."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dumont.app.existing import existing_database, in_sentences, known_secret
from dumont.app.home import open_home
from dumont.cli import ends_well
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

    with in_sentences("No backup was written."):
        settings = load_settings()
        secret = known_secret(settings)
        with existing_database(settings, secret) as url, progress_line("Saving", quiet=as_json) as progress:
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

    with in_sentences("The database is as it was."):
        settings = load_settings()
        secret = known_secret(settings)
        manifest = read_backup(folder, secret)
        with _alone(settings), _any_database(settings, secret) as url:
            saved_first = None
            if holds_tables(url):
                saved_first = _save_first(settings, secret, url, force=force)
            with progress_line("Restoring", quiet=as_json) as progress:
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


def _also_copy(settings: Settings) -> list[str]:
    """Name what an installation has besides its database."""
    home = settings.home
    key = "DUMONT_SECRET_KEY of the environment" if settings.secret_key is not None else str(home / "secret.key")
    parts = [home / "ssh", home / "clock.json", home / "sandbox", settings.env_file]
    store = settings.store or str(home / "vault")
    stores = [store] if store.startswith("s3:") or Path(store).exists() else []
    return [key, *stores, *(str(path) for path in parts if path is not None and path.exists())]


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


class ProgressLine:
    """One line on stderr that grows on a terminal; elsewhere it is written once, at the end."""

    def __init__(self, word: str, *, quiet: bool) -> None:
        self._word = word
        self._live = sys.stderr.isatty() and not quiet
        self._quiet = quiet
        self._size = 0
        self._told_at = 0.0

    def __enter__(self) -> "ProgressLine":
        return self

    def __exit__(self, *raised: object) -> None:
        if self._live:
            click.echo("\r\x1b[K", err=True, nl=False)
        if not self._quiet and raised[0] is None:
            click.echo(self._line(), err=True)

    def add(self, size: int) -> None:
        """Say that so many bytes more are done."""
        self.tell(self._size + size)

    def tell(self, size: int) -> None:
        """Say how many bytes are done."""
        self._size = size
        if self._live and time.monotonic() - self._told_at > _TELL_SECONDS:
            self._told_at = time.monotonic()
            click.echo(f"\r\x1b[K{self._line()}", err=True, nl=False)

    def _line(self) -> str:
        return f"{self._word}: {self._size / 1e6:.1f} MB"


def progress_line(word: str, *, quiet: bool) -> ProgressLine:
    """Show how many bytes are done, after a word for what is done with them; nothing when `quiet`."""
    return ProgressLine(word, quiet=quiet)
