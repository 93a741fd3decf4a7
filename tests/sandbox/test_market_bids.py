"""Interruptible machines: the highest bid runs, the others wait with their files, and each pays its own bid."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import pytest
from tests.support.sandbox import SandboxProcess, start_sandbox, wait_until

from dumont.core import nanousd
from dumont.sandbox.bids import Claim, winners

_SPEED = 60


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    """One sandbox in which nothing moves but what a test moves; a minute of its time is a second."""
    box = start_sandbox(tmp_path_factory.mktemp("bids"), speed=_SPEED)
    yield box
    box.stop()
    assert box.processes() == []


@pytest.fixture(autouse=True)
def _empty(market: SandboxProcess) -> Iterator[None]:
    yield
    market.control.dismiss_rivals()
    market.control.clear_traces()
    for machine in market.control.state()["machines"]:
        market.call("DELETE", f"/api/v0/instances/{machine['instance_id']}/", {})


def _offer(market: SandboxProcess, machine: int = 30013, gpus: int = 1, kind: str = "bid") -> dict[str, Any]:
    found: list[dict[str, Any]] = market.offers(machine_id={"eq": machine}, num_gpus={"eq": gpus}, type=kind)
    return found[0]


def _bid(market: SandboxProcess, price: float, *, machine: int = 30013, gpus: int = 1) -> int:
    number = market.rent(_offer(market, machine, gpus)["id"], price=price)
    market.wait_for(number, "running")
    return number


def _words(market: SandboxProcess, number: int) -> tuple[Any, ...]:
    shown = market.instance(number)
    assert shown is not None
    return tuple(shown[name] for name in ("actual_status", "intended_status", "cur_state", "next_state"))


OUTBID = ("exited", "stopped", "stopped", "stopped")


def test_a_higher_bid_takes_the_machine_and_gives_it_back(market: SandboxProcess) -> None:
    """The loser's processes end without notice, its disk stays and bills on; when the rival leaves it runs again."""
    offer = _offer(market)
    assert offer["min_bid"] == pytest.approx(0.36) and offer["dph_base"] == offer["min_bid"]
    number = market.rent(offer["id"], price=0.4, onstart="echo kept >> workspace/file; exec sleep 600")
    market.wait_for(number, "running")
    wait_until(lambda: market.processes(number), what="onstart")
    kept = market.home / "machines" / str(number) / "root" / "workspace" / "file"
    assert _offer(market)["min_bid"] == pytest.approx(0.404, abs=1e-6)

    market.control.send_rival(number, bid=0.41)
    assert _words(market, number) == OUTBID
    assert _offer(market)["min_bid"] == pytest.approx(0.4141, abs=1e-6)
    wait_until(lambda: not market.processes(number), what="the processes to end")
    assert kept.read_text() == "kept\n"
    lost = market.control.line(number)
    assert lost.spans[-1]["state"] == "outbid" and lost.spans[-1]["gpu_rate_nanousd_hour"] == 0
    assert lost.spans[-1]["disk_rate_nanousd_hour"] > 0

    market.control.dismiss_rivals()
    market.wait_for(number, "running")
    wait_until(lambda: kept.read_text() == "kept\nkept\n", what="the second start")
    line = market.control.line(number)
    assert [state for state, _ in groupby(span["state"] for span in line.spans)][-3:] == [
        "outbid",
        "loading",
        "running",
    ]
    assert all(a["to"] == b["from"] for a, b in zip(line.spans, line.spans[1:], strict=False))
    rates = {span["gpu_rate_nanousd_hour"] for span in line.spans if span["state"] == "running"}
    assert rates == {nanousd("0.4")}, "a bidder pays the own bid"


def test_bids_of_our_own_compete_per_gpu(market: SandboxProcess) -> None:
    """One GPU for more than half of what two pay takes both away; more money for the two brings them back."""
    pair = _bid(market, 0.5, machine=22991, gpus=2)
    single = _bid(market, 0.26, machine=22991)
    assert _words(market, pair) == OUTBID
    assert market.call("PUT", f"/api/v0/instances/bid_price/{pair}/", {"client_id": "me", "price": 0.53})[0] == 200
    market.wait_for(pair, "running")
    assert _words(market, single) == OUTBID
    running = [span for span in market.control.line(pair).spans if span["state"] == "running"]
    assert [span["gpu_rate_nanousd_hour"] for span in running] == [500_000_000, 530_000_000]
    hours = (running[0]["to"] - running[0]["from"]) / 3600
    disk = running[0]["disk_rate_nanousd_hour"]
    assert running[0]["nanousd"] == pytest.approx((500_000_000 + disk) * hours, abs=500)


def test_an_equal_bid_does_not_take_it(market: SandboxProcess) -> None:
    """Ties go to the earlier one; the later one is told that its bid is too low, and leaves a stopped instance."""
    first = _bid(market, 0.4)
    status, refused = market.call(
        "PUT", f"/api/v0/asks/{_offer(market)['id']}/", {"image": "x", "disk": 10, "price": 0.4}
    )
    assert (status, refused["error"]) == (400, "invalid_price")
    assert market.wait_for(refused["new_contract"], "exited")["is_bid"]
    assert _words(market, first)[0] == "running"


def test_renting_on_demand_takes_a_bid_s_place(market: SandboxProcess) -> None:
    """No bid wins against who rents on demand; it waits, can be given up, and runs again only when asked for."""
    bidder = _bid(market, 0.59)
    owner = market.rent(_offer(market, kind="on-demand")["id"])
    assert _words(market, bidder) == OUTBID
    market.wait_for(owner, "running")
    assert market.offers(machine_id={"eq": 30013}, type="bid") == []
    asked = market.call("PUT", f"/api/v0/instances/{bidder}/", {"state": "running"})
    assert asked[0] == 200 and asked[1]["error"] == "resources_unavailable"
    assert market.call("PUT", f"/api/v0/instances/{bidder}/", {"state": "stopped"})[0] == 200
    market.call("DELETE", f"/api/v0/instances/{owner}/", {})
    market.control.send_rival(bidder, for_s=6000)
    assert _words(market, bidder)[:2] == ("exited", "stopped")
    assert market.call("PUT", f"/api/v0/instances/{bidder}/", {"state": "running"})[1]["success"] is False
    market.control.turn_clock(advance_s=6000)
    market.wait_for(bidder, "running")


def test_a_loss_is_dated_to_its_moment(market: SandboxProcess) -> None:
    """A rival known to leave and a trace known to fall end and begin spans at their own times, not at a poll's."""
    number = _bid(market, 0.5)
    bound = market.control.bind_trace(
        {
            "trace": {"metadata": {"gap_seconds": 40}, "data": [1, 0]},
            "bind": {"machine": 30013},
            "mode": "preemption",
            "repeat": "hold",
        }
    )
    wait_until(lambda: _words(market, number) == OUTBID, what="the trace to fall")
    spans = market.control.line(number).spans
    assert spans[-1]["from"] == pytest.approx(bound["next_change"], abs=1e-5)
    assert spans[-2]["state"] == "running" and spans[-2]["to"] == spans[-1]["from"]


def test_bids_have_limits(market: SandboxProcess) -> None:
    """On-demand machines have no bid; a bid stays within the marketplace's range."""
    owner = market.rent(_offer(market, kind="on-demand")["id"])
    assert market.call("PUT", f"/api/v0/instances/bid_price/{owner}/", {"price": 0.5})[0] == 400
    market.call("DELETE", f"/api/v0/instances/{owner}/", {})
    number = _bid(market, 0.5)
    for price in (0.0001, 33, "much", None):
        status, refused = market.call("PUT", f"/api/v0/instances/bid_price/{number}/", {"price": price})
        assert status == 400 and refused["success"] is False
    assert _words(market, number)[0] == "running"


def test_who_comes_first() -> None:
    """Holders on demand, then waiters on demand, then bids by price for one GPU, then by age."""

    def claim(number: int, gpus: tuple[int, ...], phase: str, bid: int | None) -> Claim:
        return Claim(number, 1, gpus, phase, bid)

    everybody = [
        claim(1, (0, 1), "outbid", 900),
        claim(2, (1,), "running", 400),
        claim(3, (0,), "running", None),
        claim(4, (2,), "queued", None),
        claim(5, (2,), "running", 10_000),
        claim(6, (3,), "running", 300),
        claim(7, (3,), "outbid", 300),
        claim(8, (1,), "exited", 9000),
    ]
    assert [c.id for c in winners(everybody, lambda claim, served: True)] == [3, 4, 2, 6]
