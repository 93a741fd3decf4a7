"""Turn an offer query into Vast's search body.

Source: the server may ignore a filter or repeat offers, so `fits` checks each one again on the reply.
"""

import math
from typing import Any

from dumont.core import NANO
from dumont.providers.contract import OfferQuery
from dumont.providers.fitting import cuda_version, machine_type_of
from dumont.providers.vast.names import names_for

PAGE_ROWS = 64
"""Vast answers at most so many offers, whatever is asked."""

_SLACK_NANO = 1000
"""Prices are compared as shown, to the micro-dollar: we ask for a little more and look again."""


def search_body(query: OfferQuery, *, from_price_nano: int | None = None) -> dict[str, Any]:
    """Return the body of POST /bundles/, ordered by price so that pages can follow each other by price."""
    body: dict[str, Any] = {
        "rentable": {"eq": True},
        "external": {"eq": False},
        "disk_space": {"gte": max(query.disk_gb, query.min_disk_gb or 0)},
        "order": [["dph_total", "asc"], ["id", "asc"]],
        "type": "bid" if machine_type_of(query) == "interruptible" else "on-demand",
        "allocated_storage": query.disk_gb,
        "limit": PAGE_ROWS,
    }
    body |= _gpu_filters(query) | _machine_filters(query)
    if query.verified_only:
        body["verified"] = {"eq": True}
    if query.countries:
        body["geolocation"] = {"in": [code.upper() for code in query.countries]}
    if query.machine_id is not None:
        body["machine_id"] = {"eq": int(query.machine_id) if query.machine_id.isdecimal() else query.machine_id}
    price = _price_span(query, from_price_nano)
    return {**body, "dph_total": price} if price else body


def _gpu_filters(query: OfferQuery) -> dict[str, Any]:
    filters: dict[str, Any] = {}
    if query.gpu_name is not None:
        filters["gpu_name"] = {"eq": names_for([query.gpu_name], exact=True)[0]}
    elif query.gpu_names:
        filters["gpu_name"] = {"in": names_for(query.gpu_names, exact=query.gpu_exact)}
    if query.num_gpus is not None:
        filters["num_gpus"] = {"eq": query.num_gpus}
    memory: dict[str, float] = {}
    if query.min_gpu_ram_gb is not None:
        memory["gte"] = max(0, math.floor((math.ceil(query.min_gpu_ram_gb) - 0.5) * 1024))
    if query.max_gpu_ram_gb is not None:
        memory["lte"] = math.ceil((math.floor(query.max_gpu_ram_gb) + 0.5) * 1024)
    return {**filters, "gpu_ram": memory} if memory else filters


def _machine_filters(query: OfferQuery) -> dict[str, Any]:
    """Filter by what Vast states in the same unit for the offer itself; what it states for the machine is ours."""
    wishes = {
        "cpu_cores_effective": query.min_cpu_cores,
        "inet_down": query.min_inet_down_mbps,
        "inet_up": query.min_inet_up_mbps,
        "reliability": query.min_reliability,
        "cuda_max_good": _cuda_number(query.min_cuda),
    }
    filters: dict[str, Any] = {name: {"gte": value} for name, value in wishes.items() if value is not None}
    return filters if query.static_ip is None else {**filters, "static_ip": {"eq": query.static_ip}}


def _cuda_number(version: str | None) -> float | None:
    """Return a CUDA version as the number that Vast compares; only the major one where 12.10 would read as 12.1."""
    if version is None:
        return None
    major, minor = cuda_version(version)
    return float(major) if minor > 9 else float(f"{major}.{minor}")


def _price_span(query: OfferQuery, from_price_nano: int | None) -> dict[str, float]:
    """Bounds in dollars; a page begins one nano-dollar early, because their prices are rounded to ours."""
    lowest = -1 if query.min_price_hour_nano is None else query.min_price_hour_nano - _SLACK_NANO
    if from_price_nano is not None:
        lowest = max(lowest, from_price_nano - 1)
    span = {"gte": lowest / NANO} if lowest >= 0 else {}
    if query.max_price_hour_nano is not None:
        span["lte"] = (query.max_price_hour_nano + _SLACK_NANO) / NANO
    return span
