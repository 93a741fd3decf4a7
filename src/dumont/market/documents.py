"""The shapes in which offers are shown; an offer's JSON is made once for each listing and size of disk."""

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, Literal

from pydantic import BaseModel, Field

from dumont.core import money_document
from dumont.http import MoneyDocument
from dumont.market.cache import Source
from dumont.market.listing import Listed


class PerformanceDocument(BaseModel):
    """What the marketplace measured of a machine."""

    tflops: float | None
    dlperf: float | None


class OfferDocument(BaseModel):
    """An offer; what its host does not state is null. Memory and disk in GB, network in Mbps."""

    id: str
    offer_id: str
    provider: str
    provider_offer_id: str
    machine_id: str
    host_id: str | None
    gpu_name: str
    num_gpus: int
    gpu_ram: int = Field(description="GB of one GPU, as its maker states it.")
    gpu_memory_mib: int
    cpu_cores: float | None
    cpu_name: str | None
    cpu_ram: float | None
    disk_space: float | None
    inet_down: float | None
    inet_up: float | None
    inet_down_cost_per_gb: MoneyDocument | None
    inet_up_cost_per_gb: MoneyDocument | None
    price_hour: MoneyDocument = Field(description="With a disk of `disk_size` GB.")
    gpu_price_hour: MoneyDocument
    disk_price_hour: MoneyDocument
    storage_cost_gb_month: MoneyDocument | None
    machine_type: Literal["on-demand", "interruptible"]
    min_bid: MoneyDocument | None = Field(description="The lowest bid per hour that would run now.")
    geolocation: str | None
    country: str | None = Field(description="ISO 3166-1 alpha-2.")
    reliability: float | None = Field(ge=0, le=1)
    verified: bool
    static_ip: bool
    cuda_version: str | None
    driver_version: str | None
    performance: PerformanceDocument
    performance_per_usd: float | None = Field(description="`dlperf` for each dollar of an hour.")
    available_until: datetime | None
    as_of: datetime


class SourceDocument(BaseModel):
    """A marketplace that was asked; `stale` offers are at most ten minutes old."""

    provider: str
    status: Literal["ok", "stale", "unreachable"]
    as_of: datetime | None
    detail: str | None


class OffersDocument(BaseModel):
    """A page of offers."""

    offers: list[OfferDocument]
    count: int
    total: int | None = Field(description="How many fit; null where a marketplace has more than it listed.")
    page: int | None
    next_cursor: str | None
    as_of: datetime = Field(description="Of the oldest listing among these.")
    sources: list[SourceDocument]


class PriceDocument(BaseModel):
    """From this moment on the offer had this price."""

    at: datetime
    price_hour_usd: float


class KnownOfferDocument(OfferDocument):
    """An offer with how its price changed during the last 24 hours; the first price is the one before them."""

    price_history_24h: list[PriceDocument]


_SAME = (
    *("provider", "provider_offer_id", "machine_id", "host_id", "gpu_name", "num_gpus", "gpu_memory_mib"),
    *("cpu_cores", "cpu_name", "machine_type", "geolocation", "country", "reliability", "verified", "static_ip"),
    *("cuda_version", "driver_version", "performance_per_usd"),
)


def offer_document(listed: Listed) -> dict[str, Any]:
    """Show an offer."""
    offer = listed.offer
    return {
        "id": listed.id,
        "offer_id": listed.id,
        **{name: getattr(offer, name) for name in _SAME},
        "gpu_ram": offer.gpu_ram_gb,
        "cpu_ram": offer.cpu_ram_gb,
        "disk_space": offer.disk_gb,
        "inet_down": offer.inet_down_mbps,
        "inet_up": offer.inet_up_mbps,
        "inet_down_cost_per_gb": _money(offer.inet_down_gb_nano),
        "inet_up_cost_per_gb": _money(offer.inet_up_gb_nano),
        "price_hour": money_document(offer.price_hour_nano),
        "gpu_price_hour": money_document(offer.gpu_hour_nano),
        "disk_price_hour": money_document(offer.disk_hour_nano),
        "storage_cost_gb_month": _money(offer.storage_gb_month_nano),
        "min_bid": _money(offer.min_bid_hour_nano),
        "performance": {"tflops": offer.tflops, "dlperf": offer.dlperf},
        "available_until": moment(offer.available_until),
        "as_of": moment(listed.as_of),
    }


def offers_json(
    shown: Sequence[Listed], sources: Sequence[Source], *, total: int | None, page: int | None, cursor: str | None
) -> bytes:
    """Write a page of offers as an OffersDocument."""
    moments = [source.listing.as_of for source in sources if source.listing is not None]
    rest = {
        "count": len(shown),
        "total": total,
        "page": page,
        "next_cursor": cursor,
        "as_of": moment(min(moments)),
        "sources": [_source(source) for source in sources],
    }
    return f'{{"offers":[{",".join(map(_text, shown))}],{json.dumps(rest, separators=(",", ":"))[1:]}'.encode()


def moment(when: datetime | None) -> str | None:
    """Show a time in UTC."""
    return None if when is None else when.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")


def _text(listed: Listed) -> str:
    if listed.text is None:
        listed.text = json.dumps(offer_document(listed), separators=(",", ":"), ensure_ascii=False)
    return listed.text


def _source(source: Source) -> dict[str, Any]:
    as_of = source.listing.as_of if source.listing is not None else None
    return {"provider": source.provider, "status": source.status, "as_of": moment(as_of), "detail": source.detail}


def _money(nano: int | None) -> dict[str, str] | None:
    return None if nano is None else money_document(nano)
