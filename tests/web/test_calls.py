"""Calls to other people's servers: one request each, and an honest word on what became of it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from dumont.web import Broken, Unsent, Web

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n"


class Server:
    """A server that counts the requests that it reads, and answers each as told."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.requests: list[bytes] = []
        self.connections = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.requests.append(head)
                await self._answers[min(len(self.requests), len(self._answers)) - 1](writer)
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def fine(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD % (2, b"") + b"ok")


async def vanish(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def half(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD % (100, b"") + b"half")
    writer.close()


@asynccontextmanager
async def asked(*answers: Answer, call_seconds: float = 10) -> AsyncIterator[tuple[Server, Web]]:
    server = Server(*answers)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    web = Web(server.url, headers={"Authorization": "Bearer key-1"}, lanes=4, call_seconds=call_seconds)
    try:
        yield server, web
    finally:
        await web.close()
        listening.close()


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
async def test_a_request_whose_answer_is_lost_is_never_sent_again(method: str) -> None:
    async with asked(fine, vanish, fine) as (server, web):
        assert (await web.ask("GET", "/first")).body == b"ok"  # so that the next goes over a connection that was used
        with pytest.raises(Broken):
            await web.ask(method, "/rent", body=b"")
        assert [request.split()[1] for request in server.requests] == [b"/first", b"/rent"]
        assert server.connections == 1


async def test_who_is_not_there_was_sent_nothing() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        web = Web(f"http://127.0.0.1:{taken.getsockname()[1]}", headers={}, lanes=1, call_seconds=5)
        with pytest.raises(Unsent):
            await web.ask("GET", "/")
        await web.close()


async def test_a_reply_that_breaks_off_or_dribbles_is_none() -> None:
    async def dribble(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD % (100, b""))
        for _ in range(100):
            writer.write(b".")
            await asyncio.sleep(0.05)

    async with asked(half, dribble, call_seconds=0.4) as (server, web):
        for _ in range(2):
            with pytest.raises(Broken):
                await web.ask("GET", "/")
        assert len(server.requests) == 2


async def test_redirects_and_cookies_are_not_followed() -> None:
    async def elsewhere(writer: asyncio.StreamWriter) -> None:
        lines = b"Location: /other\r\nSet-Cookie: a=b\r\nX-Word: said\r\nContent-Length: 0\r\n\r\n"
        writer.write(b"HTTP/1.1 302 Found\r\n" + lines)

    async with asked(elsewhere) as (server, web):
        for _ in range(2):
            reply = await web.ask("GET", "/", params={"filter": '{"label": "é&="}'})
            assert (reply.status, reply.succeeded, reply.headers["x-word"]) == (302, False, "said")
        assert len(server.requests) == 2 and all(b"Cookie" not in request for request in server.requests)
        assert all(b"Authorization: Bearer key-1\r\n" in request for request in server.requests)
        assert b"GET /?filter=" in server.requests[0]


async def test_of_a_long_body_only_the_end_is_kept() -> None:
    async def long(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD % (300_000, b"") + b"a" * 299_999 + b"z")

    async with asked(long) as (_, web):
        reply = await web.ask("GET", "/", last_bytes=10)
        assert reply.body == b"aaaaaaaaaz"


async def test_a_reply_that_nobody_asked_for_answers_no_later_request() -> None:
    sent = asyncio.Event()

    async def twice(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD % (2, b"") + b"ok")
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(HEAD % (5, b"") + b"stale")
        sent.set()

    async def own(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD % (3, b"") + b"own")

    async with asked(twice, own) as (server, web):
        assert (await web.ask("GET", "/")).body == b"ok"
        await sent.wait()
        await asyncio.sleep(0.2)
        assert (await web.ask("GET", "/")).body == b"own"
        assert (len(server.requests), server.connections) == (2, 2)


async def test_a_garbled_body_is_no_reply_and_holds_no_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    async def garbled(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")

    monkeypatch.setattr("dumont.web.client._SILENT_SECONDS", 0.3)
    async with asked(garbled) as (server, web), asyncio.timeout(60):
        for result in await asyncio.gather(*(web.ask("GET", "/") for _ in range(8)), return_exceptions=True):
            assert isinstance(result, Broken)
        assert len(server.requests) == 8


async def test_a_body_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD % (10**9, b""))
        for _ in range(100):
            writer.write(b"x" * 100_000)
            await writer.drain()

    monkeypatch.setattr("dumont.web.client._LARGEST_BODY", 1_000_000)
    async with asked(endless) as (_, web), asyncio.timeout(60):
        with pytest.raises(Broken):
            await web.ask("GET", "/")


async def test_a_proxy_never_sees_the_key_of_a_safe_address(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    listening = await asyncio.start_server(proxy, "127.0.0.1", 0)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{listening.sockets[0].getsockname()[1]}")
    web = Web("https://marketplace.example", headers={"Authorization": "Bearer key-1"}, lanes=1, call_seconds=5)
    with pytest.raises(Unsent):
        await web.ask("GET", "/api/v0/users/current/")
    await web.close()
    listening.close()
    assert seen and seen[0].startswith(b"CONNECT marketplace.example:443") and b"key-1" not in seen[0]


async def test_no_more_calls_at_once_than_lanes() -> None:
    at_once = most = 0
    four = asyncio.Event()

    async def slow(writer: asyncio.StreamWriter) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        if at_once == 4:
            four.set()
        await four.wait()
        await asyncio.sleep(0.05)
        at_once -= 1
        writer.write(HEAD % (0, b""))

    async with asked(slow, call_seconds=60) as (server, web), asyncio.timeout(60):
        await asyncio.gather(*(web.ask("GET", "/") for _ in range(12)))
        assert (len(server.requests), most) == (12, 4)
