"""The simulated payment service's postman: signs notices and brings them, again and again until somebody takes them."""

import asyncio
import hashlib
import hmac
import http.client
import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from dumont.sandbox.psp_books import PspBooks, PspNotice

HEADER = "X-Pix-Signature"
_MOST_TRIES = 12
_LONGEST_PAUSE_SECONDS = 30.0
_CALL_SECONDS = 10.0
_IDLE_SECONDS = 60.0
Describe = Callable[[PspNotice], tuple[str, dict[str, Any]] | None]
"""Says for a notice whose key it belongs to and what it tells; None where there is nothing to tell."""


class Postman:
    """Brings what is due; one at a time, in the order of their times."""

    def __init__(self, books: PspBooks, secret: str, describe: Describe) -> None:
        self._books = books
        self._secret = secret
        self._describe = describe
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Say that something new is due."""
        self._rung.set()

    async def run(self) -> None:
        """Bring notices until cancelled."""
        while True:
            for notice in self._books.due(time.time()):
                await self._bring(notice)
            due = self._books.next_due()
            pause = _IDLE_SECONDS if due is None else max(0.0, due - time.time())
            try:
                await asyncio.wait_for(self._rung.wait(), min(pause, _IDLE_SECONDS))
            except asyncio.TimeoutError:
                continue
            self._rung.clear()

    async def _bring(self, notice: PspNotice) -> None:
        described = self._describe(notice)
        url = None if described is None else self._books.webhook(described[0])
        if described is None or url is None or notice.tries >= _MOST_TRIES:
            self._books.sent(notice.number)
            return
        body = json.dumps({"pix": [described[1]]}).encode()
        if await asyncio.to_thread(self._post, url, body):
            self._books.sent(notice.number)
        else:
            pause = min(_LONGEST_PAUSE_SECONDS, 0.25 * 2**notice.tries)
            self._books.later(notice.number, time.time() + pause)

    def _post(self, url: str, body: bytes) -> bool:
        """Send one notice; tell whether somebody took it."""
        moment = int(time.time())
        mac = hmac.new(self._secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=_CALL_SECONDS)
        headers = {"Content-Type": "application/json", HEADER: f"t={moment},v1={mac}"}
        try:
            connection.request("POST", parts.path or "/", body, headers)
            return 200 <= connection.getresponse().status < 300
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
