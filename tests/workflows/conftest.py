"""A database, a sandbox and a home for each module, and a stage on them for each test."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.postgres import clone_database, drop_database
from tests.support.sandbox import SandboxProcess, start_in
from tests.support.world import Stage, staged

from dumont.db import DatabaseUrls


@dataclass(frozen=True)
class Place:
    """What the stages of one module share."""

    urls: DatabaseUrls
    sandbox: SandboxProcess
    home: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Start what stages need; all of it ends with the module."""
    folder = tmp_path_factory.mktemp("place")
    urls = clone_database()
    sandbox = start_in(folder / "sandbox")
    yield Place(urls, sandbox, folder / "home")
    sandbox.stop()
    left = sandbox.processes()
    sandbox.end_leftovers()
    drop_database(urls)
    assert left == [], "the sandbox left processes behind"


@pytest.fixture
async def stage(place: Place) -> AsyncIterator[Stage]:
    """A team of its own and a worker's world, on the module's place."""
    async with staged(place.urls, place.sandbox, place.home) as made:
        yield made
