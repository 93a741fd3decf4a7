"""What only the official client asks for: bulk forms, search and rent in one call, and lists that are empty here."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from dumont.sandbox.market import Refused
from dumont.sandbox.parts import Parts
from dumont.sandbox.serving import Work, body_of
from dumont.sandbox.store import Rental

if TYPE_CHECKING:
    from dumont.sandbox.api import VastApi

_LAST_PAGE = {"next_token": None}
_EMPTY: tuple[tuple[str, str, str, Any], ...] = (
    ("GET", "/api/v0/template", "misc", {"success": True, "templates_found": 0, "templates": []}),
    ("GET", "/api/v0/secrets", "misc", {"success": True, "secrets": {}}),
    ("GET", "/api/v0/auth/apikeys", "misc", []),
    ("GET", "/api/v0/users/me/ipaddrs", "misc", {"success": True, "results": []}),
    ("GET", "/api/v0/audit_logs", "misc", []),
    ("GET", "/api/v0/users/me/invoices", "invoices", {"success": True, "invoices": [], "current": {"charges": 0}}),
    (
        "GET",
        "/api/v1/invoices",
        "invoices",
        {"success": True, "count": 0, "total": 0, "next_token": None, "results": []},
    ),
    ("GET", "/api/v0/users/cloud_integrations", "integrations", []),
    ("GET", "/api/v0/instance_backups", "misc", {"success": True, "backups": []}),
    ("GET", "/api/v0/commands/schedule_job", "misc", []),
    ("PUT", "/api/v0/commands/schedule_job", "misc", {"success": True}),
    ("POST", "/api/v0/contracts/fetch", "misc", {"success": True, "contracts": []}),
    ("GET", "/api/v0/volumes", "volumes", {"success": True, "volumes": []}),
    ("POST", "/api/v0/volumes/search", "volumes", {"offers": []}),
    (
        "GET",
        "/api/v0/instances/pending-price-increases",
        "misc",
        {"success": True, "count": 0, "truncated": False, "pending_price_increases": []},
    ),
)
"""Replies that are valid and empty, because the sandbox has no such things."""


class Oddments:
    """The endpoints, by way of those that do the work for one instance."""

    def __init__(self, parts: Parts, api: "VastApi") -> None:
        self._parts = parts
        self._api = api

    def table(self) -> list[tuple[str, str, str, Work]]:
        """Return method, path, name and work of each endpoint."""
        return [
            *((verb, path, name, _always(reply)) for verb, path, name, reply in _EMPTY),
            ("GET", "/api/v0/gpu_names/unique", "gpu_names", self._gpu_names),
            ("GET", "/api/v0/instances/filters", "misc", self._filters),
            ("PUT", "/api/v0/search/asks", "search", self._new_search),
            ("PUT", "/api/v0/launch_instance", "launch", self._launch),
            ("POST", "/api/v0/asks/bulk", "create", self._create_many),
            ("PUT", "/api/v0/instances", "change_many", self._change_many),
            ("POST", "/api/v0/instances/start", "start_many", self._start_many),
            ("DELETE", "/api/v0/instances", "destroy_many", self._destroy_many),
            ("PUT", "/api/v0/instances/update_template/{id:int}", "misc", self._known),
            ("PUT", "/api/v0/instances/prepay/{id:int}", "prepay", self._known),
            ("POST", "/api/v0/instances/take_snapshot/{id:int}", "misc", self._known),
            ("PUT", "/api/v0/instances/accept-price-increase", "misc", self._no_increase),
            ("PUT", "/api/v0/instances/reject-price-increase", "misc", self._no_increase),
        ]

    async def _gpu_names(self, request: Request) -> Any:
        names = {str(row["gpu_name"]) for row in self._api.found({})["offers"]}
        return {"success": True, "gpu_names": sorted(names)}

    async def _filters(self, request: Request) -> Any:
        names = ("actual_status", "verification", "gpu_name")
        return {
            "success": True,
            "filters": [{name: row.stored[name] for name in names} for row in self._parts.listed()],
        }

    async def _new_search(self, request: Request) -> Any:
        query = (await body_of(request)).get("q")
        return self._api.found(query if isinstance(query, dict) else {})

    async def _launch(self, request: Request) -> Any:
        body = await body_of(request)
        wanted: dict[str, Any] = {"order": [["dph_total", "asc"]], "rentable": {"eq": True}}
        for field, name in (("gpu_name", "gpu_name"), ("num_gpus", "num_gpus")):
            if body.get(name) is not None:
                wanted[field] = {"eq": body[name]}
        if isinstance(body.get("q"), dict):
            wanted |= body["q"]
        offers = self._api.found({**wanted, "allocated_storage": body.get("disk", 10)})["offers"]
        if not offers:
            raise Refused(404, "no_such_ask", "No offer fits.")
        return self._api.rented(int(offers[0]["id"]), body)

    async def _create_many(self, request: Request) -> Any:
        body = await body_of(request)
        return {"success": True, "results": [self._api.rented(number, body) for number in _numbers(body, "ids")]}

    async def _change_many(self, request: Request) -> Any:
        body = await body_of(request)
        replies = [self._api.changed(rental, body) for rental in self._rentals(_numbers(body, "ids"))]
        return next((reply for reply in replies if not reply["success"]), {"success": True})

    async def _start_many(self, request: Request) -> Any:
        numbers = _numbers(await body_of(request), "IDs")
        for rental in self._rentals(numbers):
            self._api.changed(rental, {"state": "running"})
        return {"success": True}

    async def _destroy_many(self, request: Request) -> Any:
        for rental in self._rentals(_numbers(await body_of(request), "instance_ids", "ids")):
            await self._api.destroyed(rental)
        return {"success": True}

    async def _known(self, request: Request) -> Any:
        self._rentals([request.path_params["id"]])
        return {"success": True, "msg": "Nothing of this kind is done in the sandbox."}

    async def _no_increase(self, request: Request) -> Any:
        raise Refused(404, "no_pending_price_increase", "There is no such pending price increase.")

    def _rentals(self, numbers: list[int]) -> list[Rental]:
        found = [self._parts.store.rental(number) for number in numbers]
        living = [rental for rental in found if rental is not None and rental.destroyed_us is None]
        if len(living) != len(numbers):
            raise Refused(404, "no_such_instance", "Not all of these instances exist.")
        return living


def _always(reply: Any) -> Callable[[Request], Awaitable[Any]]:
    async def work(request: Request) -> Any:
        return reply

    return work


def _numbers(body: dict[str, Any], *names: str) -> list[int]:
    found = next((body[name] for name in names if name in body), None)
    if not isinstance(found, list) or any(not str(one).isdigit() for one in found):
        raise Refused(400, "invalid_args", f"{names[0]} must be a list of instance numbers.")
    return [int(one) for one in found]
