"""Whose word about a caller's address the server takes: by default nobody's, else that of the proxies named."""

import asyncio
import socket
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request

from dumont.app.roles import server_config
from dumont.core import Settings, SettingsError


async def seen_address(proxies: str | None) -> str:
    """Return the address that an API sees for a caller on this machine who says that he is 192.0.2.7."""
    api = FastAPI()

    @api.get("/")
    async def show(request: Request) -> str:
        return request.client.host if request.client else ""

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(server_config(api, Settings(home=Path("/nonexistent"), trusted_proxies=proxies)))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}") as client:
            answer = await client.get("/", headers={"X-Forwarded-For": "192.0.2.7"})
        return str(answer.json())
    finally:
        server.should_exit = True
        await serving


async def test_a_caller_does_not_say_himself_who_he_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    assert await seen_address(None) == "127.0.0.1"
    assert await seen_address("10.0.0.1, 10.1.0.0/16") == "127.0.0.1"


async def test_a_proxy_that_is_named_is_believed() -> None:
    assert await seen_address("10.0.0.1, 127.0.0.1") == "192.0.2.7"
    assert await seen_address("127.0.0.0/8") == "192.0.2.7"


async def test_what_is_no_address_stops_the_start() -> None:
    for named in ("*", "localhost", "10.0.0.1/8"):
        with pytest.raises(SettingsError, match="DUMONT_TRUSTED_PROXIES"):
            await seen_address(named)
