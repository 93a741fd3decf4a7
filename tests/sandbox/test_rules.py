"""Rules of chance: which events they strike follows from the seed, a log tells it, and another run agrees."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.support.sandbox import SandboxProcess

from dumont.sandbox import SandboxControlError, first_difference
from dumont.sandbox.faults import Event, Faults
from dumont.sandbox.journal import Journal, read_journal

Start = Callable[..., SandboxProcess]
RULE = {"fault": "latency", "match": {"op": "label"}, "when": {"p": 0.5}, "params": {"ms": 0}}


class _Time:
    now = 0.0

    def seconds(self) -> float:
        return self.now


def _struck(faults: Faults, events: list[Event]) -> list[bool]:
    return [faults.take("latency", event) is not None for event in events]


@pytest.fixture
def journal(tmp_path: Any) -> Journal:
    """A log on disk."""
    return Journal(tmp_path / "log.jsonl", _Time().seconds)


def test_draws_belong_to_the_entity_not_to_the_order(journal: Journal) -> None:
    """The same events in another order strike the same entities at the same counts; another seed does not."""
    events = [Event(f"instance:{at % 5}", op="label") for at in range(60)]

    def of(seed: int, order: list[Event]) -> dict[str, list[bool]]:
        faults = Faults(journal, _Time().seconds, seed)
        faults.add(RULE)
        found: dict[str, list[bool]] = {}
        for event, hit in zip(order, _struck(faults, order), strict=True):
            found.setdefault(event.entity, []).append(hit)
        return found

    one = of(42, events)
    assert one == of(42, sorted(events, key=lambda event: event.entity)) != of(43, events)
    hits = sum(map(sum, one.values()))
    assert 15 <= hits <= 45


def test_when_and_match_choose(journal: Journal) -> None:
    """nth and max count, from_s and to_s are times since the rule was made, match takes patterns."""
    time = _Time()
    faults = Faults(journal, time.seconds)
    faults.add({"fault": "latency", "match": {"path": "/asks/*", "label": ["a-*", "b"]}, "when": {"nth": [2, 3]}})
    fits = Event("account", path="/asks/7/", label="a-1")
    others = [Event("account", path="/asks/7/", label="c"), Event("account", path="/instances/", label="b")]
    assert _struck(faults, [fits, *others, fits, fits, fits]) == [False, False, False, True, True, False]
    assert faults.documents() == []
    faults.add({"fault": "latency", "when": {"from_s": 10, "to_s": 20, "max": 2}})
    struck = []
    for moment in (9, 10, 19.9, 20):
        time.now = moment
        struck += _struck(faults, [fits])
    assert struck == [False, True, True, False] and faults.documents() == []
    faults.add({"fault": "latency", "times": 1})
    assert faults.wanted("latency") and faults.remove() == 1 and not faults.wanted("latency")


def test_a_log_can_decide(journal: Journal) -> None:
    """What was written down is decided again in the same way under any seed, and the log on disk is whole."""
    events = [Event(f"instance:{at % 3}", op="label") for at in range(30)]
    first = Faults(journal, _Time().seconds, 1)
    first.add(RULE)
    struck = _struck(first, events)
    journal.flush()
    lines = read_journal(journal.path)
    assert [line["decision"] == "taken" for line in lines] == struck
    again = Faults(journal, _Time().seconds, 999)
    again.add(RULE)
    again.follow(lines)
    assert _struck(again, events) == struck
    journal.path.write_text("no json\n")
    with pytest.raises(ValueError, match="line 1"):
        read_journal(journal.path)


def test_two_runs_agree_and_the_first_difference_is_told(sandboxes: Start) -> None:
    """The same calls under the same seed write the same log, whatever the numbers; one call more is found."""
    box = sandboxes()
    rules = [
        {"fault": "http_error", "match": {"op": "label"}, "when": {"p": 0.5}, "params": {"status": 503}},
        {"fault": "sold_between", "when": {"p": 0.3}},
    ]

    def run(seed: int, more: int = 0) -> list[dict[str, Any]]:
        box.control.reset(seed=seed, faults=rules)
        for at in range(6):
            offer = box.offers()[0]["id"]
            status, made = box.call("PUT", f"/api/v0/asks/{offer}/", {"image": "x", "disk": 10, "label": f"l{at}"})
            if status == 200:
                for _ in range(3 + more):
                    box.call("PUT", f"/api/v0/instances/{made['new_contract']}/", {"label": f"m{at}"})
        return box.control.log()

    one, other, wider = run(7), run(7), run(8)
    assert first_difference(one, other) is None and first_difference(one, wider) is not None
    difference = first_difference(one, run(7, more=1))
    assert difference is not None and difference[0] is None and difference[1]["entity"].startswith("instance:")  # type: ignore[index]
    taken = [line for line in one if line["kind"] == "decision" and line["decision"] == "taken"]
    replies = [line["reply"]["status"] for line in one if line["kind"] == "request"]
    assert len(taken) == replies.count(503) + replies.count(404) > 0
    assert {line["kind"] for line in one} == {"request", "decision", "state"}
    assert box.key not in str(one) and [line["seq"] for line in one] == list(range(1, len(one) + 1))


def test_the_clock_is_turned_and_kept(sandboxes: Start) -> None:
    """It goes forward, faster, stands still and goes on; a restart begins where it would be."""
    box = sandboxes()
    before = box.control.state()["now"]
    paused = box.control.turn_clock(advance_s=1000, speed=60, pause=True)
    assert paused["now"] >= before + 1000 and paused["paused"]
    assert box.control.turn_clock()["now"] == paused["now"]
    going = box.control.turn_clock(pause=False)
    assert going["speed"] == 60 and not going["paused"]
    box.stop()
    back = sandboxes(home=box.home)
    assert back.control.state()["now"] > paused["now"]
    for wrong in ({"advance_s": -1}, {"speed": 0}):
        with pytest.raises(SandboxControlError, match="advance_s"):
            back.control.turn_clock(**wrong)  # type: ignore[arg-type]


def test_wishes_that_cannot_be_read(sandboxes: Start) -> None:
    """Unknown names and values of the wrong kind are refused, and the answer says what is known."""
    box = sandboxes()
    for rule, words in (
        ({"fault": "earthquake"}, "Unknown fault; known are"),
        ({"fault": "latency", "params": {"seconds": 1}}, "latency takes"),
        ({"fault": "latency", "match": {"colour": "red"}}, "match may name"),
        ({"fault": "latency", "when": {"p": "often"}}, "p must be a number"),
        ({"fault": "latency", "when": {"nth": [0]}}, "nth must be"),
        ({"fault": "latency", "times": 0}, "times and max"),
        ({"fault": "accept_then_drop", "params": {"ops": ["dance"]}}, "ops must be"),
        ({"fault": "accept_then_drop", "params": {"cut": "gently"}}, "cut must be one of"),
        ({"wish": "latency"}, "A rule has the keys"),
    ):
        with pytest.raises(SandboxControlError, match=words):
            box.control.add_rule(rule)
    number = box.rent()
    box.wait_for(number, "running")
    with pytest.raises(SandboxControlError, match="no such event; known are"):
        box.control.befall(number, "earthquake")
    with pytest.raises(SandboxControlError, match="remembered"):
        box.control.befall(number, "host_offline", data="old")


def test_limits_are_enforced_on_request(sandboxes: Start) -> None:
    """The documented intervals hold in product time once they are switched on; refused creates push the next back."""
    box = sandboxes()
    box.control.turn_clock(pause=True)
    number = box.rent()
    path = f"/api/v0/instances/{number}/"
    assert [box.call("GET", path)[0] for _ in range(2)] == [200, 200]
    box.control.enforce_limits(True)
    assert [box.call("GET", path)[0] for _ in range(2)] == [200, 429]
    box.control.turn_clock(advance_s=2)
    assert box.call("GET", path)[0] == 200
    create = ("PUT", "/api/v0/asks/1/", {"image": "x", "disk": 10})
    assert [box.call(*create)[0] for _ in range(2)] == [404, 429]
    box.control.turn_clock(advance_s=4.5)
    assert box.call(*create)[0] == 429
    box.control.turn_clock(advance_s=4.5 + 24)
    assert box.call(*create)[0] == 404
    box.control.enforce_limits(False)
    assert [box.call(*create)[0] for _ in range(3)] == [404] * 3
