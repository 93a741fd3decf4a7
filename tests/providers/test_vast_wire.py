"""How the Vast plug-in reads replies that the sandbox does not give: odd errors, pages, limits, lost answers."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from typing import Any

import pytest

from dumont.providers import (
    BadCredentials,
    MachineAbsent,
    NoCapacity,
    OfferGone,
    OfferQuery,
    ProviderError,
    ProviderRefused,
    ProviderUnreachable,
    RateLimited,
    RentRequest,
    VastProvider,
)
from dumont.providers.vast.gaps import Gaps
from dumont.providers.vast.translate import offer_from, offer_row

from .conftest import SECRET, Asked, Reply, ScriptedServer
from .recorded import instance, offer

EMPTY = {"success": True, "instances_found": 0, "total_instances": 0, "next_token": None, "instances": []}
CALLS: dict[str, Callable[[VastProvider], Awaitable[Any]]] = {
    "get": lambda p: p.get("31005512"),
    "list": lambda p: p.list(),
    "stop": lambda p: p.stop("31005512"),
    "account": lambda p: p.account(),
}


def _listing(*rows: dict[str, Any], total: int | None = None, token: str | None = None) -> dict[str, Any]:
    return EMPTY | {
        "instances": list(rows),
        "total_instances": len(rows) if total is None else total,
        "next_token": token,
    }


def _order(label: str = "dumont-x-a1", **changes: Any) -> RentRequest:
    found = offer_row(offer(**changes))
    assert found is not None
    return RentRequest(label, offer_from(found, provider="vast"), "ubuntu:22.04", 20, {"DUMONT_NODE": "n"}, None)


ERRORS: list[tuple[str, Reply | None, type[ProviderError]]] = [
    ("get", (401, {"success": False, "error": "auth_error", "msg": "Invalid user key"}), BadCredentials),
    ("get", (404, {"success": False, "error": "auth_error", "msg": "Invalid user key"}), BadCredentials),
    ("list", (403, {"success": False, "error": "auth_error", "msg": "This action requires login."}), BadCredentials),
    ("account", (403, {"msg": "missing permission"}), BadCredentials),
    ("stop", (404, {"success": False, "error": "no_such_instance", "msg": "not found"}), MachineAbsent),
    ("stop", (403, {"error": "auth_error", "msg": "error 403/3586: Offer 1 is not your own"}), ProviderRefused),
    ("stop", (200, {"success": False, "error": "resources_unavailable", "msg": "queued"}), NoCapacity),
    ("stop", (200, {"error": "invalid_args", "msg": "no success member"}), ProviderRefused),
    ("stop", (400, {"success": False, "error": "invalid_request", "msg": "x"}), ProviderRefused),
    ("account", (401, {"success": False, "error": "auth_error", "msg": "Invalid user key"}), BadCredentials),
    ("account", (410, {"success": False, "error": "deprecated_endpoint", "msg": "moved"}), ProviderUnreachable),
    ("stop", (400, {"success": False, "error": "insufficient_credit", "msg": "no money"}), ProviderRefused),
    ("stop", (402, {"success": False, "error": "insufficient_credit", "msg": "no money"}), ProviderRefused),
    ("stop", (400, {"success": False, "error": "missing_billing", "message": "no card"}), ProviderRefused),
    ("stop", (429, "API requests too frequent"), RateLimited),
    ("list", (429, {"detail": "API requests too frequent endpoint threshold=1.0"}), RateLimited),
    ("list", (400, {"success": False, "error": "invalid_token", "msg": "after_token"}), ProviderUnreachable),
    ("list", (200, {"success": False}), ProviderUnreachable),
    ("list", (200, []), ProviderUnreachable),
    ("stop", (200, ""), ProviderUnreachable),
    ("stop", (503, "<html>busy</html>"), ProviderUnreachable),
    ("stop", None, ProviderUnreachable),
    ("get", (404, "<html>not found</html>"), ProviderUnreachable),
    ("get", (404, {"success": False, "error": "not_found", "msg": "no such path"}), ProviderRefused),
    ("get", (200, "<html>hello</html>"), ProviderUnreachable),
    ("get", (200, {"success": True}), ProviderUnreachable),
    ("get", (200, {"instances": instance(id=7)}), ProviderUnreachable),
    ("get", (302, ""), ProviderUnreachable),
    ("get", (500, {"success": False, "error": "server", "msg": "x"}), ProviderUnreachable),
    ("get", None, ProviderUnreachable),
    ("list", (200, ""), ProviderUnreachable),
    ("list", (200, {"success": True, "instances": None}), ProviderUnreachable),
    ("list", (200, {"instances": [], "total_instances": 0}), ProviderUnreachable),
    ("list", (200, EMPTY | {"total_instances": None}), ProviderUnreachable),
    ("list", (200, EMPTY | {"total_instances": 3}), ProviderUnreachable),
    ("list", (200, {"success": False, "error": "whatever", "msg": "x"}), ProviderUnreachable),
    ("list", (200, _listing({"label": "row without id"})), ProviderUnreachable),
    ("list", (410, {"success": False, "error": "deprecated_endpoint", "msg": "moved"}), ProviderUnreachable),
]


@pytest.mark.checklist("INST-21")
@pytest.mark.parametrize(("call", "reply", "kind"), ERRORS)
async def test_each_answer_is_read_for_what_it_proves(
    scripted: ScriptedServer, scripted_vast: VastProvider, call: str, reply: Reply | None, kind: type[ProviderError]
) -> None:
    """Refusals, unknown outcomes and bad keys are told apart by the words of the reply, not by its status alone."""
    scripted.script = lambda asked: reply
    with pytest.raises(ProviderError) as failure:
        await CALLS[call](scripted_vast)
    assert type(failure.value) is kind


@pytest.mark.parametrize("reply", [(200, {"instances": None}), (404, {"success": False, "error": "no_such_instance"})])
async def test_absence_has_two_forms(scripted: ScriptedServer, scripted_vast: VastProvider, reply: Reply) -> None:
    """A machine that is gone reads as None in both forms that Vast uses."""
    scripted.script = lambda asked: reply
    assert await scripted_vast.get("31005512") is None


async def test_nobody_listening_was_never_asked(scripted: ScriptedServer) -> None:
    """A refused connection is unknown too, but known not to have been sent; an order then does not wait in doubt."""
    provider = VastProvider("vast", "http://127.0.0.1:1", "k", enforce_gaps=False)
    with pytest.raises(ProviderUnreachable) as failure:
        await provider.rent(_order())
    assert failure.value.not_sent
    await provider.close()


async def test_pages_are_walked_and_repeats_dropped(scripted: ScriptedServer, scripted_vast: VastProvider) -> None:
    """All pages are read in the order of ids by their tokens; a row that two pages share counts once."""
    pages = {
        None: _listing(instance(id=1), instance(id=2), total=3, token="t1"),
        "t1": _listing(instance(id=2), instance(id=3), total=3),
    }
    scripted.script = lambda asked: (200, pages[asked.query.get("after_token")])
    assert [machine.id for machine in await scripted_vast.list()] == ["1", "2", "3"]
    assert json.loads(scripted.asked[0].query["order_by"]) == [{"col": "id", "dir": "asc"}]


async def test_short_listing_is_walked_once_more(scripted: ScriptedServer, scripted_vast: VastProvider) -> None:
    """A row that went missing between pages makes one more walk, and only then the listing counts."""
    replies = [_listing(instance(id=1), total=2), _listing(instance(id=1), instance(id=2))]
    scripted.script = lambda asked: (200, replies[min(len(scripted.asked), 2) - 1])
    assert [machine.id for machine in await scripted_vast.list()] == ["1", "2"]
    assert len(scripted.asked) == 2


async def test_foreign_label_is_not_ours(scripted: ScriptedServer, scripted_vast: VastProvider) -> None:
    """A listing that ignores the filter does not give us somebody else's machine."""
    scripted.script = lambda asked: (200, _listing(instance(id=1, label="other"), instance(id=2, label="mine")))
    assert [machine.id for machine in await scripted_vast.find_by_label("mine")] == ["2"]


async def test_order_says_what_it_must(scripted: ScriptedServer, scripted_vast: VastProvider) -> None:
    """The order carries label, disk and image, fails rather than queues, and the key travels in a header only."""

    def script(asked: Asked) -> Reply:
        return (200, EMPTY) if asked.method == "GET" else (200, {"success": True, "new_contract": 31005512})

    scripted.script = script
    assert await scripted_vast.rent(_order()) == "31005512"
    put = next(asked for asked in scripted.asked if asked.method == "PUT")
    assert put.path == "/api/v0/asks/21458734/"
    assert put.body == {
        "client_id": "me",
        "image": "ubuntu:22.04",
        "disk": 20,
        "label": "dumont-x-a1",
        "price": None,
        "runtype": "ssh_direc ssh_proxy",
        "env": {"DUMONT_NODE": "n"},
        "cancel_unavail": True,
        "target_state": "running",
    }
    for asked in scripted.asked:
        assert SECRET not in asked.raw and asked.headers["authorization"] == f"Bearer {SECRET}"


async def test_no_order_without_a_look(scripted: ScriptedServer, scripted_vast: VastProvider) -> None:
    """When the label cannot be looked for, nothing is ordered."""
    scripted.script = lambda asked: (502, "<html></html>") if asked.method == "GET" else (200, {"new_contract": 1})
    with pytest.raises(ProviderUnreachable):
        await scripted_vast.rent(_order())
    assert scripted.count("PUT") == 0


async def test_doubt_looks_until_the_machine_shows(scripted: ScriptedServer, scripted_vast: VastProvider) -> None:
    """After a lost answer the label is looked for again and again, past failing and empty listings; one order only."""
    replies = iter([EMPTY, "<html>bad gateway</html>", EMPTY, _listing(instance(id=5, label="dumont-x-a1"))])

    def script(asked: Asked) -> Reply | None:
        return (200, next(replies)) if asked.method == "GET" else None

    scripted.script = script
    assert await scripted_vast.rent(_order()) == "5"
    assert scripted.count("PUT") == 1


async def test_doubt_that_stays_is_told(scripted: ScriptedServer, scripted_vast: VastProvider) -> None:
    """A label that never shows leaves the order in doubt; it is neither repeated nor called failed."""
    scripted.script = lambda asked: (200, EMPTY) if asked.method == "GET" else (504, "<html></html>")
    with pytest.raises(ProviderUnreachable, match="may still appear"):
        await scripted_vast.rent(_order())
    assert scripted.count("PUT") == 1


async def test_double_machines_are_reduced_to_one(scripted: ScriptedServer, scripted_vast: VastProvider) -> None:
    """Of several machines under one label the running one is kept and the others are destroyed."""
    rows = [instance(id=3, label="dumont-x-a1", actual_status="loading"), instance(id=4, label="dumont-x-a1")]
    scripted.script = lambda asked: (200, _listing(*rows) if asked.method == "GET" else {"success": True})
    assert await scripted_vast.rent(_order()) == "4"
    assert [asked.path for asked in scripted.asked if asked.method == "DELETE"] == ["/api/v0/instances/3/"]


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, {"success": False, "error": "no_such_ask", "msg": "error 404/3603: no_such_ask"}, OfferGone),
        (410, {"success": False, "msg": "error 410/3907: gone"}, OfferGone),
        (400, {"success": False, "error": "invalid_args", "msg": "machine already been rented"}, OfferGone),
        (400, {"success": False, "error": "insufficient_credit", "msg": "no money"}, ProviderRefused),
    ],
)
async def test_refused_orders(
    scripted: ScriptedServer, scripted_vast: VastProvider, status: int, body: Any, kind: type[ProviderError]
) -> None:
    """A sold offer is recognised under all its names; other refusals stay refusals. Nothing is asked again."""
    scripted.script = lambda asked: (200, EMPTY) if asked.method == "GET" else (status, body)
    with pytest.raises(ProviderError) as failure:
        await scripted_vast.rent(_order())
    assert type(failure.value) is kind
    assert [asked.method for asked in scripted.asked] == ["GET", "PUT"]


async def test_machine_named_by_a_refusal_must_go(scripted: ScriptedServer, scripted_vast: VastProvider) -> None:
    """If the machine of a refused order cannot be destroyed, the caller learns its id and that it may exist."""

    def script(asked: Asked) -> Reply:
        replies = {"GET": (200, EMPTY), "PUT": (400, {"error": "invalid_price", "new_contract": 9})}
        return replies.get(asked.method, (500, "<html></html>"))

    scripted.script = script
    with pytest.raises(ProviderUnreachable) as failure:
        await scripted_vast.rent(_order())
    assert failure.value.machine_id == "9"
    assert scripted.count("DELETE") == 1


async def test_more_offers_than_one_page(scripted: ScriptedServer, scripted_vast: VastProvider) -> None:
    """Pages of 64 follow each other by price until one brings nothing new; repeats and false rows are dropped."""
    market = [offer(id=n, machine_id=n, dph_total=0.1 + n // 3 / 100) for n in range(1, 151)]

    def script(asked: Asked) -> Reply:
        lowest = asked.body.get("dph_total", {}).get("gte", 0)
        rows = [row for row in market if row["dph_total"] >= lowest][:64]
        return 200, {"offers": [*rows[:1], *rows][:64]}

    scripted.script = script
    found = await scripted_vast.offers(OfferQuery(limit=1000))
    assert sorted(int(one.machine_id) for one in found) == list(range(1, 151))
    assert len(scripted.asked) < 8
    scripted.asked.clear()
    assert len(await scripted_vast.offers(OfferQuery(limit=5))) == 5
    assert len(scripted.asked) == 1, "a page was fetched that nobody needs"


async def test_empty_market_is_asked_twice(scripted: ScriptedServer, scripted_vast: VastProvider) -> None:
    """One empty answer is not believed; and an ignored filter does not let a dear offer through."""
    replies = iter([{"offers": []}, {"offers": [offer(), offer(id=2, machine_id=2, dph_total=9.0)]}])
    scripted.script = lambda asked: (200, next(replies))
    found = await scripted_vast.offers(OfferQuery(max_price_hour_nano=1_000_000_000))
    assert [one.provider_offer_id for one in found] == ["21458734"]


@pytest.mark.parametrize(
    ("reply", "pause"),
    [
        ((429, "API requests too frequent: endpoint threshold=4.5"), 12.0),
        ((429, {"success": False, "error": "rate_limit_exceeded", "retry_after": 3}), 3.0),
        ((429, {"detail": "API requests too frequent endpoint threshold=4.5", "retry_after": 900}), 60.0),
    ],
)
async def test_slow_down_says_how_long(
    scripted: ScriptedServer, scripted_vast: VastProvider, reply: Reply, pause: float
) -> None:
    """Every form of a 429 is RateLimited with a pause, and says nothing about a machine."""
    scripted.script = lambda asked: reply
    with pytest.raises(RateLimited) as failure:
        await scripted_vast.get("1")
    assert failure.value.retry_after == pause


async def test_gaps_are_kept_per_kind() -> None:
    """Calls of one kind keep their distance while other kinds and the first burst of searches pass at once."""
    loop, gaps = asyncio.get_running_loop(), Gaps(enforced=True)
    began = loop.time()
    await asyncio.gather(gaps.wait("get"), gaps.wait("create"), *(gaps.wait("search") for _ in range(10)))
    assert loop.time() - began < 3
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await gaps.wait("search")
    await asyncio.gather(gaps.wait("list"), gaps.wait("list"))
    assert loop.time() - began >= 0.95
    gaps.refused("destroy", "endpoint threshold=3.0", None)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await gaps.wait("destroy")


async def test_secrets_stay_out_of_sight(
    scripted: ScriptedServer, scripted_vast: VastProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """A reply that echoes the key does not carry it into our error or our log."""
    caplog.set_level(logging.DEBUG)
    scripted.script = lambda asked: (400, {"error": "invalid_args", "msg": f"bad key {SECRET} " + "x" * 1000})
    with pytest.raises(ProviderRefused) as failure:
        await scripted_vast.account()
    assert SECRET not in failure.value.detail + caplog.text + repr(failure.value)
    assert len(failure.value.detail) < 400


async def test_keys_are_compared_by_body(scripted: ScriptedServer, scripted_vast: VastProvider) -> None:
    """Both field names of a key listing are read, deleted keys do not count, and 404 means no keys yet."""
    known = [{"id": 1, "key": "ssh-ed25519 AAAA old", "deleted_at": None}, {"public_key": "ssh-ed25519 BBBB x"}]
    scripted.script = lambda asked: (200, known if asked.method == "GET" else {"success": True})
    for key in ("ssh-ed25519 AAAA new", "ssh-ed25519 BBBB"):
        await scripted_vast.ensure_key(key)
    assert scripted.count("POST") == 0
    known[0]["deleted_at"] = "2026-01-01"
    await scripted_vast.ensure_key("ssh-ed25519 AAAA new")
    assert scripted.count("POST") == 1
    scripted.script = lambda asked: (404, {"error": "not_found"}) if asked.method == "GET" else (200, {"success": True})
    await scripted_vast.ensure_key("ssh-ed25519 CCCC")
    assert scripted.asked[-1].body == {"ssh_key": "ssh-ed25519 CCCC"}


async def test_attach_refused_though_attached(scripted: ScriptedServer, scripted_vast: VastProvider) -> None:
    """A refusal to attach counts as done when the machine's own list, JSON in a JSON text, has the key."""
    attached = {"success": True, "ssh_keys": json.dumps([{"id": 78, "public_key": "ssh-ed25519 AAAA n"}])}
    scripted.script = lambda asked: (200, attached) if asked.method == "GET" else (400, {"error": "duplicate"})
    await scripted_vast.attach_key("5", "ssh-ed25519 AAAA")
    with pytest.raises(ProviderRefused):
        await scripted_vast.attach_key("5", "ssh-ed25519 BBBB")


async def test_charges_of_one_machine(scripted: ScriptedServer, scripted_vast: VastProvider) -> None:
    """Charges come as lines by kind in nano-dollars, of the asked machine alone."""
    row = {
        "start": 1786003600,
        "end": 1786010800,
        "type": "instance",
        "source": "instance-31005512",
        "amount": 0.702,
        "items": [
            {"type": "gpu", "description": "2.000 hours", "amount": 0.693},
            {"type": "disk", "description": "2.000 hours", "amount": 0.008},
            {"type": "bwd", "description": "0.300 GB", "amount": 0.001},
        ],
    }
    rows = [row, row | {"source": "instance-3100551", "items": []}]
    scripted.script = lambda asked: (200, {"success": True, "total": 2, "next_token": None, "results": rows})
    start, end = (datetime.fromtimestamp(t, tz=timezone.utc) for t in (1786003600, 1786010800))
    lines = await scripted_vast.charges("31005512", start, end)
    assert {(line.kind, line.amount_nano) for line in lines} == {
        ("gpu", 693_000_000),
        ("disk", 8_000_000),
        ("bandwidth", 1_000_000),
    }
    assert all((line.start, line.end) == (start, end) for line in lines)


async def test_dribbling_server_does_not_hold_us(scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply that takes too long as a whole is given up as unknown."""
    monkeypatch.setattr("dumont.providers.vast.client._CALL_SECONDS", 0.2)
    impatient = VastProvider("vast", scripted.url, SECRET, enforce_gaps=False)
    release = threading.Event()

    def script(asked: Asked) -> Reply:
        release.wait(60)
        return 200, {}

    scripted.script = script
    begun = time.monotonic()
    with pytest.raises(ProviderUnreachable):
        await impatient.account()
    assert time.monotonic() < begun + 50, "it waited for the server"
    release.set()
    await impatient.close()
