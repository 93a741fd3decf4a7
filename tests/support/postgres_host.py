"""Hold the test run's PostgreSQL until nobody uses it: `postgres_host.py FOLDER RUN`."""

import fcntl
import json
import os
import shutil
import sys
from pathlib import Path

import psycopg

from dumont.core import load_settings
from dumont.db import (
    WORKER_ROLE,
    EmbeddedPostgres,
    migrate,
    psycopg_url,
    resolve_urls,
    sqlalchemy_url,
    with_database,
)
from dumont.durable import migrate_engine

TEST_SECRET = b"only for tests, never a real key"
_QUICK = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200"}


def main() -> None:
    """Start or find the server, migrate the template, say so, and wait for the last user to go."""
    folder, run = Path(sys.argv[1]), sys.argv[2]
    outside = os.environ.get("DATABASE_URL")
    embedded = None if outside else EmbeddedPostgres(folder / "home", TEST_SECRET, settings=_QUICK)
    try:
        owner = sqlalchemy_url(outside) if outside else embedded.start() if embedded else ""
        serve(folder, run, owner)
    finally:
        if embedded is not None:
            embedded.stop()
            shutil.rmtree(embedded.place.cluster)
    shutil.rmtree(folder)


def serve(folder: Path, run: str, owner: str) -> None:
    """Make the template, publish the addresses, and return when every user has let go of the lock."""
    template = f"dumont_template_{run}"
    execute(owner, f"CREATE DATABASE {template} TEMPLATE template0")
    try:
        inside = with_database(owner, template)
        migrate(inside, TEST_SECRET)
        urls = resolve_urls(load_settings({"DUMONT_HOME": str(folder / "home")}), TEST_SECRET, inside)
        migrate_engine(inside, WORKER_ROLE if urls.second_wall else None)
        ready = {
            "owner_url": owner,
            "app_url": urls.app,
            "worker_url": urls.worker,
            "second_wall": urls.second_wall,
            "template": template,
        }
        draft = folder / "ready.new"
        draft.write_text(json.dumps(ready))
        draft.replace(folder / "ready.json")
        with (folder / "users").open("r+") as users:
            fcntl.flock(users, fcntl.LOCK_EX)
            (folder / "ready.json").unlink()
    finally:
        sweep(owner, run)


def sweep(owner: str, run: str) -> None:
    """Drop every database of this run."""
    with psycopg.connect(psycopg_url(owner), autocommit=True) as connection:
        pattern = f"^dumont_(test|template)_{run}(_|$)"
        found = connection.execute("SELECT datname FROM pg_database WHERE datname ~ %s", [pattern]).fetchall()
        for (name,) in found:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def execute(url: str, statement: str) -> None:
    """Run one statement outside a transaction."""
    with psycopg.connect(psycopg_url(url), autocommit=True) as connection:
        connection.execute(statement)


if __name__ == "__main__":
    main()
