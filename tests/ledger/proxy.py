"""A proxy of ours in front of PostgreSQL that delays, cuts a request in its midst, or cuts before the answer."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum

from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.engine import make_url

from dumont.db import psycopg_url, sqlalchemy_url


class Cut(Enum):
    """What the proxy does to one request."""

    PASS = "nothing"
    DELAY = "hold it back for a while"
    MIDST = "send half of it and cut both sides"
    ANSWER = "send it, wait for the answer, and cut before that is passed on"
    SILENCE = "send it, never pass the answer on, and cut after a while"


Decide = Callable[[bytes], Cut]


def never(request: bytes) -> Cut:
    """Pass everything on."""
    return Cut.PASS


class Proxy:
    """Listens on a port of its own in a thread of its own; `decide` is asked about each request that comes in.

    `answered` is set whenever an answer was held back: what it answers has been done.
    """

    def __init__(self, url: str) -> None:
        known = conninfo_to_dict(psycopg_url(url))
        self._host, self._port = str(known["host"]), str(known.get("port") or 5432)
        self._loop = asyncio.new_event_loop()
        self._links: set[asyncio.Task[None]] = set()
        self.decide: Decide = never
        self.delay_seconds, self.silence_seconds = 0.05, 60.0
        self.done: dict[Cut, int] = dict.fromkeys(Cut, 0)
        self.answered = threading.Event()
        self.port = 0

    def through(self, url: str) -> str:
        """Return the address that leads through the proxy."""
        made = make_url(sqlalchemy_url(url)).set(host="127.0.0.1", port=self.port, query={})
        return made.render_as_string(hide_password=False)

    def arm(self, cut: Cut, *, contains: bytes = b"", times: int = 1) -> None:
        """Do this to the next requests that contain something."""
        left = [times]
        self.answered.clear()

        def decide(request: bytes) -> Cut:
            if left[0] <= 0 or contains not in request:
                return Cut.PASS
            left[0] -= 1
            return cut

        self.decide = decide

    @contextmanager
    def running(self) -> "Iterator[Proxy]":
        """Listen for as long as the block."""
        ready = threading.Event()
        thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve(ready)), name="proxy")
        thread.start()
        ready.wait(10)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join()
            self._loop.close()

    async def _serve(self, ready: threading.Event) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._stop.wait()
        server.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        try:
            await self._link(reader, writer)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            writer.close()
            self._links.discard(link)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._host.startswith("/"):
            up = await asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.{self._port}")
        else:
            up = await asyncio.open_connection(self._host, int(self._port))
        link = _Link(self, reader, writer, *up)
        try:
            await link.run()
        finally:
            up[1].close()


class _Link:
    """One connection through the proxy."""

    def __init__(
        self,
        proxy: Proxy,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> None:
        self._proxy, self._reader, self._writer = proxy, reader, writer
        self._up_reader, self._up_writer = up_reader, up_writer
        self._held: Cut | None = None

    async def run(self) -> None:
        """Pass on in both directions until one side ends."""
        sides = {asyncio.ensure_future(self._forth()), asyncio.ensure_future(self._back())}
        try:
            await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for side in sides:
                side.cancel()
            await asyncio.gather(*sides, return_exceptions=True)

    async def _forth(self) -> None:
        while request := await self._reader.read(1 << 16):
            cut = self._proxy.decide(request)
            self._proxy.done[cut] += 1
            if cut is Cut.DELAY:
                await asyncio.sleep(self._proxy.delay_seconds)
            elif cut is Cut.MIDST:
                self._up_writer.write(request[: max(1, len(request) // 2)])
                with suppress(OSError):
                    await self._up_writer.drain()
                self._writer.transport.abort()
                return
            elif cut is not Cut.PASS:
                self._held = cut
            self._up_writer.write(request)
            await self._up_writer.drain()

    async def _back(self) -> None:
        while answer := await self._up_reader.read(1 << 16):
            if self._held is Cut.ANSWER:
                self._proxy.answered.set()
                self._writer.transport.abort()
                return
            if self._held is Cut.SILENCE:
                self._proxy.answered.set()
                await asyncio.sleep(self._proxy.silence_seconds)
                return
            self._writer.write(answer)
            await self._writer.drain()
