"""`dumont snapshots export` and `import`: whole snapshots as plain trees in a folder or a bucket, and back."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from dumont.app.backup import progress_line
from dumont.app.existing import existing_database, in_sentences, known_secret
from dumont.cli import COMMANDS, CliError, ends_well, show_json
from dumont.core import Problem, Settings, load_settings

if TYPE_CHECKING:
    from dumont.db import Database
    from dumont.snapshots import Bucket, Snapshot, Vaults
    from dumont.vault import Choice

snapshots = cast("click.Group", COMMANDS["snapshots"].load())
_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document, nothing else.")


@dataclass(frozen=True)
class _Here:
    """An installation, as these commands see it."""

    settings: Settings
    database: "Database"
    vaults: "Vaults"


@snapshots.command("export")
@click.argument("name", metavar="SNAPSHOT")
@click.argument("to", metavar="FOLDER|s3://BUCKET/PREFIX")
@click.option("--path", "paths", multiple=True, metavar="PATH", help="Only this path or pattern; may be repeated.")
@click.option("--no-read-back", is_flag=True, help="Compare only sizes in the bucket, not every byte.")
@_as_json
@ends_well
def export_command(name: str, to: str, paths: tuple[str, ...], no_read_back: bool, as_json: bool) -> None:
    """Write a snapshot's files, or some of them, as a plain tree, where this installation's key and store are.

    A bucket's key is read from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, else it is that of DUMONT_STORE.
    """
    with _failing("Nothing else was changed."):
        done = asyncio.run(_export(name, to, paths, read_back=not no_read_back, quiet=as_json))
    if as_json:
        show_json(done)
    else:
        click.echo(f"Exported {done['files']} files, {done['bytes'] / 1e6:.1f} MB, to {to}; {done['proof']}.")


@snapshots.command("import")
@click.argument("source", metavar="FOLDER|s3://BUCKET/PREFIX")
@click.option("--instance", "instance_id", required=True, metavar="ID", help="Whose workspace it becomes a state of.")
@_as_json
@ends_well
def import_command(source: str, instance_id: str, as_json: bool) -> None:
    """Save a plain tree as a verified snapshot of an instance's workspace, where this installation's store is."""
    with _failing("No snapshot was made."):
        done = asyncio.run(_import(source, instance_id, quiet=as_json))
    if as_json:
        show_json(done)
    else:
        stored = f"{done['bytes_stored'] / 1e6:.1f} MB stored"
        click.echo(f"Snapshot {done['snapshot_id']}: {done['files']} files, {done['bytes'] / 1e6:.1f} MB, {stored}.")


@contextmanager
def _failing(kept: str) -> Iterator[None]:
    from dumont.agent import AgentFailed, AgentLost
    from dumont.snapshots import BulkFailed

    try:
        with in_sentences(kept):
            yield
    except Problem as problem:
        raise CliError(problem.detail, code=problem.code) from problem
    except (AgentFailed, AgentLost) as error:
        raise CliError(f"The tree could not be carried: {error}", code="copy-failed") from error
    except BulkFailed as error:
        raise CliError(str(error), code="copy-failed") from error
    except OSError as error:
        raise CliError(f"{error.filename or 'A file'}: {error.strerror}. {kept}", code="copy-failed") from error


@asynccontextmanager
async def _installation() -> AsyncIterator[_Here]:
    from dumont.app.storing import build_vaults
    from dumont.db import Database
    from dumont.snapshots import Leases

    settings = load_settings()
    secret = known_secret(settings)
    with existing_database(settings, secret) as url:
        database = Database(url, pool_size=3, application_name="dumont-export")
        try:
            yield _Here(settings, database, replace(build_vaults(settings, secret), leases=Leases(database)))
        finally:
            await database.close()


async def _export(name: str, to: str, paths: Sequence[str], *, read_back: bool, quiet: bool) -> dict[str, Any]:
    from dumont.snapshots import choice_of, find_ready, send_tree

    choice = choice_of(paths, replace=not paths)
    bucket = _bucket(load_settings(), to) if "://" in to else None
    async with _installation() as here:
        async with here.database.begin() as session:
            snapshot = await find_ready(session, name)
        if bucket is None:
            done = await _restore(here, snapshot, _empty(Path(to)), choice, quiet=quiet)
            return {**done, "proof": "every byte was read again from there"}
        with _staging(here.settings, 2 * (snapshot.bytes_total or 0)) as folder:
            done = await _restore(here, snapshot, folder / "tree", choice, quiet=quiet)
            back = folder / "back" if read_back else None
            with progress_line("Copying", quiet=quiet) as line:
                await asyncio.to_thread(send_tree, bucket, folder / "tree", back, snapshot.id, line.add)
    proof = "every byte was read again from there" if read_back else "sizes in the bucket were compared"
    return {**done, "proof": proof}


async def _restore(here: _Here, snapshot: "Snapshot", folder: Path, choice: "Choice", *, quiet: bool) -> dict[str, Any]:
    from dumont.snapshots import agent_here, restore

    workspace_id, manifest = snapshot.workspace_id, snapshot.manifest or ""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    async with agent_here(here.vaults, workspace_id, folder) as (link, gate, url):
        with progress_line("Reading", quiet=quiet) as line:
            done = await restore(
                here.vaults,
                link,
                gate,
                url,
                workspace_id=workspace_id,
                manifest=manifest,
                on_progress=lambda now: line.tell(now.bytes_done),
                choice=choice,
            )
    return {"snapshot_id": snapshot.id, "files": done.files, "bytes": done.bytes_total}


async def _import(source: str, instance_id: str, *, quiet: bool) -> dict[str, Any]:
    from dumont.snapshots import fetch_tree

    bucket = _bucket(load_settings(), source) if "://" in source else None
    async with _installation() as here:
        if bucket is None:
            return await _save(here, _folder(source), instance_id, quiet=quiet)
        sizes = await asyncio.to_thread(bucket.sizes)
        with _staging(here.settings, sum(sizes.values())) as staged:
            with progress_line("Copying", quiet=quiet) as line:
                await asyncio.to_thread(fetch_tree, bucket, staged / "tree", sizes, line.add)
            return await _save(here, staged / "tree", instance_id, quiet=quiet)


async def _save(here: _Here, folder: Path, instance_id: str, *, quiet: bool) -> dict[str, Any]:
    from dumont.snapshots import agent_here, begin_import, end_import, fail_import

    begun = await begin_import(here.database, instance_id, here.settings.clock.now())
    try:
        async with agent_here(here.vaults, begun["workspace_id"], folder) as (link, gate, url):
            with progress_line("Saving", quiet=quiet) as line:
                done = await end_import(
                    here.database, here.vaults, begun, link, gate, url, lambda now: line.tell(now.bytes_done)
                )
    except BaseException as error:
        await fail_import(here.database, begun, error)
        raise
    return done


def _bucket(settings: Settings, url: str) -> "Bucket":
    """Name a place in a bucket; the key comes from the environment, and goes on by it."""
    from dumont.snapshots import Bucket

    kept = ("PATH", "HOME", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION")
    environ = {name: os.environ[name] for name in (*kept, "S3_ENDPOINT_URL") if name in os.environ}
    ours = {
        "AWS_ACCESS_KEY_ID": settings.s3_key_id,
        "AWS_SECRET_ACCESS_KEY": settings.s3_secret,
        "S3_ENDPOINT_URL": settings.s3_endpoint,
        "AWS_REGION": settings.s3_region,
    }
    if "AWS_ACCESS_KEY_ID" not in environ:
        environ |= {name: value for name, value in ours.items() if value and name not in environ}
    return Bucket.at(url, environ)


def _folder(source: str) -> Path:
    if not Path(source).is_dir():
        raise CliError(f"{source} is no folder.", code="copy-failed")
    return Path(source).absolute()


def _empty(folder: Path) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CliError(f"{folder} is not an empty folder. Name one that is empty, or a new one.", code="copy-failed")
    return folder.absolute()


@contextmanager
def _staging(settings: Settings, needed: int) -> Iterator[Path]:
    """Give a folder for a while, with room for so many bytes.

    Errors: CliError where there is no room.
    """
    free = shutil.disk_usage(settings.home).free
    if free < needed:
        detail = f"{needed / 1e9:.1f} GB of room are needed in {settings.home}, and {free / 1e9:.1f} GB are free."
        raise CliError(f"{detail} Free some, or set DUMONT_HOME's disk larger.", code="copy-failed")
    with tempfile.TemporaryDirectory(dir=settings.home, prefix="staging-") as made:
        yield Path(made)
