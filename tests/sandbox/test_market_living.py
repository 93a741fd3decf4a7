"""The market as `dumont up` shows it: about 300 offers that come and go, and renting from it works."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.sandbox import SandboxProcess, wait_until

Start = Callable[..., SandboxProcess]
_MONDAY = 2_000_080_800.0
"""A moment to come, so that each run meets the same weather."""


def _everything(box: SandboxProcess) -> dict[int, dict[str, Any]]:
    """Walk the whole market by price, as a client must, and return the offers by number."""
    found: dict[int, dict[str, Any]] = {}
    price = 0.0
    while True:
        page = box.offers(dph_total={"gte": price})
        fresh = [offer for offer in page if offer["id"] not in found]
        found |= {offer["id"]: offer for offer in fresh}
        if not fresh:
            return found
        price = page[-1]["dph_total"]


def test_what_was_shown_can_be_rented(sandboxes: Start) -> None:
    """An hour after the other offers go and others come, and one that is gone is still let to who just saw it."""
    box = sandboxes(speed=3600, epoch=time.time(), market="slack", offers=300)
    box.stop_clock(_MONDAY)
    shown = _everything(box)
    assert 230 <= len(shown) <= 370 and len({offer["gpu_name"] for offer in shown.values()}) > 30
    page = box.offers(limit=64)
    assert len({(offer["machine_id"], offer["num_gpus"]) for offer in page}) == len(page) == 64
    assert all(offer["dph_total"] > 0 and offer["min_bid"] > 0 for offer in shown.values())
    lasting = {number for number, offer in shown.items() if offer["disk_space"] > 40}
    gone: list[int] = []
    while not gone:
        box.control.turn_clock(advance_s=3600)
        gone = sorted(lasting - set(_everything(box)))
    box.control.turn_clock(pause=False)
    number = box.rent(gone[0])
    rented = box.wait_for(number, "running")
    assert (rented["machine_id"], rented["num_gpus"]) == tuple(shown[gone[0]][n] for n in ("machine_id", "num_gpus"))
    assert rented["dph_base"] == pytest.approx(shown[gone[0]]["dph_base"], rel=0.35)
    assert gone[0] not in _everything(box), "what is rented is not offered"
    fresh = set(_everything(box)) - set(shown)
    assert fresh, "new listings have new numbers"
    again = sandboxes(speed=3600, epoch=time.time(), market="slack", offers=300)
    again.stop_clock(_MONDAY)
    assert {o["machine_id"] for o in shown.values()} & {o["machine_id"] for o in _everything(again).values()}


def test_the_weather_outbids_and_gives_back(sandboxes: Start) -> None:
    """Ten hours pass each second: a bid near the least is outbid by rivals and resumes, and only running costs GPU."""
    box = sandboxes(speed=36_000, epoch=time.time(), market="slack", offers=120, credit=100_000)
    box.stop_clock(_MONDAY)
    numbers: list[int] = []
    for offer in box.offers(type="bid", disk_space={"gte": 20}, dph_base={"gte": 0.05})[:12]:
        wish = {"image": "x", "disk": 10, "price": round(offer["min_bid"] * 1.02, 4)}
        status, made = box.call("PUT", f"/api/v0/asks/{offer['id']}/", wish)
        numbers += [made["new_contract"]] if status == 200 else []
    assert len(numbers) >= 3
    box.control.turn_clock(pause=False)

    def states(number: int) -> list[str]:
        return [str(span["state"]) for span in box.control.line(number).spans]

    def came_back() -> int | None:
        for number in numbers:
            ran = [state for state in states(number) if state != "loading"]
            if ["running", "outbid", "running"] in (ran[at : at + 3] for at in range(len(ran))):
                return number
        return None

    number = wait_until(came_back, what="a machine to be outbid and to run again")
    line = box.control.line(number)
    for span in line.spans:
        assert (span["gpu_rate_nanousd_hour"] > 0) == (span["state"] == "running")
    assert all(a["to"] == b["from"] for a, b in zip(line.spans, line.spans[1:], strict=False))
    ended = sum(span["nanousd"] for span in line.spans if span["to"] is not None)
    assert 0 < ended <= line.total_nanousd


def test_a_price_trace_drives_the_least_bid(sandboxes: Start, tmp_path: Path) -> None:
    """Recorded spot prices become the least bid of a part of the market, and end the bids below them."""
    path = tmp_path / "spot.csv"
    path.write_text("timestamp_utc,usd_per_hour\n2021-03-02T00:00:00Z,0.20\n2021-03-02T00:04:00Z,0.50\n")
    box = sandboxes()
    box.control.bind_trace({"trace": str(path), "mode": "price", "bind": {"machine": 30013}, "repeat": "hold"})
    (offer,) = box.offers(machine_id={"eq": 30013}, type="bid")
    assert offer["min_bid"] == pytest.approx(0.2)
    low = box.rent(offer["id"], price=0.3)
    box.wait_for(low, "running")
    box.control.turn_clock(advance_s=240)
    box.wait_for(low, "exited")
    line = box.control.line(low)
    assert line.spans[-1]["state"] == "outbid"
    assert box.offers(machine_id={"eq": 30013}, type="bid")[0]["min_bid"] == pytest.approx(0.5)
    assert box.call("PUT", f"/api/v0/instances/bid_price/{low}/", {"price": 0.5})[0] == 200
    box.wait_for(low, "running")
    days = {"day": {"gte": 0, "lte": box.control.state()["now"] + 1}}
    query = json.dumps(days).replace('"', "%22").replace(" ", "")
    (charge,) = box.call("GET", f"/api/v0/charges/?select_filters={query}")[1]["results"]
    assert [item["type"] for item in charge["items"]] == ["gpu", "gpu", "disk"]
    assert [item["description"].rsplit("$", 1)[1] for item in charge["items"][:2]] == ["0.300/hour", "0.500/hour"]


def test_bad_traces_stop_the_start(sandboxes: Start, tmp_path: Path) -> None:
    """A binding that cannot be used is told in one sentence before anything listens."""
    path = tmp_path / "binding.json"
    path.write_text(json.dumps({"trace": str(tmp_path / "none.json"), "bind": {"model": "L40S"}}))
    with pytest.raises(AssertionError, match="ended with 2"):
        sandboxes(trace=path)
