"""The list of offers over HTTP, from a real marketplace: its shape, filters, orders, pages, and what it refuses."""

from collections import Counter
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pytest
from tests.support.api import Person
from tests.support.sandbox import SandboxProcess
from tests.support.whole_api import WholeApi

pytestmark = pytest.mark.requires_postgres
OFFERS = "/api/v1/offers"


async def ask(api: WholeApi, person: Person, path: str = OFFERS, **query: Any) -> tuple[int, Any]:
    answer = await api.http.get(path, params=query, headers=person.headers)
    return answer.status_code, answer.json()


async def listed(api: WholeApi, person: Person, **query: Any) -> list[dict[str, Any]]:
    """Return all offers that fit, over as many pages as it takes."""
    found, cursor = [], None
    while True:
        status, page = await ask(api, person, **query, limit=100, **({"cursor": cursor} if cursor else {}))
        assert status == 200, page
        found += page["offers"]
        cursor = page["next_cursor"]
        if cursor is None:
            assert page["total"] == len(found)
            return found


async def wrong(api: WholeApi, person: Person, **query: Any) -> str:
    """Return the parameter that a refusal names."""
    status, problem = await ask(api, person, **query)
    assert (status, problem["code"], problem["act"]) == (422, "invalid-request", "fix"), problem
    return str(problem["errors"][0]["pointer"]).removeprefix("/query/")


@pytest.mark.checklist("INST-01", "INST-06")
async def test_the_list_is_what_the_marketplace_has(api: WholeApi, market: SandboxProcess) -> None:
    """Every offer of the marketplace is listed once, with its own figures, and priced as the marketplace prices it."""
    person = await api.person()
    found = {(one["machine_id"], one["num_gpus"]): one for one in await listed(api, person, disk_size=50)}
    theirs = market.offers(allocated_storage=50, type="on-demand", verified={"eq": True})
    assert theirs and len(found) >= len({(row["machine_id"], row["num_gpus"]) for row in theirs})
    for row in theirs:
        shown = found[str(row["machine_id"]), row["num_gpus"]]
        assert abs(float(shown["price_hour"]["amount"]) - row["dph_total"]) < 2e-6
        parts = [Decimal(shown[name]["amount"]) for name in ("gpu_price_hour", "disk_price_hour", "price_hour")]
        assert abs(parts[0] + parts[1] - parts[2]) <= Decimal("0.000001")
        assert (shown["gpu_name"], shown["gpu_memory_mib"]) == (row["gpu_name"], row["gpu_ram"])
        assert shown["gpu_ram"] == round(row["gpu_ram"] / 1024)
        assert (shown["disk_space"], shown["inet_down"], shown["reliability"]) == (
            row["disk_space"],
            row["inet_down"],
            row["reliability"],
        )
        assert shown["id"] == shown["offer_id"] and shown["provider"] == "sandbox" and shown["verified"]
    prices = [Decimal(one["price_hour"]["amount"]) for one in await listed(api, person, disk_size=50)]
    assert prices == sorted(prices)


@pytest.mark.checklist("INST-02", "INST-03", "INST-04", "INST-05", "INST-10")
async def test_each_filter_leaves_exactly_what_fits(api: WholeApi, market: SandboxProcess) -> None:
    """Each filter of the contract, asked over HTTP, against the whole list looked through by hand."""
    person = await api.person()
    whole = await listed(api, person)
    middle = sorted(float(one["price_hour"]["amount"]) for one in whole)[len(whole) // 2]
    cases: list[tuple[dict[str, Any], Any]] = [
        ({"gpu_name": "rtx_4090"}, lambda one: one["gpu_name"] == "RTX 4090"),
        ({"gpu_name": "A100,L40S"}, lambda one: one["gpu_name"].startswith("A100") or one["gpu_name"] == "L40S"),
        ({"gpu_name": "RTX", "gpu_match": "exact"}, lambda one: False),
        ({"num_gpus": 2}, lambda one: one["num_gpus"] == 2),
        ({"num_gpus": 0}, lambda one: False),
        ({"min_gpu_ram": 40}, lambda one: one["gpu_ram"] >= 40),
        ({"max_gpu_ram": 24}, lambda one: one["gpu_ram"] <= 24),
        ({"min_cpu_cores": 16}, lambda one: (one["cpu_cores"] or 0) >= 16),
        ({"min_cpu_ram": 64}, lambda one: (one["cpu_ram"] or 0) >= 64),
        ({"min_disk": 500}, lambda one: (one["disk_space"] or 0) >= 500),
        ({"min_inet_down": 900}, lambda one: (one["inet_down"] or 0) >= 900),
        ({"min_inet_up": 900}, lambda one: (one["inet_up"] or 0) >= 900),
        ({"cuda_version": "12.8"}, lambda one: float(one["cuda_version"] or 0) >= 12.8),
        ({"static_ip": True}, lambda one: one["static_ip"]),
        ({"min_price": middle}, lambda one: float(one["price_hour"]["amount"]) >= middle),
        ({"max_price": middle}, lambda one: float(one["price_hour"]["amount"]) <= middle),
        ({"region": "South America,PL"}, lambda one: one["country"] in ("BR", "AR", "CL", "CO", "PE", "UY", "PL")),
        ({"country": "us,Brazil"}, lambda one: one["country"] in ("US", "BR")),
        ({"region": "EU", "country": "US"}, lambda one: False),
        ({"min_reliability": 0.995}, lambda one: (one["reliability"] or 0) >= 0.995),
        ({"verified_only": True}, lambda one: one["verified"]),
        ({"provider": "sandbox"}, lambda one: True),
    ]
    for filters, fits in cases:
        expected = [one["id"] for one in whole if fits(one)]
        assert [one["id"] for one in await listed(api, person, **filters)] == expected, filters
        assert len(expected) < len(whole) or filters == {"provider": "sandbox"}, f"{filters} decides nothing here"


async def test_interruptible_offers_cost_their_lowest_bid(api: WholeApi, market: SandboxProcess) -> None:
    person = await api.person()
    bids = await listed(api, person, machine_type="interruptible")
    firm = {(one["machine_id"], one["num_gpus"]): one for one in await listed(api, person)}
    assert bids and {one["machine_type"] for one in bids} == {"interruptible"}
    for one in bids:
        assert one["gpu_price_hour"] == one["min_bid"]
        assert firm[one["machine_id"], one["num_gpus"]]["id"] != one["id"], "two kinds share an id"


@pytest.mark.checklist("INST-07")
async def test_every_order(api: WholeApi) -> None:
    """Ascending and descending by every sort that is named, with unknown values last in both."""
    person = await api.person()
    _, refused = await ask(api, person, sort="price")
    names = refused["errors"][0]["detail"].partition(": ")[2].partition(";")[0].split(", ")
    assert {"price_hour", "reliability", "gpu_ram", "performance_per_usd", "inet_up"} <= set(names)
    for name in names:
        for sign in ("", "-"):
            rows = await listed(api, person, sort=f"{sign}{name}")
            values = [Decimal(row[name]["amount"]) if name == "price_hour" else row[name] for row in rows]
            known = [value for value in values if value is not None]
            assert known == sorted(known, reverse=bool(sign)) and values[len(known) :] == [None] * (
                len(values) - len(known)
            )
    rows = await listed(api, person, sort="-num_gpus,price_hour")
    keys = [(-row["num_gpus"], Decimal(row["price_hour"]["amount"]), row["id"]) for row in rows]
    assert keys == sorted(keys)


@pytest.mark.checklist("INST-08")
async def test_pages_stay_whole_while_the_market_moves(api: WholeApi, market: SandboxProcess) -> None:
    """Between two pages an offer is sold and the cache is refreshed: the pages go on through the listing they began."""
    person = await api.person()
    before = await listed(api, person)
    whole = [one["id"] for one in before]
    _, first = await ask(api, person, limit=4)
    machines = Counter(str(row["machine_id"]) for row in market.offers())
    sold = next(one for one in before[4:] if machines[one["machine_id"]] == 1)
    number = market.rent(int(sold["provider_offer_id"]))
    try:
        newer = [one["id"] for one in await listed(api, person, max_age_seconds=0)]
        assert set(whole) - set(newer) == {sold["id"]}
        seen, cursor = [one["id"] for one in first["offers"]], first["next_cursor"]
        while cursor:
            _, page = await ask(api, person, limit=3, cursor=cursor)
            assert (page["as_of"], page["total"], page["page"]) == (first["as_of"], len(whole), None)
            seen += [one["id"] for one in page["offers"]]
            cursor = page["next_cursor"]
        assert seen == whole
    finally:
        market.call("DELETE", f"/api/v0/instances/{number}/", {})
    _, third = await ask(api, person, limit=5, page=3)
    assert (third["page"], third["count"]) == (3, 5)
    assert (await ask(api, person, page=1000))[1]["offers"] == []


async def test_a_cursor_whose_listing_is_gone_is_refused(api: WholeApi) -> None:
    person = await api.person()
    _, first = await ask(api, person, limit=4)
    await api.write("DELETE FROM offer_listing")
    api.app.state.offers._listings.clear()
    status, problem = await ask(api, person, cursor=first["next_cursor"])
    assert status == 422 and "Ask for the first page again" in problem["detail"]
    assert await wrong(api, person, cursor=first["next_cursor"], gpu_name="A100") == "cursor"
    assert await wrong(api, person, cursor="bm90aGluZw") == "cursor"


@pytest.mark.checklist("INST-09")
async def test_nothing_found_is_an_empty_list_and_no_outage(api: WholeApi) -> None:
    person = await api.person()
    status, page = await ask(api, person, gpu_name="B300", min_price=9)
    assert (status, page["offers"], page["count"], page["total"], page["next_cursor"]) == (200, [], 0, 0, None)
    assert [(one["provider"], one["status"], one["detail"]) for one in page["sources"]] == [("sandbox", "ok", None)]
    age = datetime.now(timezone.utc) - datetime.fromisoformat(page["as_of"])
    assert 0 <= age.total_seconds() < 60


@pytest.mark.checklist("INST-02")
async def test_what_cannot_be_meant_is_refused(api: WholeApi) -> None:
    """Each refusal names the parameter; a question of the wrong form never reaches the marketplace."""
    person = await api.person()
    cases: list[dict[str, Any]] = [
        {"min_price": 2, "max_price": 1},
        {"min_gpu_ram": 80, "max_gpu_ram": 24},
        {"page": 2, "cursor": "x"},
        {"sort": "price_hour,price_hour"},
        {"region": "Atlantis"},
        {"country": "US,Europe"},
        {"gpu_name": ",".join(f"RTX {n}" for n in range(11))},
        {"cuda_version": "new"},
        {"machine_type": "spot"},
        {"min_reliability": 95},
        {"num_gpus": 17},
        {"max_age_seconds": 601},
        {"limit": 101},
        {"disk_size": 1},
        {"min_price": "nan"},
    ]
    for query in cases:
        assert await wrong(api, person, **query) in query, query
    assert await api.rows("SELECT count(*) FROM offer_listing") == [(0,)]
    status, problem = await ask(api, person, provider="gpu-shop")
    assert (status, problem["code"]) == (400, "provider-not-configured")


async def test_one_offer_keeps_its_id_and_its_prices(api: WholeApi) -> None:
    """An offer is found by its id, priced for the disk that is asked for, with the prices that it had."""
    person = await api.person()
    cheap = (await listed(api, person))[0]
    status, shown = await ask(api, person, f"{OFFERS}/{cheap['id']}")
    history = shown.pop("price_history_24h")
    assert status == 200 and shown == cheap
    assert [price["price_hour_usd"] for price in history] == [float(cheap["price_hour"]["amount"])]
    _, larger = await ask(api, person, f"{OFFERS}/{cheap['id']}", disk_size=200)
    assert Decimal(larger["price_hour"]["amount"]) > Decimal(cheap["price_hour"]["amount"])
    assert (await listed(api, person, max_age_seconds=0))[0]["id"] == cheap["id"]
    for unknown in ("off_01ARZ3NDEKTSV4RRFFQ69G5FAV", "ins_01ARZ3NDEKTSV4RRFFQ69G5FAV", "7"):
        status, problem = await ask(api, person, f"{OFFERS}/{unknown}")
        assert (status, problem["code"]) == (404, "offer-not-found")


async def test_the_application_cannot_change_an_offer_by_itself(api: WholeApi) -> None:
    """Offers are shared by all teams: only the function that takes a marketplace's answer writes them."""
    import psycopg

    from dumont.db import psycopg_url

    cheap = (await listed(api, await api.person()))[0]
    with psycopg.connect(psycopg_url(api.urls.app), autocommit=True) as connection:
        for statement in (
            "UPDATE offer SET document = '{}'",
            "DELETE FROM offer",
            "INSERT INTO offer SELECT 'off_x', provider, 'm', 1, machine_type, document, as_of FROM offer LIMIT 1",
            "UPDATE offer_listing SET offers = '[]'",
            "DELETE FROM offer_price",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
        free = '[{"id": "off_x", "provider": "sandbox", "machine_type": "on-demand", "price_hour_nano": 0}]'
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            connection.execute(
                "SELECT dumont_keep_offers('lst_x', 'sandbox', 'on-demand', '', now(), true, %s::jsonb)", [free]
            )
    assert (await listed(api, await api.person()))[0]["price_hour"] == cheap["price_hour"]
