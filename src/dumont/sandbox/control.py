"""The sandbox's own endpoints below /_sandbox/: look inside, set the load, pull the plug, wish for faults."""

import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dumont.sandbox.billing import ledger
from dumont.sandbox.faults import BadFault
from dumont.sandbox.market import Refused
from dumont.sandbox.parts import Parts
from dumont.sandbox.store import Rental
from dumont.sandbox.weather_control import WeatherControl

_PATTERNS = ("idle", "dead", "steady", "burst", "train")


class Control:
    """The endpoints; each needs the token and a caller on this computer."""

    def __init__(self, parts: Parts, token: str) -> None:
        self._parts = parts
        self._token = token

    def routes(self) -> list[Route]:
        """Return the routes; paths come without a slash at the end."""
        table: list[tuple[str, str, Callable[[Request], Awaitable[Any]]]] = [
            ("GET", "/_sandbox/state", self._state),
            ("GET", "/_sandbox/ledger", self._ledger),
            ("POST", "/_sandbox/machines/{id:int}/load", self._load),
            ("POST", "/_sandbox/machines/{id:int}/kill_host", self._kill_host),
            ("POST", "/_sandbox/machines/{id:int}/restore_host", self._restore_host),
            ("GET", "/_sandbox/faults", self._faults),
            ("POST", "/_sandbox/faults", self._add_fault),
            ("DELETE", "/_sandbox/faults", self._remove_fault),
            ("DELETE", "/_sandbox/faults/{i:int}", self._remove_fault),
            *WeatherControl(self._parts).table(),
        ]
        return [Route(path, self._guarded(work), methods=[verb]) for verb, path, work in table]

    def _guarded(self, work: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            given = request.headers.get("x-sandbox-token", "")
            if not hmac.compare_digest(given.encode(), self._token.encode()):
                return JSONResponse({"error": "token", "msg": "X-Sandbox-Token is missing or wrong."}, 403)
            if request.client is None or not ipaddress.ip_address(request.client.host).is_loopback:
                return JSONResponse({"error": "loopback", "msg": "Only callers on this computer are served."}, 403)
            try:
                return JSONResponse(await work(request))
            except Refused as refusal:
                return JSONResponse(refusal.document, refusal.status)

        return endpoint

    async def _state(self, request: Request) -> Any:
        parts = self._parts
        dead = parts.store.dead_boxes()
        return {
            "now": parts.now_s(),
            "credit_nanousd": parts.market.credit(),
            "offers": len(parts.market.offers()),
            "dead_machine_ids": sorted(dead),
            "faults": parts.faults.documents(),
            "traces": WeatherControl(parts).traces(),
            "machines": [self._machine(rental, dead) for rental in parts.store.rentals()],
        }

    def _machine(self, rental: Rental, dead: set[int]) -> dict[str, Any]:
        return {
            "instance_id": rental.id,
            "label": rental.label,
            "machine_id": rental.box_id,
            "phase": "offline" if rental.box_id in dead else rental.phase,
            "intended": rental.intended,
            "port": rental.port,
            "folder": str(self._parts.folders.machine(rental.id)),
            "load": self._parts.folders.load(rental.id),
        }

    async def _ledger(self, request: Request) -> Any:
        return ledger(self._parts.store, self._parts.market.now_us())

    async def _load(self, request: Request) -> Any:
        rental = self._named(request)
        wanted = (await _body(request)).get("percent")
        if wanted not in _PATTERNS and not (isinstance(wanted, int) and 0 <= wanted <= 100):
            raise Refused(400, "invalid_args", f"percent must be 0 to 100, or one of {', '.join(_PATTERNS)}.")
        if not self._parts.folders.exists(rental.id):
            raise Refused(409, "not_yet", "The machine has no folder yet; wait until it loads.")
        self._parts.folders.set_load(rental.id, str(wanted))
        return {"success": True}

    async def _kill_host(self, request: Request) -> Any:
        rental = self._named(request)
        self._parts.fleet.pull_plug(rental.box_id)
        await self._parts.fleet.settled(rental.id)
        return {"success": True, "machine_id": rental.box_id}

    async def _restore_host(self, request: Request) -> Any:
        rental = self._named(request, gone_too=True)
        self._parts.fleet.restore_power(rental.box_id)
        return {"success": True, "machine_id": rental.box_id}

    async def _faults(self, request: Request) -> Any:
        return self._parts.faults.documents()

    async def _add_fault(self, request: Request) -> Any:
        document = await _body(request)
        params = document.get("params")
        try:
            if document.get("fault") == "ssh_refused" and isinstance(params, dict) and "instance" in params:
                await self._parts.fleet.refuse_ssh(int(params["instance"]), float(params.get("for_s", 5)))
                return {"fault": "ssh_refused", "params": params, "times": 1, "used": 1}
            return self._parts.faults.add(document).document()
        except (BadFault, TypeError, ValueError) as error:
            raise Refused(400, "bad_fault", str(error)) from error

    async def _remove_fault(self, request: Request) -> Any:
        return {"removed": self._parts.faults.remove(request.path_params.get("i"))}

    def _named(self, request: Request, *, gone_too: bool = False) -> Rental:
        rental = self._parts.store.rental(request.path_params["id"])
        if rental is None or (rental.destroyed_us is not None and not gone_too):
            raise Refused(404, "no_such_instance", "There is no such machine.")
        return rental


async def _body(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body() or b"{}")
    except ValueError as error:
        raise Refused(400, "invalid_request", "Invalid json body") from error
    if not isinstance(body, dict):
        raise Refused(400, "invalid_request", "Invalid json body")
    return body
