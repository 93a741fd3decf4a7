"""What the doctor says of the watch over machines: late, blind, well, and what no row owns."""

from pathlib import Path

from dumont.app.doctor import orphans_finding, watch_finding
from dumont.core import Settings
from dumont.instances import WatchReport

SEEN = {"machines": {"sandbox": 3}, "unknown": []}
STRAY = {
    "kind": "late",
    "action": "destroyed",
    "provider": "vast",
    "provider_machine_id": "77",
    "label": "dumont-A-a1",
    "state": "running",
    "price_hour_nano": 1,
}


def _watch(report: WatchReport) -> tuple[str, str]:
    found = watch_finding(Settings(home=Path("/nonexistent")), report)
    return found.state, found.detail


def test_the_watch_is_well_late_or_blind() -> None:
    """Turns of a moment ago are well; old or missing ones, and listings that failed, are told."""
    well = WatchReport({"losses": 2.0, "sweep": 31.0}, SEEN, [], [])
    assert _watch(well) == ("ok", "losses 2 s ago, sweep 31 s ago; sandbox lists 3")
    for ended in ({}, {"losses": 2.0}, {"losses": 2.0, "sweep": 500.0}):
        state, detail = _watch(WatchReport(ended, SEEN, [], []))
        assert state == "warning" and "sweep" in detail and "worker" in detail
    state, detail = _watch(WatchReport({"losses": 2.0, "sweep": 3.0}, {**SEEN, "unknown": ["vast"]}, [], []))
    assert state == "warning" and "vast gave no complete listing" in detail


def test_orphans_are_named() -> None:
    """Each machine without an owner is named with what was done, and a failed instance that costs is told."""
    assert orphans_finding(WatchReport({}, SEEN, [], [])).state == "ok"
    found = orphans_finding(WatchReport({}, SEEN, [STRAY, {**STRAY, "label": None, "action": "left"}], ["ins_x"]))
    assert found.state == "warning"
    assert found.detail == (
        "vast 77 (dumont-A-a1, late, running): destroyed; vast 77 (no label, late, running): left; "
        "ins_x failed and still has a machine; destroy it"
    )
    many = orphans_finding(WatchReport({}, SEEN, [STRAY] * 20, []))
    assert many.detail.endswith("and 12 more")
