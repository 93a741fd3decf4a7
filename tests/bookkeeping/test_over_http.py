"""Ten threads over real sockets: however often the same is asked at the same moment, it is posted once."""

import asyncio
import http.client
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import uvicorn
from tests.bookkeeping.household import Household
from tests.ledger.books import Books
from tests.support.api import running_api

from dumont import bookkeeping
from dumont.core import Settings
from dumont.db import DatabaseUrls

pytestmark = pytest.mark.requires_postgres

THREADS = 10
Answer = tuple[int, dict[str, Any]]


class Served:
    """A household whose API is served by uvicorn in a thread of its own."""

    def __init__(self, urls: DatabaseUrls) -> None:
        self.home: Household
        self.port = 0
        self._urls = urls
        self._server: uvicorn.Server | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(30)

    def stop(self) -> None:
        assert self._server is not None
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()

    async def _serve(self) -> None:
        settings = Settings(home=Path("/nonexistent"), limit_token_requests_minute=0, limit_token_requests_at_once=0)
        async with running_api(self._urls, *bookkeeping.routers, settings=settings) as api:
            api.app.state.clock = settings.clock
            self.home = await Household.furnish(api, Books(self._urls))
            config = uvicorn.Config(api.app, host="127.0.0.1", port=0, log_level="error", lifespan="off")
            self._server = uvicorn.Server(config)
            serving = asyncio.create_task(self._server.serve())
            while not self._server.started:
                await asyncio.sleep(0.01)
            self.port = self._server.servers[0].sockets[0].getsockname()[1]
            self._ready.set()
            await serving

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None, key: str | None = None) -> Answer:
        """Send one request over a connection of its own."""
        headers = {**self.home.person.headers, "Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, f"/api/v1{path}", json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def at_once(self, *calls: tuple[Any, ...]) -> list[Answer]:
        """Send requests from threads that all begin at the same moment."""
        gate = threading.Barrier(len(calls))

        def call(arguments: tuple[Any, ...]) -> Answer:
            gate.wait(10)
            return self.ask(*arguments)

        with ThreadPoolExecutor(len(calls)) as pool:
            return list(pool.map(call, calls))


@pytest.fixture(scope="module")
def served(urls: DatabaseUrls) -> Iterator[Served]:
    made = Served(urls)
    made.start()
    yield made
    made.stop()


@pytest.mark.checklist("PIX-06")
def test_ten_threads_that_create_the_same_transaction_post_exactly_one(served: Served) -> None:
    home, before = served.home, served.home.balances()[0]
    body, key = home.body(cents=700, description="the same"), uuid4().hex
    first = served.at_once(*[("POST", "/transactions", body, key)] * THREADS)
    again = served.at_once(*[("POST", "/transactions", body, key)] * THREADS)
    assert {status for status, _ in first} <= {201, 409} and {status for status, _ in again} <= {201, 409}
    assert {told["code"] for status, told in first + again if status == 409} <= {"idempotency-in-progress"}
    assert len({told["id"] for status, told in first + again if status == 201}) == 1
    assert home.balances()[0] == before - 700
    rows = "SELECT count(*) FROM bookkeeping_transaction WHERE team_id = %s AND description = 'the same'"
    assert home.books.rows(rows, home.person.team_id) == [(1,)]
    posted = "SELECT count(*) FROM ledger_transfer WHERE team_id = %s AND memo = 'the same'"
    assert home.books.rows(posted, home.person.team_id) == [(1,)]


def test_ten_threads_with_keys_of_their_own_post_ten(served: Served) -> None:
    home, before = served.home, served.home.balances()[0]
    body = home.body(cents=10, description="ten times")
    done = served.at_once(*[("POST", "/transactions", body, uuid4().hex) for _ in range(THREADS)])
    assert [status for status, _ in done] == [201] * THREADS
    assert home.balances()[0] == before - 100 and len({told["id"] for _, told in done}) == THREADS


@pytest.mark.checklist("PIX-08")
def test_an_edit_against_a_deletion_from_two_threads(served: Served) -> None:
    home = served.home
    for _ in range(4):
        before = home.balances()[0]
        _, made = served.ask("POST", "/transactions", home.body(cents=100), uuid4().hex)
        path = f"/transactions/{made['id']}"
        (edited, _), (deleted, _) = served.at_once(("PATCH", path, {"amount_cents": 150}), ("DELETE", path))
        assert edited in (200, 409) and deleted in (200, 409) and 200 in (edited, deleted)
        _, now = served.ask("GET", path)
        assert (now["status"] == "reversed") == (deleted == 200)
        left = 0 if deleted == 200 else 150
        assert home.balances()[0] == before - left
        own = [entry for entry in now["entries"] if entry["account_id"] == home.checking]
        signs = {"credit": 1, "debit": -1}
        assert sum(signs[one["side"]] * round(float(one["amount_str"]) * 100) for one in own) == -left
