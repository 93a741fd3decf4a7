"""The one checker of Vast's replies: returns the JSON of a success, raises for everything else.

Source: the shape {success, error, msg}, where any part may be missing, the words of `error`, and the quirks: a bad
key may answer 404, a sold offer 400, 404 or 410, and a failure may come with status 200.
"""

import json
import math
import re
import time
from typing import Any

from dumont.core import storable
from dumont.providers.contract import (
    BadCredentials,
    MachineAbsent,
    NoCapacity,
    OfferGone,
    ProviderError,
    ProviderRefused,
    ProviderUnreachable,
    RateLimited,
)
from dumont.providers.vast.values import finite, text
from dumont.web import Reply

_SOLD = re.compile(
    r"no_such_ask|error 404/3603|error 410/3907|no longer rentable|already (been )?rented|unavailable|not available",
    re.I,
)


def checked(reply: Reply, *, kind: str, secret: str) -> Any:
    """Return the reply's JSON value when the call was carried out.

    Errors: ProviderUnreachable for 3xx, 5xx, what is not JSON and moved endpoints; RateLimited without a pause (the
    caller knows the gaps); else the class that the error's words name.
    """
    body = _json(reply)
    status = reply.status
    if reply.succeeded and not _failed(body):
        if isinstance(body, (dict, list)):
            return body
        raise ProviderUnreachable("Vast.ai answered without a readable JSON body; what it did is unknown.")
    document = body if isinstance(body, dict) else {}
    code = text(document, "error")
    message = _message(document, reply, secret)
    machine = text(document, "new_contract")
    if status == 429:
        pause = pause_of(reply)
        raise RateLimited(f"Vast.ai asks us to slow down: {message}", retry_after=pause, code=code)
    raise _error(status, code, message, machine, kind, bool(document))


def _failed(body: Any) -> bool:
    if not isinstance(body, dict):
        return False
    return body.get("success") is False or (body.get("success") is not True and bool(body.get("error")))


def pause_of(reply: Reply) -> float | None:
    """Return after how many seconds a refused call may be repeated, where the reply says so.

    Source: Retry-After, a `retry_after` member, or X-RateLimit-Reset (a Unix time) of the daily search quota.
    """
    reset = finite(reply.headers.get("x-ratelimit-reset"))
    if reset is not None:
        return max(0.0, reset - time.time())
    body = _json(reply)
    stated = finite(reply.headers.get("retry-after"))
    if stated is None and isinstance(body, dict):
        stated = finite(body.get("retry_after"))
    return None if stated is None else min(60.0, max(0.0, stated))


def _error(
    status: int, code: str | None, message: str, machine: str | None, kind: str, readable: bool
) -> ProviderError:
    words = f"{code or ''} {message}"
    if status >= 500 or 300 <= status < 400 or code == "deprecated_endpoint":
        return ProviderUnreachable(
            f"Vast.ai failed to answer ({status}): {message}", code=code or str(status), machine_id=machine
        )
    if "not your own" in words:
        return ProviderRefused(f"Vast.ai says that this is not ours: {message}", code=code)
    if status in (401, 403) or code == "auth_error":
        return BadCredentials(f"Vast.ai does not accept the key for this: {message}", code=code or str(status))
    if not readable:
        return ProviderUnreachable(f"Something else answered in Vast.ai's place ({status}).", code=str(status))
    if code == "resources_unavailable":
        return NoCapacity(f"The GPU is taken: {message}", code=code, machine_id=machine)
    if code == "no_such_ask" or (kind == "create" and _SOLD.search(words)):
        return OfferGone("The offer is no longer there.", code=code, machine_id=machine)
    if code == "no_such_instance":
        return MachineAbsent(f"Vast.ai does not know it: {message}", code=code)
    return ProviderRefused(
        f"Vast.ai refused ({code or status}): {message}", code=code or str(status), machine_id=machine
    )


def _json(reply: Reply) -> Any:
    try:
        return json.loads(reply.body, parse_constant=lambda _: math.nan)
    except (ValueError, RecursionError):
        return None


def _message(document: dict[str, Any], reply: Reply, secret: str) -> str:
    found = text(document, "msg", "message", "detail")
    if found is None and not document and "html" not in reply.headers.get("content-type", ""):
        found = reply.body.decode(errors="replace")
    plain = " ".join(storable(found or f"HTTP status {reply.status}").split())[:300]
    return plain.replace(secret, "***") if secret else plain
