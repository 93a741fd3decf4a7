"""Fetch what Vast puts at an address of its own store when it is asked for logs."""

import asyncio
from urllib.parse import urlsplit

from dumont.providers.contract import ProviderUnreachable
from dumont.web import Broken, Unsent, Web

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
    store = Web(f"{other.scheme}://{other.netloc}", headers={}, lanes=1, call_seconds=_READY_SECONDS)
    try:
        while True:
            found = await _try(store, f"{other.path}?{other.query}" if other.query else other.path)
            if found is not None:
                return found
            if loop.time() + pause >= until:
                raise ProviderUnreachable("Vast.ai did not have the logs ready in time. Ask again.")
            await asyncio.sleep(pause)
            pause = min(1.0, pause * 2)
    finally:
        await store.close()


async def _try(store: Web, path: str) -> str | None:
    try:
        reply = await store.ask("GET", path, last_bytes=_MOST_BYTES)
    except (Unsent, Broken) as error:
        raise ProviderUnreachable(f"The logs could not be fetched ({error}).") from error
    if reply.status in _NOT_YET:
        return None
    if reply.status != 200:
        raise ProviderUnreachable(f"The store of Vast.ai's logs answered {reply.status}.")
    return reply.body.decode(errors="replace")
