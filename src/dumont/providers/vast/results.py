"""Fetch what Vast puts at an address of its own store when it is asked for logs."""

import asyncio
from urllib.parse import urlsplit

import httpx

from dumont.providers.contract import ProviderUnreachable

_READY_SECONDS = 30.0
_MOST_BYTES = 4 << 20
_NOT_YET = frozenset({403, 404})


async def fetch(url: str, *, base_url: str) -> str:
    """Read a result, waiting until it is there.

    Guarantees: our key is not sent, because the address is another's; only HTTPS, or the provider's own server, is
    asked. Units: at most 30 s and the last 4 MiB.
    Errors: ProviderUnreachable.
    Source: a result answers 404, or its store 403, until it is written.
    """
    own, other = urlsplit(base_url), urlsplit(url)
    if other.scheme != "https" and (other.scheme, other.netloc) != (own.scheme, own.netloc):
        raise ProviderUnreachable("Vast.ai named a place for the logs that is neither its own nor safe to ask.")
    loop = asyncio.get_running_loop()
    until, pause = loop.time() + _READY_SECONDS, 0.1
    async with httpx.AsyncClient(timeout=httpx.Timeout(10.0, connect=5.0), trust_env=other.scheme == "https") as http:
        while True:
            found = await _try(http, url)
            if found is not None:
                return found
            if loop.time() + pause >= until:
                raise ProviderUnreachable("Vast.ai did not have the logs ready in time. Ask again.")
            await asyncio.sleep(pause)
            pause = min(1.0, pause * 2)


async def _try(http: httpx.AsyncClient, url: str) -> str | None:
    try:
        async with asyncio.timeout(_READY_SECONDS), http.stream("GET", url) as reply:
            if reply.status_code in _NOT_YET:
                return None
            if reply.status_code != 200:
                raise ProviderUnreachable(f"The store of Vast.ai's logs answered {reply.status_code}.")
            kept = bytearray()
            async for piece in reply.aiter_bytes():
                kept += piece
                del kept[:-_MOST_BYTES]
            return kept.decode(errors="replace")
    except (httpx.HTTPError, TimeoutError) as error:
        raise ProviderUnreachable(f"The logs could not be fetched ({type(error).__name__}).") from error
