"""A household's API behind real sockets, and whoever speaks to it from threads or from the command line."""

import asyncio
import http.client
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import uvicorn
from tests.bookkeeping.household import Household
from tests.ledger.books import Books
from tests.support.api import running_api

from dumont import bookkeeping
from dumont.core import Settings
from dumont.db import DatabaseUrls

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
