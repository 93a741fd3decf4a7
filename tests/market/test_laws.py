"""Laws of the list of offers, for made-up markets: filters compare what is shown, orders are total, pages are whole."""

import json
import re
from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.market.making import ANY, AT, MARKETS, ORDERS, QUERIES, SEEDS, WISHES, offer

from dumont.http.problems import InvalidRequest
from dumont.market.cache import Source
from dumont.market.documents import offer_document, offers_json
from dumont.market.listing import Listed
from dumont.market.order import SORTS, Cursor, Order, read_cursor, write_cursor
from dumont.market.service import choose
from dumont.providers import Offer, OfferQuery, countries_in
from dumont.providers.vast.names import names_for
from dumont.providers.vast.query import search_body

Document = dict[str, Any]
EASY = settings(max_examples=60, deadline=None)


def everything(found: list[Source], disk_gb: float) -> list[Document]:
    """Return every offer as it is shown."""
    return [offer_document(one) for source in found if source.listing for one in source.listing.priced(disk_gb)]


def read(shown: Any, found: list[Source]) -> list[Document]:
    """Return offers as a reader of the JSON sees them."""
    page = json.loads(offers_json(shown, found, total=None, page=None, cursor=None))
    assert page["count"] == len(page["offers"])
    return list(page["offers"])


def price(document: Document) -> Decimal:
    return Decimal(document["price_hour"]["amount"])


def version(text: str) -> list[int]:
    return [int(part) for part in (f"{text}.0").split(".")[:2]]


def words(document: Document, query: OfferQuery) -> bool:
    name = document["gpu_name"].replace("_", " ")
    wishes = [re.escape(wish.replace("_", " ")) for wish in query.gpu_names]
    form = "{}" if query.gpu_exact else r"(.* )?{}( .*)?"
    return any(re.fullmatch(form.format(wish), name, re.IGNORECASE) for wish in wishes)


def at_least(member: str, wish: str) -> Callable[[Document, OfferQuery], bool]:
    def check(document: Document, query: OfferQuery) -> bool:
        return document[member] is not None and document[member] >= getattr(query, wish)

    return check


SHOWN: dict[str, Callable[[Document, OfferQuery], bool]] = {
    "gpu_names": words,
    "num_gpus": lambda shown, query: shown["num_gpus"] == query.num_gpus,
    "min_gpu_ram_gb": at_least("gpu_ram", "min_gpu_ram_gb"),
    "max_gpu_ram_gb": lambda shown, query: shown["gpu_ram"] <= (query.max_gpu_ram_gb or 0),
    "min_cpu_cores": at_least("cpu_cores", "min_cpu_cores"),
    "min_cpu_ram_gb": at_least("cpu_ram", "min_cpu_ram_gb"),
    "min_disk_gb": at_least("disk_space", "min_disk_gb"),
    "min_inet_down_mbps": at_least("inet_down", "min_inet_down_mbps"),
    "min_inet_up_mbps": at_least("inet_up", "min_inet_up_mbps"),
    "min_cuda": lambda shown, query: (
        shown["cuda_version"] is not None and version(shown["cuda_version"]) >= version(str(query.min_cuda))
    ),
    "static_ip": lambda shown, query: shown["static_ip"] == query.static_ip,
    "min_price_hour_nano": lambda shown, query: price(shown) * 10**9 >= (query.min_price_hour_nano or 0),
    "max_price_hour_nano": lambda shown, query: price(shown) * 10**9 <= (query.max_price_hour_nano or 0),
    "min_reliability": at_least("reliability", "min_reliability"),
    "verified_only": lambda shown, query: shown["verified"],
    "countries": lambda shown, query: shown["country"] in [code.upper() for code in query.countries],
    "machine_type": lambda shown, query: shown["machine_type"] == query.machine_type,
    "disk_gb": lambda shown, query: shown["disk_space"] is None or shown["disk_space"] >= query.disk_gb,
}
"""A second, independent reading of each filter, by the document that people see."""


def should_be_shown(document: Document, query: OfferQuery) -> bool:
    usual = OfferQuery()
    wished = [name for name in WISHES if getattr(query, name) != getattr(usual, name)]
    return all(SHOWN[name](document, query) for name in (*wished, "machine_type", "disk_gb"))


@pytest.mark.checklist("INST-02", "INST-04", "INST-05", "INST-10")
@EASY
@given(found=MARKETS, query=QUERIES)
def test_exactly_what_fits_is_listed(found: list[Source], query: OfferQuery) -> None:
    """All filters together leave what each of them leaves, and an unknown value fits no wish about it."""
    chosen = choose(found, query, (("price_hour", False),), start=0, limit=1000)
    expected = {one["id"] for one in everything(found, query.disk_gb) if should_be_shown(one, query)}
    assert {one["id"] for one in read(chosen.shown, found)} == expected
    assert chosen.total == len(expected)


@pytest.mark.parametrize("name", sorted(WISHES))
@settings(max_examples=5, deadline=None)
@given(found=MARKETS, exact=st.booleans(), data=st.data())
def test_each_filter_alone_is_exact(name: str, found: list[Source], exact: bool, data: st.DataObject) -> None:
    alone = OfferQuery(**{name: data.draw(st.sampled_from(WISHES[name])), "gpu_exact": exact})
    chosen = choose(found, alone, (("num_gpus", True),), start=0, limit=1000)
    expected = {one["id"] for one in everything(found, alone.disk_gb) if should_be_shown(one, alone)}
    assert {one["id"] for one in read(chosen.shown, found)} == expected


def shown_value(document: Document, name: str) -> Any:
    found = document[name]
    return Decimal(found["amount"]) if isinstance(found, dict) else found


@pytest.mark.checklist("INST-07")
@EASY
@given(found=MARKETS, order=ORDERS)
def test_orders_are_by_what_is_shown(found: list[Source], order: Order) -> None:
    """Each neighbour is in order by the first sort that tells them apart; unknown is last, ties go by id."""
    rows = read(choose(found, OfferQuery(disk_gb=8), order, start=0, limit=1000).shown, found)
    for one, following in pairwise(rows):
        assert rank(one, following, order) < 0, (one["id"], following["id"], order)


def rank(one: Document, other: Document, order: Order) -> int:
    """Return a number below zero where `one` comes first."""
    for name, descending in order:
        mine, theirs = shown_value(one, name), shown_value(other, name)
        if mine == theirs:
            continue
        if mine is None or theirs is None:
            return 1 if mine is None else -1
        return -1 if (mine < theirs) != descending else 1
    return -1 if one["id"] < other["id"] else 1


@pytest.mark.checklist("INST-08")
@EASY
@given(found=MARKETS, order=ORDERS, query=QUERIES, limit=st.integers(1, 17))
def test_pages_together_are_the_list(found: list[Source], order: Order, query: OfferQuery, limit: int) -> None:
    """By cursors and by numbers, the pages hold everything once and in order; only the last may be short."""
    whole = [one.id for one in choose(found, query, order, start=0, limit=1000).shown]
    by_cursor, start, sizes = list[str](), 0, list[int]()
    while True:
        page = choose(found, query, order, start=start, limit=limit)
        by_cursor += [one.id for one in page.shown]
        sizes.append(len(page.shown))
        assert page.total == len(whole)
        if page.next_cursor is None:
            break
        start = read_cursor(page.next_cursor, query, order).start
    assert by_cursor == whole
    assert all(size == limit for size in sizes[:-1]) and (sizes[-1] > 0 or not whole)


@EASY
@given(query=QUERIES, other=QUERIES, order=ORDERS, reversed_order=ORDERS, found=MARKETS, junk=st.text(max_size=40))
def test_a_cursor_goes_with_its_question(
    query: OfferQuery, other: OfferQuery, order: Order, reversed_order: Order, found: list[Source], junk: str
) -> None:
    names = tuple((one.provider, one.listing.id if one.listing else None, one.status) for one in found)
    text = write_cursor(Cursor(7, names), query, order)
    assert read_cursor(text, query, order) == Cursor(7, names)
    for asked in ((other, order), (query, reversed_order)):
        if asked != (query, order):
            with pytest.raises(InvalidRequest):
                read_cursor(text, *asked)
    for odd in (junk, text[:-1], text + "A", text.swapcase()):
        with pytest.raises(InvalidRequest):
            read_cursor(odd, query, order)


@EASY
@given(seed=SEEDS, size=st.floats(8, 10_000))
def test_a_price_is_its_parts(seed: int, size: float) -> None:
    """The GPU part and the disk's rate make the price, for whatever size, to the nano-dollar."""
    made = offer(Random(seed), 1)
    priced = made.with_disk(size)
    exact = Decimal(made.storage_gb_month_nano or 0) * Decimal(size) / 720
    assert abs(priced.disk_hour_nano - exact) <= 1
    assert priced.price_hour_nano == priced.gpu_hour_nano + priced.disk_hour_nano
    assert priced.with_disk(20) == made
    shown = offer_document(Listed("off_x", priced, AT))
    assert Decimal(shown["price_hour"]["amount"]) == Decimal(priced.shown_price_nano) / 10**9


@EASY
@given(found=MARKETS, query=QUERIES)
def test_what_is_asked_of_the_marketplace_loses_no_offer_that_fits(found: list[Source], query: OfferQuery) -> None:
    """The search that we send is wider than the wish, never narrower: our own look does the rest."""
    body = search_body(query)
    for one in choose(found, query, (("price_hour", False),), start=0, limit=1000).shown:
        if one.offer.disk_gb is not None:
            passes(one.offer, body)


def passes(offer: Offer, body: dict[str, Any]) -> None:
    stated = {
        "gpu_ram": offer.gpu_memory_mib,
        "num_gpus": offer.num_gpus,
        "cpu_cores_effective": offer.cpu_cores,
        "inet_down": offer.inet_down_mbps,
        "inet_up": offer.inet_up_mbps,
        "reliability": offer.reliability,
        "disk_space": offer.disk_gb,
        "dph_total": offer.price_hour_nano / 1e9,
        "geolocation": offer.country,
        "static_ip": offer.static_ip,
        "verified": offer.verified,
    }
    for name, value in stated.items():
        for operator, wanted in body.get(name, {}).items():
            fits = {"eq": value == wanted, "in": isinstance(wanted, list) and value in wanted}
            if operator in ("gte", "lte"):
                assert value is not None
                fits = {"gte": value >= wanted, "lte": value <= wanted}
            assert fits[operator], (name, operator, wanted, value)


def test_names_of_gpus_that_a_wish_may_mean() -> None:
    """A marketplace that knows whole names only is asked for all that hold the words, never for part of a word."""
    assert names_for(["a100"], exact=False) == ["A100 SXM4", "A100 PCIE"]
    assert names_for(["rtx_4090"], exact=False) == ["RTX 4090"]
    assert "RTX A2000" not in names_for(["A200"], exact=False)
    assert names_for(["a100"], exact=True) == ["a100"] and names_for(["RTX_9090"], exact=False) == ["RTX 9090"]


@pytest.mark.parametrize(
    ("region", "has", "lacks"),
    [
        ("Europe", "PL", "US"),
        ("eu", "SE", "BR"),
        ("south-america", "BR", "MX"),
        ("SA", "AR", "ZA"),
        ("North_America", "MX", "CO"),
        ("asia", "SA", "AU"),
        ("OC", "NZ", "JP"),
        ("Brazil", "BR", "AR"),
        ("jp", "JP", "CN"),
        ("Guinea-Bissau", "GW", "GN"),
    ],
)
@pytest.mark.checklist("INST-03")
def test_regions_are_continents_and_countries(region: str, has: str, lacks: str) -> None:
    countries = countries_in(region)
    assert countries is not None and has in countries and lacks not in countries


def test_what_is_no_place_is_no_region() -> None:
    assert [countries_in(word) for word in ("", "zz", "Texas", "europ", "EUR")] == [None] * 5


def test_every_sort_is_named_as_it_is_shown() -> None:
    assert set(SORTS) <= set(offer_document(Listed("off_x", ANY, AT)))
