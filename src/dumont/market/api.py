"""The routes of the market: list offers, show one."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Literal

from fastapi import Depends, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from dumont.core import NANO, nanousd
from dumont.http import CallerDep, Router, permit, problems, raises
from dumont.market import queries, service
from dumont.market.documents import KnownOfferDocument, OffersDocument, PriceDocument, offer_document, offers_json
from dumont.market.listing import Listed
from dumont.market.model import OfferNotFound, ProviderDown, ProviderNotConfigured, ProviderSaidNo
from dumont.market.order import Order, read_cursor, read_order
from dumont.providers import Offer, OfferQuery, countries_in, country_of, cuda_version

router = Router(prefix="/api/v1", tags=["offers"])
_REFUSALS = raises(ProviderNotConfigured, ProviderSaidNo, ProviderDown)
_MOST_NAMES = 10
_Gigabytes = Annotated[float | None, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
_Dollars = Annotated[float | None, Field(ge=0, le=10_000, allow_inf_nan=False, description="USD per hour.")]
_NOWHERE = "nowhere"
"""A country that no offer is in: what is left of a region and a country that exclude each other."""

_PLACES = "Continents (Europe, EU, South America, SA ...) and countries by ISO code or English name, with commas."
_CUDA = r"^[0-9]{1,3}(\.[0-9]{1,3})?$"


class OfferWishes(BaseModel):
    """The query of the list; a filter on a value that an offer does not state leaves the offer out."""

    model_config = ConfigDict(extra="ignore")

    gpu_name: Annotated[
        str | None,
        Field(max_length=400, description="Names with commas; each matches whole consecutive words, `_` is a space."),
    ] = None
    gpu_match: Annotated[Literal["words", "exact"], Field(description="`exact`: the whole name.")] = "words"
    num_gpus: Annotated[int | None, Field(ge=0, le=16)] = None
    min_gpu_ram: Annotated[_Gigabytes, Field(description="GB of one GPU.")] = None
    max_gpu_ram: _Gigabytes = None
    min_cpu_cores: Annotated[float | None, Field(ge=0, le=10_000, allow_inf_nan=False)] = None
    min_cpu_ram: _Gigabytes = None
    min_disk: _Gigabytes = None
    min_inet_down: Annotated[float | None, Field(ge=0, le=10_000_000, allow_inf_nan=False, description="Mbps.")] = None
    min_inet_up: Annotated[float | None, Field(ge=0, le=10_000_000, allow_inf_nan=False, description="Mbps.")] = None
    cuda_version: Annotated[str | None, Field(pattern=_CUDA, description="At least this one.")] = None
    min_cuda: Annotated[str | None, Field(pattern=_CUDA, description="The same as `cuda_version`.")] = None
    static_ip: bool | None = None
    min_price: _Dollars = None
    max_price: _Dollars = None
    region: Annotated[
        str | None, Field(max_length=400, description="Continents and countries with commas; SA is South America.")
    ] = None
    country: Annotated[str | None, Field(max_length=400, description="ISO codes or names with commas.")] = None
    min_reliability: Annotated[float | None, Field(ge=0, le=1)] = None
    verified_only: bool = False
    machine_type: Literal["on-demand", "interruptible"] = "on-demand"
    provider: Annotated[str | None, Field(max_length=100, description="Names with commas.")] = None
    disk_size: Annotated[float, Field(ge=8, le=10_000, description="GB of disk in each price.")] = 20


class OfferPaging(BaseModel):
    """The order and the page; a cursor goes on where a page ended, through the same listings."""

    sort: Annotated[str, Field(max_length=200)] = "price_hour"
    limit: Annotated[int, Field(ge=1, le=100)] = 50
    page: Annotated[int | None, Field(ge=1, le=100_000)] = None
    cursor: Annotated[
        str | None, Field(max_length=2000, description="The next_cursor of the page before; good for 15 minutes.")
    ] = None
    max_age_seconds: Annotated[float, Field(ge=0, le=600, description="How old the listing may be.")] = 60


class OfferParameters(OfferWishes, OfferPaging):
    """All that the list can be asked."""


async def _read_query(wishes: Annotated[OfferParameters, Query()]) -> tuple[OfferParameters, OfferQuery, Order]:
    wrong = [*_crossed(wishes)]
    names = _parts(wishes.gpu_name)
    if len(names) > _MOST_NAMES:
        wrong.append(_wrong("gpu_name", f"At most {_MOST_NAMES} names, with commas.", "too-long"))
    countries = _countries(wishes, wrong)
    if wrong:
        raise problems.InvalidRequest(wrong)
    asked = {name: getattr(wishes, name) for name in ("num_gpus", "static_ip", "verified_only", "min_reliability")}
    query = OfferQuery(
        **asked,
        gpu_names=names,
        gpu_exact=wishes.gpu_match == "exact",
        min_gpu_ram_gb=wishes.min_gpu_ram,
        max_gpu_ram_gb=wishes.max_gpu_ram,
        min_cpu_cores=wishes.min_cpu_cores,
        min_cpu_ram_gb=wishes.min_cpu_ram,
        min_disk_gb=wishes.min_disk,
        min_inet_down_mbps=wishes.min_inet_down,
        min_inet_up_mbps=wishes.min_inet_up,
        min_cuda=max((wishes.cuda_version, wishes.min_cuda), key=cuda_version),
        min_price_hour_nano=None if wishes.min_price is None else nanousd(wishes.min_price),
        max_price_hour_nano=None if wishes.max_price is None else nanousd(wishes.max_price),
        countries=countries,
        disk_gb=wishes.disk_size,
        machine_type=wishes.machine_type,
    )
    return wishes, query, read_order(wishes.sort)


Asked = Annotated[tuple[OfferParameters, OfferQuery, Order], Depends(_read_query)]


@router.get("/instances/offers", **permit("gpu.view"), responses=_REFUSALS)
@router.get("/offers", **permit("gpu.view"), responses=_REFUSALS)
async def list_offers(request: Request, caller: CallerDep, asked: Asked) -> Response | OffersDocument:
    """List what can be rented, from a cache that says its age; prices include `disk_size` GB of disk."""
    wishes, query, order = asked
    state = request.app.state
    cursor = None if wishes.cursor is None else read_cursor(wishes.cursor, query, order)
    await caller.release()
    if cursor is not None:
        sources, start = await service.same_sources(state.offers, cursor), cursor.start
    else:
        names = _parts(wishes.provider) or (state.settings.provider,)
        sources = await service.first_sources(state.offers, names, query, wishes.max_age_seconds)
        start = ((wishes.page or 1) - 1) * wishes.limit
    found = service.choose(sources, query, order, start=start, limit=wishes.limit)
    page = None if cursor is not None else wishes.page or 1
    body = offers_json(found.shown, found.sources, total=found.total, page=page, cursor=found.next_cursor)
    return Response(body, media_type="application/json")


@router.get("/offers/{offer_id}", **permit("gpu.view"), responses=raises(OfferNotFound))
async def show_offer(
    request: Request,
    offer_id: str,
    caller: CallerDep,
    disk_size: Annotated[float, Query(ge=8, le=10_000, description="GB of disk in each price.")] = 20,
) -> KnownOfferDocument:
    """Show one offer as it was last seen, with its prices of the last 24 hours."""
    offer, as_of = await service.find_offer(caller.session, offer_id)
    changes = await queries.price_changes(caller.session, offer_id, request.app.state.clock.now())
    history = [_price(offer, change, disk_size) for change in changes]
    shown = offer_document(Listed(offer_id, offer.with_disk(disk_size), as_of))
    return KnownOfferDocument(**shown, price_history_24h=history)


def _price(offer: Offer, change: tuple[datetime, int, int | None], disk_size: float) -> PriceDocument:
    at, gpu, storage = change
    then = replace(offer, gpu_hour_nano=gpu, price_hour_nano=gpu, storage_gb_month_nano=storage)
    return PriceDocument(at=at, price_hour_usd=then.with_disk(disk_size).shown_price_nano / NANO)


def _parts(text: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in (text or "").split(",") if part.strip()))


def _crossed(wishes: OfferParameters) -> Iterable[dict[str, str]]:
    """Name the parameters that contradict each other."""
    for low, high in (("min_gpu_ram", "max_gpu_ram"), ("min_price", "max_price")):
        least, most = getattr(wishes, low), getattr(wishes, high)
        if least is not None and most is not None and least > most:
            yield _wrong(low, f"Must not be more than {high}.", "min-over-max")
    if wishes.cursor is not None and wishes.page is not None:
        yield _wrong("page", "A cursor and a page exclude each other.", "excluded")


def _countries(wishes: OfferParameters, wrong: list[dict[str, str]]) -> tuple[str, ...]:
    """Return the countries that the region and the country leave over; those of both where both are given."""
    sets: list[frozenset[str]] = []
    for name, text, read in (("region", wishes.region, countries_in), ("country", wishes.country, _one_country)):
        found = [read(part) for part in _parts(text)]
        if None in found:
            wrong.append(_wrong(name, _PLACES, "unknown-value"))
        elif found:
            sets.append(frozenset().union(*(part for part in found if part is not None)))
    if not sets:
        return ()
    return tuple(sorted(frozenset.intersection(*sets))) or (_NOWHERE,)


def _one_country(word: str) -> frozenset[str] | None:
    code = country_of(word)
    return None if code is None else frozenset({code})


def _wrong(name: str, detail: str, code: str) -> dict[str, str]:
    return problems.field_error(f"/query/{name}", detail, code)
