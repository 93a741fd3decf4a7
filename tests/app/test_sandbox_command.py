"""`dumont sandbox`: the marketplace alone, under a scenario, with its bill, and nothing left after Ctrl-C."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.product import free_port
from tests.support.sandbox import SandboxProcess, wait_until

from dumont.sandbox import SandboxControl

SCENARIO = {
    "seed": 7,
    "clock": {"speed": 3600},
    "market": "still",
    "catalogue": "tiny",
    "credit": 100,
    "faults": [{"fault": "sold_between", "when": {"nth": [1]}}],
}
DUMONT = [sys.executable, "-m", "dumont.app.main", "sandbox"]


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SandboxProcess]:
    """`dumont sandbox --scenario` in a home of its own."""
    port = free_port()
    (tmp_path / "scenario.json").write_text(json.dumps(SCENARIO))
    monkeypatch.setenv("DUMONT_HOME", str(tmp_path))
    monkeypatch.setenv("DUMONT_SANDBOX_PORT", str(port))
    process = subprocess.Popen(
        [*DUMONT, "--scenario", str(tmp_path / "scenario.json"), "--start-seconds", "0.01"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert f"http://127.0.0.1:{port}" in process.stdout.readline()
        home, url = tmp_path / "sandbox", f"http://127.0.0.1:{port}"
        control = SandboxControl(url, (home / "control.token").read_text())
        yield SandboxProcess(url, (home / "api.key").read_text(), control, home, process)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _bill(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*DUMONT, "bill", *words], capture_output=True, text=True, timeout=120, check=False)


def test_it_runs_alone_and_shows_its_bill(alone: SandboxProcess, tmp_path: Path) -> None:
    """The scenario holds, the bill adds up to the ledger, and Ctrl-C ends every machine."""
    offer = alone.offers()[0]["id"]
    create = ("PUT", f"/api/v0/asks/{offer}/", {"image": "ubuntu:22.04", "disk": 10, "label": "mine"})
    assert alone.call(*create)[1]["error"] == "no_such_ask"
    number = alone.rent(offer, label="mine", onstart="sleep 600")
    gone = alone.rent()
    alone.call("DELETE", f"/api/v0/instances/{gone}/", {})
    alone.wait_for(number, "running")
    wait_until(lambda: alone.processes(number), what="its start command")

    shown: dict[str, Any] = json.loads(_bill("--json").stdout)
    states = {line["instance_id"]: line["state"] for line in shown["instances"]}
    assert states == {number: "running", gone: "gone"}
    assert shown["total_nanousd"] == sum(line["total_nanousd"] for line in shown["instances"]) > 0
    line = next(line for line in shown["instances"] if line["instance_id"] == number)
    assert sum(span["nanousd"] for span in line["spans"]) == line["total_nanousd"]
    assert shown["rate_nanousd_hour"] == line["rate_nanousd_hour"] > 0
    assert 0 < shown["credit_nanousd"] < 100 * 10**9
    table = _bill("--spans").stdout
    assert f"{number}" in table and "mine" in table and "credit left" in table

    alone.process.send_signal(signal.SIGINT)
    assert alone.process.wait(15) == 0 and alone.processes() == []
    after = _bill()
    assert after.returncode == 2 and "dumont sandbox" in after.stderr


def test_logs_are_compared(tmp_path: Path) -> None:
    """Equal logs exit 0, the first difference exits 1, what is no log exits 2."""
    line = {"seq": 1, "kind": "decision", "entity": "account", "rule": 0, "count": 1, "decision": "taken"}
    one, other, bad = tmp_path / "one", tmp_path / "other", tmp_path / "bad"
    one.write_text(json.dumps(line) + "\n")
    other.write_text(json.dumps({**line, "decision": "passed"}) + "\n")
    bad.write_text("{}\n")
    for second, status in ((one, 0), (other, 1), (bad, 2)):
        done = subprocess.run([*DUMONT, "compare", str(one), str(second)], capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
