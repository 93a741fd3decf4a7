"""A server that speaks the API, and a client of it."""

from collections.abc import Iterator

import pytest
from tests.client.server import Api, serving

from dumont.client import Client


@pytest.fixture
def api() -> Iterator[Api]:
    with serving(Api()) as running:
        yield running


@pytest.fixture
def client(api: Api) -> Client:
    api.tokens.add("token-0")
    return Client(api.url, "token-0", timeout=60, patience=60)
