"""The REST API of the marketplace, as Vast.ai's console serves it: routes, checks, and replies."""

import hmac
import json
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from dumont.sandbox import search
from dumont.sandbox.billing import MICRO, charges
from dumont.sandbox.documents import dollars, offer_document
from dumont.sandbox.limits import Limits
from dumont.sandbox.listing import page
from dumont.sandbox.market import Refused, read_price, read_wish
from dumont.sandbox.parts import Parts
from dumont.sandbox.ssh import readable_key, same_key
from dumont.sandbox.store import Rental

_LOG = logging.getLogger("dumont.sandbox")
_USER = 456
_CHARGES_PAGE = 500


class Dropped(Response):
    """No reply at all: the connection is cut after the work was done."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"]["dumont.transport"].abort()
        while (await receive())["type"] != "http.disconnect":
            continue


class VastApi:
    """The endpoints below /api/, and /results/ for logs."""

    def __init__(self, parts: Parts, key: str) -> None:
        self._parts = parts
        self._key = key
        self._limits = Limits(parts.settings.rate_limits)

    def routes(self) -> list[Route]:
        """Return the routes; paths come without a slash at the end."""
        table: list[tuple[str, str, str, Callable[[Request], Awaitable[Any]]]] = [
            ("POST", "/api/v0/bundles", "search", self._search),
            ("PUT", "/api/v0/asks/{id:int}", "create", self._create),
            ("GET", "/api/v1/instances", "list", self._list),
            ("GET", "/api/v0/instances", "old_list", self._old_list),
            ("GET", "/api/v0/instances/{id:int}", "show", self._show),
            ("PUT", "/api/v0/instances/{id:int}", "change", self._change),
            ("DELETE", "/api/v0/instances/{id:int}", "destroy", self._destroy),
            ("PUT", "/api/v0/instances/reboot/{id:int}", "reboot", self._reboot),
            ("PUT", "/api/v0/instances/bid_price/{id:int}", "bid", self._bid),
            ("PUT", "/api/v0/instances/request_logs/{id:int}", "logs", self._request_logs),
            ("GET", "/api/v0/instances/{id:int}/ssh", "keys", self._machine_keys),
            ("POST", "/api/v0/instances/{id:int}/ssh", "attach", self._attach),
            ("DELETE", "/api/v0/instances/{id:int}/ssh/{key:int}", "detach", self._detach),
            ("GET", "/api/v0/ssh", "keys", self._keys),
            ("POST", "/api/v0/ssh", "key", self._add_key),
            ("PUT", "/api/v0/ssh/{key:int}", "key", self._change_key),
            ("DELETE", "/api/v0/ssh/{key:int}", "key", self._change_key),
            ("GET", "/api/v0/users/current", "user", self._user),
            ("GET", "/api/v0/charges", "charges", self._charges),
        ]
        served = [Route(path, self._served(name, work), methods=[verb]) for verb, path, name, work in table]
        return [*served, Route("/results/{token}", self._result, methods=["GET"])]

    def _served(self, name: str, work: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                self._authorise(request, name)
                operation = await self._operation(request, name)
                limited = self._limits.check(name, str(request.headers.get("authorization")))
                if limited is not None:
                    return PlainTextResponse(f"API requests too frequent: endpoint threshold={limited}", 429)
                fault = self._parts.faults.take_for("http_error", operation)
                if fault is not None:
                    return _gateway_error(int(fault.params.get("status", 502)))
                document = await work(request)
            except Refused as refusal:
                return JSONResponse(refusal.document, refusal.status)
            if self._parts.faults.take_for("accept_then_drop", operation) is not None:
                return Dropped()
            return JSONResponse(document)

        return endpoint

    def _authorise(self, request: Request, name: str) -> None:
        if name == "search":
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        key = given.strip() if scheme.lower() == "bearer" else request.query_params.get("api_key", "")
        if not key:
            raise Refused(403, "auth_error", "This action requires login.")
        if hmac.compare_digest(key.encode(), self._key.encode()):
            return
        rental = self._parts.store.rental(request.path_params.get("id", 0)) if name != "create" else None
        if (
            rental is not None
            and name in ("show", "change", "destroy")
            and hmac.compare_digest(key.encode(), rental.api_key.encode())
        ):
            return
        raise Refused(401, "auth_error", "Invalid user key")

    async def _operation(self, request: Request, name: str) -> str:
        if name != "change":
            return name
        state = (await _body(request)).get("state")
        return {"running": "start", "stopped": "stop"}.get(str(state), "label")

    async def _search(self, request: Request) -> Any:
        query = await _body(request)
        now = self._parts.now_s()
        try:
            bids, size = search.wants_bids(query), search.storage(query)
            rows = [offer_document(o, now, gigabytes=size, bid=bids) for o in self._parts.market.offers(bids=bids)]
            return {"offers": search.select(rows, query, self._parts.offer_fields)}
        except search.BadQuery as error:
            raise Refused(400, "invalid_request", str(error)) from error

    async def _create(self, request: Request) -> Any:
        wish = read_wish(await _body(request))
        number = self._parts.market.rent(request.path_params["id"], wish)
        doom = self._parts.faults.take("host_dies", _this_rental)
        if doom is not None:
            self._parts.fleet.doom(number, doom.params)
        self._parts.fleet.poke(number)
        self._parts.fleet.arbitrate()
        key = self._rental(number).api_key
        return {"success": True, "new_contract": number, "instance_api_key": key}

    async def _list(self, request: Request) -> Any:
        rentals = self._parts.store.rentals()
        if self._parts.faults.take("empty_list_200"):
            rentals = []
        return page([self._parts.instance(rental) for rental in rentals], dict(request.query_params))

    async def _old_list(self, request: Request) -> Any:
        message = "/api/v0/instances/ is deprecated. Use /api/v1/instances/ instead."
        raise Refused(410, "deprecated_endpoint", message)

    async def _show(self, request: Request) -> Any:
        rental = self._parts.store.rental(request.path_params["id"])
        if rental is None or rental.destroyed_us is not None:
            return {"instances": None}
        return {"instances": self._parts.instance(rental)}

    async def _change(self, request: Request) -> Any:
        rental, body = self._named(request), await _body(request)
        if "label" in body:
            label = body["label"]
            if not isinstance(label, str) or len(label) > 1024:
                raise Refused(400, "label_too_long", "A label has at most 1024 characters.")
            self._parts.store.update(rental.id, label=label)
        elif body.get("state") == "running":
            if self._parts.market.credit() <= 0:
                raise Refused(400, "insufficient_credit", "The account has no credit left.")
            if not self._parts.fleet.start(rental):
                text = "Required resources are currently unavailable, state change queued."
                return {"success": False, "error": "resources_unavailable", "msg": text}
        elif body.get("state") == "stopped":
            self._parts.fleet.stop(rental)
        else:
            raise Refused(400, "invalid_args", "state must be running or stopped, or label a text.")
        return {"success": True}

    async def _destroy(self, request: Request) -> Any:
        rental = self._named(request)
        self._parts.fleet.destroy(rental)
        await self._parts.fleet.settled(rental.id)
        return {"success": True, "msg": "Instance destroyed successfully"}

    async def _reboot(self, request: Request) -> Any:
        self._parts.fleet.reboot(self._named(request))
        return {"success": True}

    async def _bid(self, request: Request) -> Any:
        rental = self._named(request)
        price = read_price((await _body(request)).get("price"))
        if not rental.is_bid or price is None:
            raise Refused(400, "invalid_args", "Please set a bid price >= 0.001.")
        if price > 32_000_000_000 * len(rental.gpus):
            raise Refused(400, "invalid_price", "price must be at most 32 for each GPU.")
        self._parts.fleet.change_rate(rental, price)
        return {"success": True}

    async def _request_logs(self, request: Request) -> Any:
        rental = self._named(request)
        try:
            tail = int((await _body(request)).get("tail") or 1000)
        except (TypeError, ValueError) as error:
            raise Refused(400, "invalid_args", "tail must be a number of lines.") from error
        token = self._parts.keep_log(rental.id, tail)
        url = f"{request.base_url.scheme}://{request.base_url.netloc}/results/{token}"
        return {"success": True, "result_url": url, "msg": "Log request received"}

    async def _result(self, request: Request) -> Response:
        text = self._parts.kept_log(request.path_params["token"])
        return Response(status_code=404) if text is None else PlainTextResponse(text)

    async def _machine_keys(self, request: Request) -> Any:
        keys = self._parts.store.rental_keys(self._named(request).id)
        return {
            "success": True,
            "ssh_keys": json.dumps([{"id": key, "name": "", "public_key": text} for key, text in keys]),
        }

    async def _attach(self, request: Request) -> Any:
        rental, text = self._named(request), _key_text(await _body(request))
        store = self._parts.store
        if not any(same_key(text, known) for _, known in store.rental_keys(rental.id)):
            known_id = next((key for key, known, _ in store.account_keys() if same_key(text, known)), None)
            key = store.add_key(text, _now(), account=False) if known_id is None else known_id
            store.attach(rental.id, key, text)
        return {"success": True, "msg": "SSH key attached successfully"}

    async def _detach(self, request: Request) -> Any:
        if not self._parts.store.detach(self._named(request).id, request.path_params["key"]):
            raise Refused(404, "not_found", "The instance has no such key.")
        return {"success": True}

    async def _keys(self, request: Request) -> Any:
        return [
            {"id": key, "user_id": _USER, "key": text, "created_at": created, "deleted_at": None}
            for key, text, created in self._parts.store.account_keys()
        ]

    async def _add_key(self, request: Request) -> Any:
        text, now = _key_text(await _body(request)), _now()
        key = self._parts.store.add_key(text, now, account=True)
        shown = {"id": key, "user_id": _USER, "public_key": text, "created_at": now, "deleted_at": None}
        return {"success": True, "key": shown}

    async def _change_key(self, request: Request) -> Any:
        text = _key_text(await _body(request)) if request.method == "PUT" else None
        if not self._parts.store.change_key(request.path_params["key"], text):
            raise Refused(404, "not_found", "There is no such key.")
        return {"success": True}

    async def _user(self, request: Request) -> Any:
        return {
            "id": _USER,
            "key_id": 9,
            "email": "sandbox@dumont.invalid",
            "username": "sandbox",
            "balance": 0.0,
            "credit": dollars(self._parts.market.credit()),
            "balance_threshold": 5.0,
            "ssh_key": "",
            "sid": "sandbox",
            "host_agreement_accepted": False,
        }

    async def _charges(self, request: Request) -> Any:
        window = _window(request.query_params.get("select_filters"))
        rows = charges(self._parts.store, self._parts.market.now_us(), window)
        if request.query_params.get("latest_first") == "true":
            rows.reverse()
        try:
            at = int(request.query_params.get("after_token") or 0)
            size = min(_CHARGES_PAGE, max(1, int(request.query_params.get("limit") or 100)))
        except ValueError as error:
            raise Refused(400, "invalid_token", "limit and after_token must be ours.") from error
        shown = rows[at : at + size]
        following = str(at + size) if at + size < len(rows) else None
        return {
            "success": True,
            "count": len(shown),
            "total": len(rows),
            "next_token": following,
            "results": shown,
        }

    def _named(self, request: Request) -> Rental:
        return self._rental(request.path_params["id"])

    def _rental(self, number: int) -> Rental:
        rental = self._parts.store.rental(number)
        if rental is None or rental.destroyed_us is not None:
            raise Refused(404, "no_such_instance", f"Instance {number} not found.")
        return rental


async def unserved(request: Request, error: Exception) -> Response:
    """Answer a path that the sandbox does not have, and log it so that gaps are seen."""
    _LOG.warning("unserved path: %s %s", request.method, request.url.path)
    return JSONResponse({"success": False, "error": "not_found", "msg": "The sandbox does not serve this path."}, 404)


def _this_rental(params: dict[str, Any]) -> bool:
    """Count rentals down: the n-th one from the wish on is meant."""
    left = int(params.get("after_rentals", 1)) - 1
    params["after_rentals"] = left
    return left <= 0


def _gateway_error(status: int) -> Response:
    return Response(f"<html><body><h1>{status}</h1></body></html>", status, media_type="text/html")


async def _body(request: Request) -> dict[str, Any]:
    raw = await request.body()
    try:
        body = json.loads(raw) if raw.strip() else {}
    except ValueError as error:
        raise Refused(400, "invalid_request", "Invalid json body") from error
    if not isinstance(body, dict):
        raise Refused(400, "invalid_request", "Invalid json body")
    return body


def _key_text(body: dict[str, Any]) -> str:
    text = body.get("ssh_key")
    if not isinstance(text, str) or "\n" in text.strip() or not readable_key(text.strip()):
        raise Refused(400, "invalid_args", "ssh_key must be one public key.")
    return text.strip()


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _window(text: str | None) -> tuple[int, int]:
    try:
        day = json.loads(text or "")["day"]
        return int(float(day["gte"]) * MICRO), int(float(day["lte"]) * MICRO)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise Refused(400, "invalid_request", "select_filters must say day gte and lte.") from error
