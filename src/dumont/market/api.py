"""The routes of the market: list offers."""

from datetime import datetime, timezone
from typing import Annotated, Literal

from fastapi import Depends, Query, Request
from pydantic import BaseModel, Field

from dumont.core import nanousd
from dumont.http import CallerDep, MoneyDocument, Router, money, permit, problems, raises
from dumont.market import service
from dumont.market.model import ProviderDown, ProviderNotConfigured, ProviderSaidNo
from dumont.market.service import Listed
from dumont.providers import OfferQuery

router = Router(prefix="/api/v1", tags=["offers"])
_REFUSALS = raises(ProviderNotConfigured, ProviderSaidNo, ProviderDown)
_SORTS = {
    "price_hour": lambda listed: listed.offer.price_hour_nano,
    "reliability": lambda listed: listed.offer.reliability or 0.0,
    "gpu_ram": lambda listed: listed.offer.gpu_memory_mib,
    "cpu_ram": lambda listed: listed.offer.cpu_ram_gb or 0.0,
    "cpu_cores": lambda listed: listed.offer.cpu_cores or 0.0,
    "disk_space": lambda listed: listed.offer.disk_gb or 0.0,
    "inet_down": lambda listed: listed.offer.inet_down_mbps or 0.0,
    "num_gpus": lambda listed: listed.offer.num_gpus,
}


class PerformanceDocument(BaseModel):
    """What the marketplace measured of a machine."""

    tflops: float | None
    dlperf: float | None


class OfferDocument(BaseModel):
    """An offer; what its host does not state is null. Memory and disk in GB, network in Mbps."""

    id: str
    provider: str
    provider_offer_id: str
    machine_id: str
    host_id: str | None
    gpu_name: str
    num_gpus: int
    gpu_ram: int = Field(description="GB of one GPU, rounded.")
    gpu_memory_mib: int
    cpu_cores: float | None
    cpu_name: str | None
    cpu_ram: float | None
    disk_space: float | None
    inet_down: float | None
    inet_up: float | None
    price_hour: MoneyDocument
    disk_price_hour: MoneyDocument
    machine_type: str
    geolocation: str | None
    country: str | None
    reliability: float | None = Field(ge=0, le=1)
    verified: bool
    static_ip: bool
    cuda_version: str | None
    driver_version: str | None
    performance: PerformanceDocument
    available_until: datetime | None
    as_of: datetime


class SourceDocument(BaseModel):
    """A marketplace that was asked."""

    provider: str
    status: Literal["ok"]
    as_of: datetime


class OffersDocument(BaseModel):
    """A page of offers."""

    offers: list[OfferDocument]
    count: int
    total: int
    page: int
    next_cursor: str | None
    as_of: datetime
    sources: list[SourceDocument]


_SAME = (
    *("provider", "provider_offer_id", "machine_id", "host_id", "gpu_name", "num_gpus", "gpu_memory_mib"),
    *("cpu_cores", "cpu_name", "machine_type", "geolocation", "country", "reliability", "verified", "static_ip"),
    *("cuda_version", "driver_version", "available_until"),
)


def offer_document(listed: Listed, as_of: datetime) -> OfferDocument:
    """Show an offer."""
    offer = listed.offer
    return OfferDocument(
        **{name: getattr(offer, name) for name in _SAME},
        id=listed.id,
        gpu_ram=round(offer.gpu_memory_mib / 1024),
        cpu_ram=offer.cpu_ram_gb,
        disk_space=offer.disk_gb,
        inet_down=offer.inet_down_mbps,
        inet_up=offer.inet_up_mbps,
        price_hour=money(offer.price_hour_nano),
        disk_price_hour=money(offer.disk_hour_nano),
        performance=PerformanceDocument(tflops=offer.tflops, dlperf=offer.dlperf),
        as_of=as_of,
    )


async def _read_query(
    gpu_name: Annotated[str | None, Query(max_length=200)] = None,
    num_gpus: Annotated[int | None, Query(ge=0, le=16)] = None,
    min_gpu_ram: Annotated[float | None, Query(ge=0, le=1_000_000, allow_inf_nan=False)] = None,
    max_price: Annotated[float | None, Query(ge=0, le=10_000)] = None,
    region: Annotated[str | None, Query(max_length=200)] = None,
    min_reliability: Annotated[float | None, Query(ge=0, le=1)] = None,
    min_disk: Annotated[float | None, Query(ge=0, le=1_000_000, allow_inf_nan=False)] = None,
    disk_size: Annotated[float, Query(ge=8, le=10_000)] = 20,
    verified_only: bool = False,
) -> OfferQuery:
    return OfferQuery(
        gpu_name=gpu_name,
        num_gpus=num_gpus,
        min_gpu_ram_gb=min_gpu_ram,
        max_price_hour_nano=None if max_price is None else nanousd(max_price),
        min_reliability=min_reliability,
        verified_only=verified_only,
        countries=tuple(part.strip().upper() for part in region.split(",") if part.strip()) if region else (),
        min_disk_gb=min_disk,
        disk_gb=disk_size,
    )


async def _read_order(sort: Annotated[str, Query(max_length=100)] = "price_hour") -> list[tuple[str, bool]]:
    orders = [(name.strip().removeprefix("-"), name.strip().startswith("-")) for name in sort.split(",")]
    if any(name not in _SORTS for name, _ in orders):
        detail = f"Sort by {', '.join(_SORTS)}; a minus sign for descending."
        raise problems.InvalidRequest([problems.field_error("/query/sort", detail, "unknown-sort")])
    return orders


@router.get("/instances/offers", **permit("gpu.view"), responses=_REFUSALS)
@router.get("/offers", **permit("gpu.view"), responses=_REFUSALS)
async def list_offers(
    request: Request,
    caller: CallerDep,
    query: Annotated[OfferQuery, Depends(_read_query)],
    orders: Annotated[list[tuple[str, bool]], Depends(_read_order)],
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    page: Annotated[int, Query(ge=1, le=1000)] = 1,
    cursor: Annotated[str | None, Query(pattern=r"^[0-9]{1,6}$")] = None,
) -> OffersDocument:
    """List what can be rented now, cheapest first; prices include a disk of `disk_size` GB."""
    provider = request.app.state.providers[request.app.state.settings.provider]
    await caller.release()
    found = await service.search(provider, query)
    as_of = datetime.now(timezone.utc)
    async with caller.reenter() as session:
        listed = await service.remember(session, found, as_of)
    for name, descending in reversed(orders):
        listed.sort(key=_SORTS[name], reverse=descending)
    first = int(cursor) if cursor is not None else (page - 1) * limit
    shown = listed[first : first + limit]
    return OffersDocument(
        offers=[offer_document(entry, as_of) for entry in shown],
        count=len(shown),
        total=len(listed),
        page=page,
        next_cursor=str(first + limit) if first + limit < len(listed) else None,
        as_of=as_of,
        sources=[SourceDocument(provider=provider.name, status="ok", as_of=as_of)],
    )
