"""The marketplace's calls about offers and instances, as Vast.ai's console serves them below /api/."""

import json
import logging
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from dumont.sandbox import search
from dumont.sandbox.account import Account
from dumont.sandbox.bids import QUEUED
from dumont.sandbox.faults import Event
from dumont.sandbox.listing import page
from dumont.sandbox.market import Refused, read_price, read_wish
from dumont.sandbox.oddments import Oddments
from dumont.sandbox.parts import Parts
from dumont.sandbox.rows import OfferRows
from dumont.sandbox.serving import Serving, Work, body_of
from dumont.sandbox.store import Rental

_LOG = logging.getLogger("dumont.sandbox")
_MOST_COMMAND = 512


class VastApi:
    """All endpoints below /api/, and /results/ for logs; the calls about instances are here."""

    def __init__(self, parts: Parts, key: str) -> None:
        self._parts = parts
        self.serving = Serving(parts, key)
        self._account = Account(parts)
        self._oddments = Oddments(parts, self)
        self._rows = OfferRows()

    def routes(self) -> list[Route]:
        """Return the routes; paths come without a slash at the end."""
        table: list[tuple[str, str, str, Work]] = [
            ("POST", "/api/v0/bundles", "search", self._search),
            ("GET", "/api/v0/bundles", "search", self._old_search),
            ("PUT", "/api/v0/asks/{id:int}", "create", self._create),
            ("GET", "/api/v1/instances", "list", self._list),
            ("GET", "/api/v0/instances", "old_list", self._old_list),
            ("GET", "/api/v0/instances/{id:int}", "show", self._show),
            ("PUT", "/api/v0/instances/{id:int}", "change", self._change),
            ("DELETE", "/api/v0/instances/{id:int}", "destroy", self._destroy),
            ("PUT", "/api/v0/instances/reboot/{id:int}", "reboot", self._reboot),
            ("PUT", "/api/v0/instances/recycle/{id:int}", "recycle", self._recycle),
            ("PUT", "/api/v0/instances/bid_price/{id:int}", "bid", self._bid),
            ("PUT", "/api/v0/instances/request_logs/{id:int}", "logs", self._request_logs),
            ("PUT", "/api/v0/instances/command/{id:int}", "command", self._command),
            *self._account.table(),
            *self._oddments.table(),
        ]
        served = [Route(path, self.serving.endpoint(name, work), methods=[verb]) for verb, path, name, work in table]
        return [*served, Route("/results/{token}", self._result, methods=["GET"])]

    async def _search(self, request: Request) -> Any:
        return self.found(await body_of(request))

    async def _old_search(self, request: Request) -> Any:
        try:
            query = json.loads(request.query_params.get("q") or "{}")
        except ValueError as error:
            raise Refused(400, "invalid_request", "Invalid json in q") from error
        return self.found(query if isinstance(query, dict) else {})

    def found(self, query: dict[str, Any]) -> dict[str, Any]:
        """Return the reply to a search."""
        now = self._parts.now_s()
        try:
            bids, size = search.wants_bids(query), search.storage(query)
            only = search.only_machine(query)
            offers = self._parts.market.offers(bids=bids, only_box=only)
            rows = self._rows.of(offers, now, gigabytes=size, bid=bids, all_of_them=only is None)
            return {"offers": [dict(row) for row in search.select(rows, query, self._parts.offer_fields)]}
        except search.BadQuery as error:
            raise Refused(400, "invalid_request", str(error)) from error

    async def _create(self, request: Request) -> Any:
        return self.rented(request.path_params["id"], await body_of(request))

    def rented(self, offer: int, body: dict[str, Any]) -> dict[str, Any]:
        """Rent an offer as the body of a create says, and return the reply."""
        wish = read_wish(body)
        event = Event("account", op="create", path=f"/asks/{offer}/", label=wish.label or "")
        if (sold := self._parts.faults.take("sold_between", event)) is not None:
            status = int(sold.get("form", "404"))
            code = {404: "404/3603", 400: "400/3601", 410: "410/3907"}[status]
            message = f"error {code}: no_such_ask Instance type by id {offer} is not available."
            raise Refused(status, "no_such_ask", message)
        number = self._parts.market.rent(offer, wish)
        rental = self._rental(number)
        self._parts.veil(rental, fresh=True)
        self._parts.fleet.begin(rental)
        return {"success": True, "new_contract": number, "instance_api_key": rental.api_key}

    async def _list(self, request: Request) -> Any:
        reply = page(self._parts.listed(), dict(request.query_params))
        if self._parts.faults.wanted("page_drop"):
            reply["instances"] = [row for row in reply["instances"] if not self._dropped(row)]
        return reply

    def _dropped(self, row: dict[str, Any]) -> bool:
        rental = self._parts.store.rental(int(row.get("id") or 0))
        return rental is not None and self._parts.troubles.take("page_drop", rental, "list") is not None

    async def _old_list(self, request: Request) -> Any:
        message = "/api/v0/instances/ is deprecated. Use /api/v1/instances/ instead."
        raise Refused(410, "deprecated_endpoint", message)

    async def _show(self, request: Request) -> Any:
        return {"instances": self._parts.seen(request.path_params["id"])}

    async def _change(self, request: Request) -> Any:
        return self.changed(self._rental(request.path_params["id"]), await body_of(request))

    def changed(self, rental: Rental, body: dict[str, Any]) -> dict[str, Any]:
        """Change the label or the wanted state of an instance and return the reply."""
        if "label" in body:
            label = body["label"]
            if not isinstance(label, str) or len(label) > 1024:
                raise Refused(400, "label_too_long", "A label has at most 1024 characters.")
            self._parts.store.update(rental.id, label=label)
            return {"success": True}
        state = body.get("state")
        if state not in ("running", "stopped"):
            raise Refused(400, "invalid_args", "state must be running or stopped, or label a text.")
        if state == "running" and self._parts.market.credit() <= 0:
            raise Refused(400, "insufficient_credit", "The account has no credit left.")
        self._parts.veil(rental)
        if state == "stopped":
            self._parts.fleet.stop(rental)
        elif not self._parts.fleet.start(rental):
            return {"success": False, "error": "resources_unavailable", "msg": QUEUED}
        return {"success": True}

    async def _destroy(self, request: Request) -> Any:
        return await self.destroyed(self._rental(request.path_params["id"]))

    async def destroyed(self, rental: Rental) -> dict[str, Any]:
        """Give an instance up and return the reply."""
        troubles, reply = self._parts.troubles, {"success": True, "msg": "Instance destroyed successfully"}
        if troubles.take("destroy_lost", rental, "destroy") is not None:
            return reply
        if (linger := troubles.take("destroy_linger", rental, "destroy")) is not None:
            self._parts.haunt(rental.id, float(linger.get("s", 30)), linger.get("shown", "stopped"))
        self._parts.fleet.destroy(rental)
        troubles.after_destroy(rental)
        await self._parts.fleet.settled(rental.id)
        return reply

    async def _reboot(self, request: Request) -> Any:
        self._parts.fleet.reboot(self._named(request))
        return {"success": True}

    async def _recycle(self, request: Request) -> Any:
        self._parts.fleet.reboot(self._named(request), anew=True)
        return {"success": True}

    async def _bid(self, request: Request) -> Any:
        rental = self._named(request)
        price = read_price((await body_of(request)).get("price"))
        if not rental.is_bid or price is None:
            raise Refused(400, "invalid_args", "Please set a bid price >= 0.001.")
        if price > 32_000_000_000 * len(rental.gpus):
            raise Refused(400, "invalid_price", "price must be at most 32 for each GPU.")
        self._parts.fleet.change_rate(rental, price)
        return {"success": True}

    async def _request_logs(self, request: Request) -> Any:
        rental, body = self._named(request), await body_of(request)
        try:
            tail = int(body.get("tail") or 1000)
        except (TypeError, ValueError) as error:
            raise Refused(400, "invalid_args", "tail must be a number of lines.") from error
        token = self._parts.keep_log(rental.id, tail, str(body.get("filter") or ""))
        return {"success": True, "result_url": _result_url(request, token), "msg": "Log request received"}

    async def _command(self, request: Request) -> Any:
        rental, text = self._named(request), (await body_of(request)).get("command")
        words = text.split() if isinstance(text, str) else []
        if not words or len(str(text)) > _MOST_COMMAND or words[0] not in ("ls", "rm", "du"):
            raise Refused(400, "invalid_args", "command must be ls, rm or du, of at most 512 characters.")
        try:
            output = await self._parts.fleet.shells.run_command(rental, words)
        except (ValueError, OSError) as error:
            raise Refused(400, "invalid_args", str(error)) from error
        workspace = str(self._parts.folders.workspace(rental.id))
        url = _result_url(request, self._parts.keep_result(output))
        return {"success": True, "writeable_path": workspace, "result_url": url, "msg": "Command sent"}

    async def _result(self, request: Request) -> Response:
        text = self._parts.kept_result(request.path_params["token"])
        return Response(status_code=404) if text is None else PlainTextResponse(text)

    def _named(self, request: Request) -> Rental:
        return self._rental(request.path_params["id"])

    def _rental(self, number: int) -> Rental:
        rental = self._parts.store.rental(number)
        if rental is None or rental.destroyed_us is not None:
            raise Refused(404, "no_such_instance", f"Instance {number} not found.")
        return rental


def _result_url(request: Request, token: str) -> str:
    return f"{request.base_url.scheme}://{request.base_url.netloc}/results/{token}"


async def unserved(request: Request, error: Exception) -> Response:
    """Answer a path that the sandbox does not have, and log it so that gaps are seen."""
    _LOG.warning("unserved path: %s %s", request.method, request.url.path)
    return JSONResponse({"success": False, "error": "not_found", "msg": "The sandbox does not serve this path."}, 404)
