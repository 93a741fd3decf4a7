"""One server, its connections, and calls that either end with a whole reply or say what is known of them."""

import asyncio
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import certifi

_CONNECT_SECONDS = 5.0
_SILENT_SECONDS = 30.0
_KEPT_SECONDS = 2.0
"""An idle connection is given up before most servers would end it while a call is on its way."""
_LARGEST_BODY = 64 << 20
_LONGEST_LINE = 1 << 16
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Unsent(Exception):
    """The request never left: nothing can have been carried out."""


class Broken(Exception):
    """No whole reply came: what the server did is unknown."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply. Names of `headers` are found in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def succeeded(self) -> bool:
        """Whether the status is one of success."""
        return 200 <= self.status < 300


class Web:
    """The connections to one address, opened when first needed; belongs to the event loop that asks first.

    Guarantees: a call is one request, never repeated, and follows no redirect; no cookies are kept; secrets stand in no
    error. Units: seconds; `call_seconds` bound the whole of a call, body included, so that a reply that dribbles is
    given up. `lanes` calls are made at once, the others wait.
    """

    def __init__(self, base_url: str, *, headers: Mapping[str, str], lanes: int, call_seconds: float) -> None:
        self._base_url = base_url.rstrip("/")
        self._headers = dict(headers)
        self._lanes = asyncio.Semaphore(lanes)
        self._call_seconds = call_seconds
        self._session: aiohttp.ClientSession | None = None

    async def ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        last_bytes: int | None = None,
    ) -> Reply:
        """Make one call and return its reply, whatever its status; of the body at most the last `last_bytes`.

        Errors: Unsent, Broken.
        """
        async with self._lanes:
            session = self._open()
            try:
                async with (
                    asyncio.timeout(self._call_seconds),
                    session.request(
                        method,
                        self._base_url + path,
                        params=params,
                        data=body,
                        headers={**self._headers, **(headers or {})},
                        allow_redirects=False,
                    ) as answer,
                ):
                    return Reply(answer.status, answer.headers, await _body(answer, last_bytes))
            except (aiohttp.ClientError, OSError, ValueError, RuntimeError) as error:
                raise Broken(type(error).__name__) from None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=_Connections(
                    limit=0,
                    keepalive_timeout=_KEPT_SECONDS,
                    ssl=_trust() if self._base_url.startswith("https:") else True,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(sock_connect=_CONNECT_SECONDS, sock_read=_SILENT_SECONDS),
                proxy=_proxy(self._base_url),
                middlewares=(_once,),
                max_line_size=_LONGEST_LINE,
                max_field_size=_LONGEST_LINE,
            )
        return self._session


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Say what is known of a request that failed, in errors after which the library does not repeat it.

    Source: aiohttp repeats PUT, DELETE and GET once after ServerDisconnectedError and ClientOSError; to rent a machine
    is a PUT.
    """
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError) as error:
        raise Unsent(type(error).__name__) from None
    except (aiohttp.ClientError, OSError) as error:
        raise Broken(type(error).__name__) from None


async def _body(answer: aiohttp.ClientResponse, last_bytes: int | None) -> bytes:
    """Read a body to its end, which must come; without `last_bytes` it may not be endless.

    Errors: ValueError, TimeoutError, aiohttp's.
    """
    kept = bytearray()
    while True:
        async with asyncio.timeout(_SILENT_SECONDS):
            piece = await answer.content.readany()
        if not piece and answer.content.at_eof():
            return bytes(kept)
        kept += piece
        if last_bytes is not None:
            del kept[:-last_bytes]
        elif len(kept) > _LARGEST_BODY:
            raise ValueError("the body is larger than any reply that we know")


class _Connections(aiohttp.TCPConnector):
    """Connections of which none is used again after something came that nobody had asked for.

    Else a late or doubled reply would be taken for the reply to the next request, and every one after it likewise.
    """

    async def _get(self, key: Any, traces: Any) -> Any:
        while (connection := await super()._get(key, traces)) is not None:
            if connection.protocol is not None and not connection.protocol.should_close:
                return connection
            connection.close()
        return None


def _trust() -> ssl.SSLContext:
    """Trust the authorities that come with us, where the operator names no others: a bare machine has none."""
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    return ssl.create_default_context(cafile=file or (None if folder else certifi.where()), capath=folder)


def _proxy(base_url: str) -> str | None:
    """Return the proxy that the environment names for an address; this machine itself needs none."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if host in _LOOPBACK or proxy_bypass(host):
        return None
    known = getproxies()
    found = known.get(parts.scheme) or known.get("all")
    return f"http://{found}" if found and "://" not in found else found
