"""Traces: read and checked, made up by seed, and laid over a part of the market."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.sandbox import SandboxProcess, wait_until

from dumont.sandbox import SandboxControlError
from dumont.sandbox.traces import BadTrace, Binding, Trace, bind, check, main, read_prices, read_trace, synthetic

Start = Callable[..., SandboxProcess]
_ANYWHERE = {"model": "L40S"}


def _up(trace: Trace) -> list[int]:
    """Return how many samples each stretch of availability has."""
    runs, run = [], 0
    for value in (*trace.data, 0):
        if value:
            run += 1
        elif run:
            runs.append(run)
            run = 0
    return runs


def test_samples_hold_until_the_next_one() -> None:
    """No sample is mixed with another; the end loops or holds; offset and first availability shift the beginning."""
    document = {"trace": {"metadata": {"gap_seconds": 30}, "data": [0, 0, 2, 5]}, "bind": _ANYWHERE}
    loop, hold = bind(document, 1000.0), bind({**document, "repeat": "hold"}, 1000.0)
    assert [loop.value(1000 + s) for s in (0, 29.9, 60, 89.9, 90, 119.9, 120)] == [0, 0, 2, 2, 5, 5, 0]
    assert [hold.value(1000 + s) for s in (119.9, 120, 9999)] == [5, 5, 5]
    assert (loop.next_change(1000.0), loop.next_change(1030.0), hold.next_change(1100)) == (1030, 1060, float("inf"))
    assert bind({**document, "start": "first_nonzero"}, 0.0).value(0) == 2
    assert bind({**document, "offset_s": 95, "scale": 0.5}, 0.0).value(0) == 2
    at = 1_780_000_000.123
    binding = bind({**document, "repeat": "loop"}, at)
    for _ in range(2000):
        before, at = binding.value(at), binding.next_change(at)
        order = [0, 0, 2, 5]
        assert binding.value(at) in {order[(i + 1) % 4] for i in range(4) if order[i] == before}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "is not JSON"),
        ("[]", "gap_seconds"),
        ('{"metadata": {"gap_seconds": 0}, "data": [1]}', "gap_seconds must be a number above zero"),
        ('{"metadata": {"gap_seconds": 30}, "data": []}', "not empty"),
        ('{"metadata": {"gap_seconds": 30}, "data": [1, 0, -1]}', r"data\[2\] must be a whole number"),
        ('{"metadata": {"gap_seconds": 30}, "data": [1, 0.5]}', r"data\[1\] must be a whole number"),
        ('{"metadata": {"gap_seconds": 30}, "data": [true]}', r"data\[0\] must be a whole number"),
        ('{"metadata": {"gap_seconds": 30}, "data": [' + "1, " * 2_000_000 + "1]}", "at most 5 MB"),
    ],
)
def test_bad_traces_are_told_with_file_and_place(tmp_path: Path, text: str, words: str) -> None:
    """Each mistake is named, with the file and the index of the sample."""
    path = tmp_path / "trace.json"
    path.write_text(text)
    with pytest.raises(BadTrace, match=words) as told:
        read_trace(path)
    assert str(path) in str(told.value)
    with pytest.raises(BadTrace, match="cannot be read"):
        read_trace(tmp_path / "none.json")


def test_bad_bindings_are_told() -> None:
    """Unknown modes, places, words and numbers are refused in one sentence."""
    good: dict[str, Any] = {"trace": {"synthetic": {"days": 1}}, "bind": _ANYWHERE}
    for change, words in (
        ({"mode": "magic"}, "mode must be"),
        ({"bind": {}}, "bind must name"),
        ({"bind": {"zone": "us-central1-a"}}, "no zones"),
        ({"bind": {"machine": "big"}}, "bind.machine"),
        ({"scale": -1}, "scale must be"),
        ({"repeat": "twice"}, "repeat must be"),
        ({"trace": None}, "trace must be"),
        ({"trace": {"synthetic": {"gap_seconds": 0}}}, "above zero"),
        ({"trace": {"synthetic": {"colour": 1}}}, "synthetic takes"),
    ):
        with pytest.raises(BadTrace, match=words):
            bind({**good, **change}, 0.0)
    assert isinstance(bind(good, 0.0), Binding)


def test_made_up_traces_look_like_recorded_ones(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Seeded; up for two hours in the median, down for 25 minutes; the command writes what can be read again."""
    made = synthetic(7, days=60, gap_seconds=60)
    assert made == synthetic(7, days=60, gap_seconds=60) != synthetic(8, days=60, gap_seconds=60)
    runs = sorted(_up(made))
    downs = sorted(_up(Trace(60, tuple(1 - value for value in made.data))))
    assert 80 < runs[len(runs) // 2] < 170 and 18 < downs[len(downs) // 2] < 34
    assert max(synthetic(7, days=5, most=4).data) == 4
    assert main(["--seed", "7", "--days", "1", "--most", "2"]) == 0
    path = tmp_path / "made.json"
    path.write_text(capsys.readouterr().out)
    assert read_trace(path) == synthetic(7, days=1, most=2)


def _traces() -> list[Trace]:
    """The recorded traces of the folder that RECORDED_TRACES names, else made-up ones of the same form."""
    if os.environ.get("RECORDED_TRACES"):
        return [read_trace(path) for path in sorted(Path(os.environ["RECORDED_TRACES"]).rglob("*.json"))]
    return [synthetic(seed, days=20, gap_seconds=gap, most=4) for seed, gap in enumerate((30, 195, 300, 600))]


def test_recorded_traces_can_be_followed() -> None:
    """Every one is read, and each of its samples is what holds at its time."""
    traces = _traces()
    assert len(traces) >= 4
    for trace in traces:
        binding = Binding(trace, "availability", 0.0, machine=1)
        step = max(1, len(trace.data) // 200)
        for index in range(0, len(trace.data), step):
            assert binding.value(index * trace.gap_s) == trace.data[index]
            assert binding.value((index + 0.999) * trace.gap_s) == trace.data[index]
        assert any(trace.data) and check(trace.document(), "again") == trace


def test_prices_of_the_past_can_be_followed(tmp_path: Path) -> None:
    """A file of change points holds each price until the next; a bad line is named."""
    path = tmp_path / "spot.csv"
    path.write_text("timestamp_utc,usd_per_hour\n2021-03-02T00:02:00Z,0.30\n2021-03-02T00:00:00Z,0.10\n")
    assert read_prices(path).data == (100_000_000, 100_000_000, 300_000_000)
    path.write_text("timestamp_utc,usd_per_hour\n2021-03-02T00:02:00Z,cheap\n")
    with pytest.raises(BadTrace, match="line 2"):
        read_prices(path)


def test_availability_limits_what_can_be_held(sandboxes: Start) -> None:
    """At most so many slices are offered and held; what is held stays, what stopped cannot start; then it can again."""
    box = sandboxes()
    trace = {"metadata": {"gap_seconds": 300}, "data": [1, 0, 4]}
    everything = box.offers(gpu_name={"eq": "RTX 4090"})
    box.control.bind_trace({"trace": trace, "bind": {"model": "RTX_4090"}, "repeat": "hold"})
    assert len(everything) > 4 and len(box.offers(gpu_name={"notin": ["RTX 4090"]})) > 10
    (only,) = box.offers(gpu_name={"eq": "RTX 4090"})
    assert only["dph_base"] == min(offer["dph_base"] for offer in everything)
    kept = box.rent(only["id"])
    assert box.offers(gpu_name={"eq": "RTX 4090"}) == []
    status, refused = box.call("PUT", f"/api/v0/asks/{everything[-1]['id']}/", {"image": "x", "disk": 10})
    assert (status, refused["error"]) == (404, "no_such_ask")
    box.control.turn_clock(advance_s=300)
    assert box.control.state()["traces"][0]["value"] == 0
    box.wait_for(kept, "running")
    box.call("PUT", f"/api/v0/instances/{kept}/", {"state": "stopped"})
    box.wait_for(kept, "exited")
    assert box.call("PUT", f"/api/v0/instances/{kept}/", {"state": "running"})[1]["error"] == "resources_unavailable"
    box.control.turn_clock(advance_s=300)
    box.wait_for(kept, "running")
    assert len(box.offers(gpu_name={"eq": "RTX 4090"})) == 3
    box.stop()
    again = box.restart()
    try:
        assert again.control.state()["traces"][0]["value"] == 4, "a trace outlives a restart and goes on"
        with pytest.raises(SandboxControlError, match=r"data\[0\]"):
            again.control.bind_trace({"trace": {"metadata": {"gap_seconds": 1}, "data": ["x"]}, "bind": _ANYWHERE})
    finally:
        again.stop()


def test_preemption_takes_the_lowest_bids(sandboxes: Start, tmp_path: Path) -> None:
    """When the trace falls the lowest bids go, dated to the sample; when it rises the highest comes back first."""
    path = tmp_path / "binding.json"
    trace = {"metadata": {"gap_seconds": 240}, "data": [3, 3, 1, 2, 2, 2, 2]}
    path.write_text(json.dumps({"trace": trace, "bind": {"model": "RTX 4090"}, "mode": "preemption"}))
    box = sandboxes(trace=path)
    offers = [offer["id"] for offer in box.offers(gpu_name={"eq": "RTX 4090"}, type="bid")]
    assert len(offers) == 3, "a bid search shows only what the trace leaves room for"
    bids = {box.rent(offer, price=price): price for offer, price in zip(offers, (0.9, 0.7, 0.8), strict=True)}
    for number in bids:
        box.wait_for(number, "running")

    def running() -> list[float]:
        return sorted(bids[m["instance_id"]] for m in box.control.state()["machines"] if m["phase"] == "running")

    box.control.turn_clock(advance_s=480)
    wait_until(lambda: running() == [0.9], what="the fall")
    falls = {span["from"] for n in bids for span in box.control.line(n).spans if span["state"] == "outbid"}
    assert len(falls) == 1
    box.control.turn_clock(advance_s=240)
    wait_until(lambda: running() == [0.8, 0.9], what="the rise")
