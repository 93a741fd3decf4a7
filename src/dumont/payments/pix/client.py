"""Speak the Pix API: one ask per call, OAuth 2 in front, one checker of every answer; nothing is ever repeated here.

Source: Banco Central do Brasil, API Pix 2.8 (OpenAPI), paths `cob`, `pix` and errors as RFC 7807 problems.
"""

import asyncio
import json
import time
from base64 import b64encode
from typing import Any
from urllib.parse import urlencode

from dumont.payments.contract import PaymentRefused, PaymentUnreachable
from dumont.web import Broken, Reply, Unsent, Web

_CALL_SECONDS = 20.0
_LANES = 8
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
        self._account = b64encode(f"{client_id}:{client_secret}".encode()).decode()
        self._token = ""
        self._token_until = 0.0
        self._turn = asyncio.Lock()
        self._web = Web(base_url, headers={}, lanes=_LANES, call_seconds=_CALL_SECONDS)

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Make one call and return its JSON object.

        Errors: Missing for 404; PaymentRefused for any other 4xx; PaymentUnreachable where the outcome is unknown.
        """
        reply = await self._asked(method, path, body)
        if reply.status == 401:
            self._token_until = 0.0
            reply = await self._asked(method, path, body)
        return _checked(reply)

    async def close(self) -> None:
        """Close the connections."""
        await self._web.close()

    async def _asked(self, method: str, path: str, body: dict[str, Any] | None) -> Reply:
        headers = {"Authorization": f"Bearer {await self._fresh_token()}"}
        if body is None:
            return await self._send(method, path, headers)
        return await self._send(method, path, headers, "application/json", json.dumps(body))

    async def _fresh_token(self) -> str:
        async with self._turn:
            if time.monotonic() < self._token_until:
                return self._token
            form = urlencode({"grant_type": "client_credentials"})
            account = {"Authorization": f"Basic {self._account}"}
            kind = "application/x-www-form-urlencoded"
            said = _checked(await self._send("POST", "oauth/token", account, kind, form))
            token, seconds = said.get("access_token"), said.get("expires_in", 0)
            if not isinstance(token, str) or not token.isascii() or not isinstance(seconds, (int, float)):
                raise PaymentUnreachable("The payment service gave no token that can be used.")
            self._token = token
            self._token_until = time.monotonic() + max(_SHORTEST_TOKEN_SECONDS, seconds) - _EARLY_SECONDS
            return token

    async def _send(
        self, method: str, path: str, headers: dict[str, str], kind: str | None = None, content: str | None = None
    ) -> Reply:
        stated = headers if kind is None else {**headers, "Content-Type": kind}
        body = None if content is None else content.encode()
        try:
            return await self._web.ask(method, f"/{path}", headers=stated, body=body)
        except (Unsent, Broken) as error:
            raise PaymentUnreachable(retry_after=2.0) from error


def _checked(reply: Reply) -> dict[str, Any]:
    """Return the object of a success, raise for everything else."""
    status = reply.status
    if status == 404:
        raise Missing
    try:
        body = json.loads(reply.body)
    except ValueError:
        body = None
    if 400 <= status < 500 and status not in (408, 425, 429):
        said = body.get("detail") or body.get("title") if isinstance(body, dict) else None
        raise PaymentRefused(f"The payment service refused this ({status}): {_plain(said)}")
    if not reply.succeeded or not isinstance(body, dict):
        raise PaymentUnreachable(retry_after=2.0)
    return body


def _plain(said: object) -> str:
    text = said if isinstance(said, str) else "it did not say why"
    return "".join(sign for sign in text if sign.isprintable())[:200]
