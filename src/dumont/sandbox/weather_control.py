"""The endpoints below /_sandbox/ that move the market: rivals that come and go, and traces that parts of it follow."""

import json
import math
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request

from dumont.core import nanousd
from dumont.sandbox.catalogue import Box
from dumont.sandbox.market import Refused
from dumont.sandbox.parts import Parts
from dumont.sandbox.traces import BadTrace, Binding

Work = Callable[[Request], Awaitable[Any]]


class WeatherControl:
    """What a test or a scenario does to the market."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def table(self) -> list[tuple[str, str, Work]]:
        """Return (method, path, work) of each endpoint."""
        return [
            ("GET", "/_sandbox/rivals", self._rivals),
            ("POST", "/_sandbox/rivals", self._send),
            ("DELETE", "/_sandbox/rivals", self._dismiss),
            ("DELETE", "/_sandbox/rivals/{i:int}", self._dismiss),
            ("GET", "/_sandbox/traces", self._traces),
            ("POST", "/_sandbox/traces", self._bind),
            ("DELETE", "/_sandbox/traces", self._unbind),
        ]

    async def _rivals(self, request: Request) -> Any:
        return [visitor.document() for visitor in self._parts.market.rivals.visitors(self._parts.now_s())]

    async def _send(self, request: Request) -> Any:
        """Let a renter come: `instance`, or `machine_id` and `gpus`; `bid` in dollars per hour for all, `for_s`."""
        body = await _body(request)
        box, gpus = self._place(body)
        try:
            bid = None if body.get("bid") is None else round(nanousd(body["bid"]) / len(gpus))
            until = self._parts.now_s() + float(body["for_s"]) if "for_s" in body else math.inf
        except (TypeError, ValueError, ArithmeticError) as error:
            raise Refused(400, "invalid_args", "bid and for_s must be numbers.") from error
        visitor = self._parts.market.rivals.send(box, gpus, bid, until)
        self._parts.fleet.arbitrate()
        return visitor.document()

    def _place(self, body: dict[str, Any]) -> tuple[Box, tuple[int, ...]]:
        market = self._parts.market
        instance = body.get("instance")
        rental = self._parts.store.rental(instance) if isinstance(instance, int) else None
        if rental is not None:
            return market.boxes[rental.box_id], rental.gpus
        box = market.boxes.get(body.get("machine_id", 0))
        if box is None:
            raise Refused(404, "no_such_machine", "Name an instance, or a machine_id of the catalogue.")
        gpus = body.get("gpus", list(range(box.gpus)))
        if not isinstance(gpus, list) or not gpus or not set(gpus) <= set(range(box.gpus)):
            raise Refused(400, "invalid_args", f"gpus must be some of 0 to {box.gpus - 1}.")
        return box, tuple(gpus)

    async def _dismiss(self, request: Request) -> Any:
        gone = self._parts.market.rivals.dismiss(request.path_params.get("i"))
        self._parts.fleet.arbitrate()
        return {"removed": gone}

    async def _traces(self, request: Request) -> Any:
        return self.traces()

    def traces(self) -> list[dict[str, Any]]:
        """Return what `state` and `traces` show."""
        now = self._parts.now_s()
        return [_shown(trace, now) for trace in self._parts.market.rivals.traces]

    async def _bind(self, request: Request) -> Any:
        try:
            trace = self._parts.market.lay(await _body(request))
        except BadTrace as error:
            raise Refused(400, "bad_trace", str(error)) from error
        self._parts.fleet.arbitrate()
        return _shown(trace, self._parts.now_s())

    async def _unbind(self, request: Request) -> Any:
        gone = self._parts.market.lift()
        self._parts.fleet.arbitrate()
        return {"removed": gone}


def _shown(trace: Binding, now_s: float) -> dict[str, Any]:
    ends = trace.next_change(now_s)
    return {
        "mode": trace.mode,
        "bind": {"model": trace.model, "country": trace.country, "machine": trace.machine},
        "samples": len(trace.trace.data),
        "gap_seconds": trace.trace.gap_s,
        "value": trace.value(now_s),
        "next_change": None if math.isinf(ends) else ends,
    }


async def _body(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body() or b"{}")
    except ValueError as error:
        raise Refused(400, "invalid_request", "Invalid json body") from error
    if not isinstance(body, dict):
        raise Refused(400, "invalid_request", "Invalid json body")
    return body
