"""An arena for each file of seeds."""

from collections.abc import Iterator

import pytest
from tests.simulation.arena import Arena, open_arena
from tests.support.postgres import clone_database, drop_database


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """What the seeds of one file share; all of it ends with the file."""
    urls = clone_database()
    try:
        with open_arena(urls, tmp_path_factory.mktemp("arena")) as made:
            yield made
    finally:
        drop_database(urls)
