"""The sandbox's own endpoints below /_sandbox/: look inside, turn the clock, let things befall machines."""

import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dumont.sandbox.billing import ledger
from dumont.sandbox.limits import Limits
from dumont.sandbox.market import Refused
from dumont.sandbox.parts import Parts
from dumont.sandbox.serving import body_of
from dumont.sandbox.store import Rental
from dumont.sandbox.weather_control import WeatherControl
from dumont.sandbox.wishes import KNOWN, BadFault, checked_params

_PATTERNS = ("idle", "dead", "steady", "burst", "train")


class Control:
    """The endpoints; each needs the token and a caller on this computer."""

    def __init__(self, parts: Parts, token: str, limits: Limits) -> None:
        self._parts = parts
        self._token = token
        self._limits = limits

    def routes(self) -> list[Route]:
        """Return the routes; paths come without a slash at the end."""
        table: list[tuple[str, str, Callable[[Request], Awaitable[Any]]]] = [
            ("GET", "/_sandbox/state", self._state),
            ("GET", "/_sandbox/ledger", self._ledger),
            ("POST", "/_sandbox/machines/{id:int}/load", self._load),
            ("POST", "/_sandbox/machines/{id:int}/kill_host", self._kill_host),
            ("POST", "/_sandbox/machines/{id:int}/restore_host", self._restore_host),
            ("POST", "/_sandbox/machines/{id:int}/{event}", self._inflict),
            ("GET", "/_sandbox/clock", self._clock),
            ("POST", "/_sandbox/clock", self._turn_clock),
            ("POST", "/_sandbox/limits", self._limit),
            ("GET", "/_sandbox/log", self._log),
            ("POST", "/_sandbox/reset", self._reset),
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
        dead = parts.store.dead_boxes() | parts.store.cut_boxes()
        return {
            "now": parts.now_s(),
            "clock": parts.clock.face(),
            "seed": parts.faults.seed,
            "enforce": self._limits.enforced,
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
        wanted = (await body_of(request)).get("percent")
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
        try:
            return self._parts.faults.add(await body_of(request)).document()
        except BadFault as error:
            raise Refused(400, "bad_fault", str(error)) from error

    async def _inflict(self, request: Request) -> Any:
        rental, event, params = self._named(request), request.path_params["event"], await body_of(request)
        if event not in self._parts.troubles.events:
            known = ", ".join(["load", "kill_host", "restore_host", *self._parts.troubles.events])
            raise Refused(404, "not_found", f"There is no such event; known are {known}.")
        try:
            if event in KNOWN:
                checked_params(event, params)
            await self._parts.troubles.inflict(rental.id, event, params)
        except (BadFault, FileNotFoundError) as error:
            raise Refused(400, "bad_fault", str(error)) from error
        return {"success": True}

    async def _clock(self, request: Request) -> Any:
        return self._parts.clock.face()

    async def _turn_clock(self, request: Request) -> Any:
        wish = await body_of(request)
        advance, speed, pause = wish.get("advance_s", 0), wish.get("speed"), wish.get("pause")
        if not _is_number(advance) or advance < 0 or not (speed is None or (_is_number(speed) and speed > 0)):
            raise Refused(400, "invalid_args", "advance_s must be a number from 0, speed a number above 0.")
        if not (pause is None or isinstance(pause, bool)):
            raise Refused(400, "invalid_args", "pause must be true or false.")
        self._parts.turn_clock(advance_s=advance, speed=speed, pause=pause)
        return self._parts.clock.face()

    async def _limit(self, request: Request) -> Any:
        enforce = (await body_of(request)).get("enforce")
        if not isinstance(enforce, bool):
            raise Refused(400, "invalid_args", "enforce must be true or false.")
        self._limits.enforced = enforce
        return {"enforce": enforce}

    async def _log(self, request: Request) -> Any:
        after = request.query_params.get("after", "0")
        if not after.isdigit():
            raise Refused(400, "invalid_args", "after must be the seq of a line.")
        return self._parts.journal.lines(int(after))

    async def _reset(self, request: Request) -> Any:
        wish = await body_of(request)
        seed, rules = wish.get("seed", self._parts.settings.seed), wish.get("faults", [])
        if not isinstance(seed, int) or not isinstance(rules, list):
            raise Refused(400, "invalid_args", "seed must be a whole number, faults a list of rules.")
        await self._parts.begin_again(seed)
        try:
            for rule in rules:
                self._parts.faults.add(rule)
        except BadFault as error:
            raise Refused(400, "bad_fault", str(error)) from error
        return {"success": True, "seed": seed}

    async def _remove_fault(self, request: Request) -> Any:
        return {"removed": self._parts.faults.remove(request.path_params.get("i"))}

    def _named(self, request: Request, *, gone_too: bool = False) -> Rental:
        rental = self._parts.store.rental(request.path_params["id"])
        if rental is None or (rental.destroyed_us is not None and not gone_too):
            raise Refused(404, "no_such_instance", "There is no such machine.")
        return rental


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
