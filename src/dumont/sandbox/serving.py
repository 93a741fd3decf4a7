"""How every call to the marketplace is answered: who may ask, how often, which faults it meets, and what is logged."""

import asyncio
import hmac
import json
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from dumont.sandbox.dirt import soil
from dumont.sandbox.faults import Event
from dumont.sandbox.journal import body_hash
from dumont.sandbox.limits import Limits, gap_of, too_frequent
from dumont.sandbox.listing import page
from dumont.sandbox.market import Refused
from dumont.sandbox.parts import Parts

Work = Callable[[Request], Awaitable[Any]]
Endpoint = Callable[[Request], Awaitable[Response]]
_API = re.compile(r"^/+api/v\d+")
_OPEN = ("search", "gpu_names")
_OWN = ("show", "change", "destroy")
"""What a machine's own key may ask, about that machine."""
_ROWS = ("search", "list", "show")
_EMPTY = {"empty_body": b"", "null": b"null", "html": b"<html><body>Vast</body></html>"}


class Cut(Response):
    """Cuts the connection: at once, with a reset, after half of a reply, or after holding it for a while."""

    def __init__(self, how: str, whole: bytes = b"", real_s: float = 0.0) -> None:
        super().__init__(b"", 200)
        self._how = how
        self._whole = whole
        self._real_s = real_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport = scope["extensions"]["dumont.transport"]
        if self._how == "timeout":
            gone = asyncio.ensure_future(_disconnected(receive))
            await asyncio.wait({gone}, timeout=self._real_s)
            transport.abort()
            await gone
            return
        if self._how == "half_reply":
            length = str(len(self._whole)).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", length)]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            half = self._whole[: len(self._whole) // 2]
            await send({"type": "http.response.body", "body": half, "more_body": True})
            transport.close()
        else:
            if self._how == "reset":
                linger = struct.pack("ii", 1, 0)
                transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            transport.abort()
        await _disconnected(receive)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


class Serving:
    """Wraps the work of each endpoint."""

    def __init__(self, parts: Parts, key: str) -> None:
        self._parts = parts
        self._key = key
        self._bad_until = 0.0
        self._bad_form = ""
        self.limits = Limits(parts.settings.rate_limits, parts.now_s)

    def endpoint(self, name: str, work: Work) -> Endpoint:
        """Return the handler of one endpoint; `work` returns a document, or a Response that is sent as it is."""

        async def answer(request: Request) -> Response:
            event = await self._event(request, name)
            try:
                reply = await self._answer(request, name, event, work)
            except Refused as refusal:
                reply = JSONResponse(refusal.document, refusal.status)
            asked = {"method": event.method, "path": self._lasting_path(request), "op": event.op}
            asked["body_hash"] = body_hash(await request.body())
            shown = {"status": reply.status_code, "body_hash": body_hash(bytes(reply.body))}
            self._parts.journal.write("request", event.entity, request=asked, reply=shown)
            return reply

        return answer

    async def _answer(self, request: Request, name: str, event: Event, work: Work) -> Response:
        if (drop := self._take("drop_before", event)) is not None:
            return Cut(drop.get("cut", "reset"), real_s=float(drop.get("real_s", 30)))
        self._authorise(request, name)
        self._refuse_key(event)
        if (limited := self._limited(request, name, event)) is not None:
            return limited
        if (slow := self._take("latency", event)) is not None:
            await asyncio.sleep(float(slow.get("ms", 100)) / 1000)
        if (error := self._take("http_error", event)) is not None:
            return _gateway_error(error)
        if (lie := self._take("success_false_200", event)) is not None:
            error, text = lie.get("error", "invalid_request"), lie.get("msg", "Something went wrong.")
            return JSONResponse({"success": False, "error": error, "msg": text})
        if name == "list" and (empty := self._take("empty_list_200", event)) is not None:
            return _empty_list(empty.get("form", "empty_array"))
        return self._spoilt(name, event, await work(request))

    def _spoilt(self, name: str, event: Event, document: Any) -> Response:
        """Return the reply of work that was carried out."""
        reply = document if isinstance(document, Response) else JSONResponse(document)
        if (drop := self._take("accept_then_drop", event)) is not None:
            return Cut(drop.get("cut", "before_reply"), bytes(reply.body))
        if (error := self._take("error_after", event)) is not None:
            return _gateway_error(error)
        if name in _ROWS and (dirt := self._take("dirty_json", event)) is not None:
            dirty = soil(document, dirt.get("what", "NaN"), dirt.get("rows", "first"))
            return Response(dirty, 200, media_type="application/json")
        return reply

    def _take(self, fault: str, event: Event) -> dict[str, Any] | None:
        return self._parts.faults.take(fault, event)

    def _limited(self, request: Request, name: str, event: Event) -> Response | None:
        if (params := self._take("rate_limit", event)) is not None:
            threshold = float(params.get("threshold", gap_of(name)))
            return too_frequent(threshold, params.get("form", "text"), params.get("retry_after_s"))
        gap = self.limits.check(name, str(request.headers.get("authorization")))
        return None if gap is None else too_frequent(gap)

    def _refuse_key(self, event: Event) -> None:
        now = self._parts.now_s()
        if (params := self._take("auth_fail", event)) is not None:
            self._bad_form, self._bad_until = params.get("form", "401"), now + float(params.get("for_s", 0))
        elif now >= self._bad_until:
            return
        status, _, error = self._bad_form.partition("_")
        raise Refused(int(status), error or "auth_error", "Invalid user key")

    def _authorise(self, request: Request, name: str) -> None:
        if name in _OPEN:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        key = given.strip() if scheme.lower() == "bearer" else request.query_params.get("api_key", "")
        if not key:
            raise Refused(403, "auth_error", "This action requires login.")
        if hmac.compare_digest(key.encode(), self._key.encode()):
            return
        rental = self._parts.store.rental(request.path_params.get("id", 0)) if name in _OWN else None
        if rental is not None and hmac.compare_digest(key.encode(), rental.api_key.encode()):
            return
        raise Refused(401, "auth_error", "Invalid user key")

    async def _event(self, request: Request, name: str) -> Event:
        number = request.path_params.get("id") if name != "create" else None
        rental = None if number is None else self._parts.store.rental(number)
        label = rental.label if rental is not None else None
        if name == "create" and b'"label"' in await request.body():
            label = str((await body_of(request)).get("label"))
        return Event(
            entity="account" if rental is None else self._parts.troubles.entity(rental.id),
            op=await _operation(request, name),
            method=request.method,
            path=_API.sub("", request.url.path).rstrip("/") + "/",
            key="account",
            machine="" if rental is None else str(rental.box_id),
            label=label or "",
            instance="" if rental is None else str(rental.id),
        )

    def _lasting_path(self, request: Request) -> str:
        """Return the path with the number of an instance counted from the first, as it is in each run."""
        number = request.path_params.get("id")
        if number is None or self._parts.store.rental(number) is None:
            return request.url.path
        return request.url.path.replace(str(number), self._parts.troubles.entity(number))


async def body_of(request: Request) -> dict[str, Any]:
    """Return the JSON object that was sent, an empty one where nothing was.

    Errors: Refused with invalid_request.
    """
    raw = await request.body()
    try:
        body = json.loads(raw) if raw.strip() else {}
    except ValueError as error:
        raise Refused(400, "invalid_request", "Invalid json body") from error
    if not isinstance(body, dict):
        raise Refused(400, "invalid_request", "Invalid json body")
    return body


async def _operation(request: Request, name: str) -> str:
    if name not in ("change", "change_many"):
        return name.removesuffix("_many")
    try:
        state = (await body_of(request)).get("state")
    except Refused:
        return "label"
    return {"running": "start", "stopped": "stop"}.get(str(state), "label")


def _empty_list(form: str) -> Response:
    if form == "empty_array":
        return JSONResponse(page([], {}))
    return Response(_EMPTY[form], 200, media_type="text/html" if form == "html" else "application/json")


def _gateway_error(params: dict[str, Any]) -> Response:
    status = int(params.get("status", 502))
    if params.get("html", True):
        return Response(f"<html><body><h1>{status}</h1></body></html>", status, media_type="text/html")
    return JSONResponse({"success": False, "error": "server_error", "msg": f"HTTP {status}"}, status)
