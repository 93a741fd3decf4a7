"""Turn an offer query into Vast's search body, and judge offers by the query once more.

Source: the server may ignore a filter or repeat offers, so each filter is checked again on the reply.
"""

import math
from typing import Any

from dumont.core import NANO
from dumont.providers.contract import Offer, OfferQuery

PAGE_ROWS = 64
"""Vast answers at most so many offers, whatever is asked."""

_BID_WORDS = frozenset({"bid", "interruptible", "spot"})


def machine_type_of(query: OfferQuery) -> str:
    """Return the query's machine type in our two words: on-demand or interruptible."""
    return "interruptible" if query.machine_type in _BID_WORDS else "on-demand"


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
    if query.gpu_name is not None:
        body["gpu_name"] = {"eq": query.gpu_name.replace("_", " ")}
    if query.num_gpus is not None:
        body["num_gpus"] = {"eq": query.num_gpus}
    if query.min_gpu_ram_gb is not None:
        body["gpu_ram"] = {"gte": query.min_gpu_ram_gb * 1000}
    if query.min_reliability is not None:
        body["reliability"] = {"gte": query.min_reliability}
    if query.verified_only:
        body["verified"] = {"eq": True}
    if query.countries:
        body["geolocation"] = {"in": [code.upper() for code in query.countries]}
    if query.machine_id is not None:
        body["machine_id"] = {"eq": int(query.machine_id) if query.machine_id.isdecimal() else query.machine_id}
    price = _price_span(query.max_price_hour_nano, from_price_nano)
    return {**body, "dph_total": price} if price else body


def _price_span(highest: int | None, lowest: int | None) -> dict[str, float]:
    """Bounds in dollars, widened by one nano-dollar because their prices are rounded to ours."""
    span: dict[str, float] = {}
    if highest is not None:
        span["lte"] = (highest + 1) / NANO
    if lowest is not None:
        span["gte"] = max(0, lowest - 1) / NANO
    return span


def fulfils(offer: Offer, query: OfferQuery) -> bool:
    """Tell whether an offer really is what was asked; an unknown value fulfils no wish about it."""
    wanted_disk = max(query.disk_gb, query.min_disk_gb or 0)
    checks = (
        query.gpu_name is None or _plain(offer.gpu_name) == _plain(query.gpu_name),
        query.num_gpus is None or offer.num_gpus == query.num_gpus,
        query.min_gpu_ram_gb is None or offer.gpu_memory_mib >= math.floor(query.min_gpu_ram_gb * 1000),
        query.max_price_hour_nano is None or offer.price_hour_nano <= query.max_price_hour_nano,
        query.min_reliability is None or (offer.reliability or -1) >= query.min_reliability,
        not query.verified_only or offer.verified,
        not query.countries or offer.country in {code.upper() for code in query.countries},
        offer.disk_gb is not None and offer.disk_gb >= wanted_disk,
        query.machine_id is None or offer.machine_id == query.machine_id,
        offer.machine_type == machine_type_of(query),
    )
    return all(checks)


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())
