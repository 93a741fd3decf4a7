"""Use a home's database for a while, whether or not the product runs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from dumont.db.embedded.errors import DatabaseInUse
from dumont.db.embedded.server import EmbeddedPostgres, refusal
from dumont.db.urls import psycopg_url

_PATIENCE_SECONDS = 30.0
"""How long another supervisor may take to start its server or to let go of it."""


@contextmanager
def visit_database(home: Path, secret: bytes) -> Iterator[str]:
    """Give the owner's URL of the server that runs, else of one that runs for as long as the block.

    Errors: DatabaseStartError with what to do.
    """
    server = EmbeddedPostgres(home, secret)
    try:
        yield _reach(server)
    finally:
        server.stop()


def _reach(server: EmbeddedPostgres) -> str:
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return server.start()
        except DatabaseInUse:
            if _answers(server):
                return server.url
            if time.monotonic() > until:
                raise
        time.sleep(0.05)


def _answers(server: EmbeddedPostgres) -> bool:
    try:
        psycopg.connect(psycopg_url(server.url), connect_timeout=5).close()
    except psycopg.OperationalError as error:
        if "password authentication failed" in str(error):
            raise refusal(server.place, error) from error
        return False
    return True
