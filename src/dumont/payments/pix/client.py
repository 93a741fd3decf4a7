"""Speak the Pix API: one ask per call, OAuth 2 in front, one checker of every answer; nothing is ever repeated here.

Source: Banco Central do Brasil, API Pix 2.8 (OpenAPI), paths `cob`, `pix` and errors as RFC 7807 problems.
"""

import asyncio
import time
from typing import Any
from urllib.parse import urlsplit

import httpx

from dumont.payments.contract import PaymentRefused, PaymentUnreachable

_CALL_SECONDS = 20.0
_EARLY_SECONDS = 30.0
"""A token is renewed that long before its end."""
_SHORTEST_TOKEN_SECONDS = 60.0


class Missing(Exception):
    """The service answered that it has no such thing."""


class PixClient:
    """One account at one address. Belongs to the event loop that uses it first.

    Guarantees: secrets travel in headers only; errors never hold them.
    """

    def __init__(self, base_url: str, client_id: str, client_secret: str) -> None:
        self._account = httpx.BasicAuth(client_id, client_secret)
        self._token = ""
        self._token_until = 0.0
        self._turn = asyncio.Lock()
        loopback = (urlsplit(base_url).hostname or "") in ("127.0.0.1", "localhost", "::1")
        self._http = httpx.AsyncClient(
            base_url=base_url.rstrip("/") + "/",
            timeout=httpx.Timeout(_CALL_SECONDS, connect=5.0),
            limits=httpx.Limits(max_connections=8, keepalive_expiry=2.0),
            trust_env=not loopback,
        )

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Make one call and return its JSON object.

        Errors: Missing for 404; PaymentRefused for any other 4xx; PaymentUnreachable where the outcome is unknown.
        """
        response = await self._asked(method, path, body)
        if response.status_code == 401:
            self._token_until = 0.0
            response = await self._asked(method, path, body)
        return _checked(response)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _asked(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {await self._fresh_token()}"}
        return await self._send(method, path, headers=headers, json=body)

    async def _fresh_token(self) -> str:
        async with self._turn:
            if time.monotonic() < self._token_until:
                return self._token
            form = {"grant_type": "client_credentials"}
            said = _checked(await self._send("POST", "oauth/token", data=form, auth=self._account))
            token, seconds = said.get("access_token"), said.get("expires_in", 0)
            if not isinstance(token, str) or not token.isascii() or not isinstance(seconds, (int, float)):
                raise PaymentUnreachable("The payment service gave no token that can be used.")
            self._token = token
            self._token_until = time.monotonic() + max(_SHORTEST_TOKEN_SECONDS, seconds) - _EARLY_SECONDS
            return token

    async def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                return await self._http.request(method, path, **content)
        except (httpx.HTTPError, TimeoutError) as error:
            raise PaymentUnreachable(retry_after=2.0) from error


def _checked(response: httpx.Response) -> dict[str, Any]:
    """Return the object of a success, raise for everything else."""
    status = response.status_code
    if status == 404:
        raise Missing
    try:
        body = response.json()
    except ValueError:
        body = None
    if 400 <= status < 500 and status not in (408, 425, 429):
        said = body.get("detail") or body.get("title") if isinstance(body, dict) else None
        raise PaymentRefused(f"The payment service refused this ({status}): {_plain(said)}")
    if not response.is_success or not isinstance(body, dict):
        raise PaymentUnreachable(retry_after=2.0)
    return body


def _plain(said: object) -> str:
    text = said if isinstance(said, str) else "it did not say why"
    return "".join(sign for sign in text if sign.isprintable())[:200]
