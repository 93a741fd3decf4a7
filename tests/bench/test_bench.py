"""`./bench`: the cheapest benchmark runs in its tiny form, over a real installation, and says its metric in full."""

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.metrics import Metric, Report, load_note
from benchmarks.processes import cpu_seconds, family, memory, own_cpu_seconds
from tests.support.sandbox import wait_until

ROOT = Path(__file__).resolve().parents[2]


def _bench(temporary: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the benchmarks as the script does, with their folders below `temporary`."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "TMPDIR": str(temporary)}
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)


def test_a_benchmark_measures_and_clears_up(tmp_path: Path) -> None:
    """Of all benchmarks the cheapest: its metric is said once, beside its peer; no folder and no process is left."""
    done = _bench(tmp_path, "--quick", "--json", "cli")
    assert done.returncode == 0, done.stderr
    (document,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert (document["metric"], document["unit"]) == ("cli_ps_cpu_s", "s")
    assert math.isfinite(document["value"]) and document["value"] > document["peer"] > 0, document
    assert document["goal"].split()[0] == "<=", document
    assert list(tmp_path.iterdir()) == []
    wait_until(lambda: not _processes_of(tmp_path), what="every process to end")


def test_people_get_a_line_with_goal_and_peer() -> None:
    """Without --json a metric is a line that says whether its goal is met; notes are for people only."""
    plain, machine = io.StringIO(), io.StringIO()
    for report in (Report(plain, as_json=False), Report(machine, as_json=True)):
        report.note(load_note())
        report.show(Metric("cli_ps_cpu_s", 0.25, "s", peer=0.02))
        report.show(Metric("read_rps_core", 599.0, "1/s"))
    note, met, missed = plain.getvalue().splitlines()
    assert note.startswith("load ") and "cores" in note
    assert met.split()[:7] == ["cli_ps_cpu_s", "0.250", "s", "goal", "<=", "0.3", "met"] and "(x12.50)" in met
    assert "MISSED" in missed
    assert [json.loads(line)["met"] for line in machine.getvalue().splitlines()] == [True, False]


def test_another_process_and_its_children_are_accounted() -> None:
    """CPU and memory of a process are read from outside: what it burned and holds shows up."""
    code = "import time; a = bytearray(30_000_000)\nwhile time.process_time() < 0.3: pass\nprint(flush=True); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        own, sandbox = family(process.pid)
        assert (own, sandbox) == ([process.pid], [])
        assert 0.25 < cpu_seconds(own) < 3
        assert 0.29 < own_cpu_seconds(process.pid) < 3
        assert 30 < memory(own).pss < 80
        process.communicate(b"\n")


@pytest.mark.parametrize("name", ["speed", "star"])
def test_an_unknown_name_is_told_the_known_ones(name: str, tmp_path: Path) -> None:
    """A typing error ends with 2 and the list of names, and measures nothing."""
    done = _bench(tmp_path, name)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"there is no benchmark {name}; there are start, api" in done.stderr


def _processes_of(folder: Path) -> list[str]:
    """Return the living processes whose home is below a folder."""
    wanted = f"DUMONT_HOME={folder}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted in path.read_bytes():
                found.append(path.parent.name)
        except (PermissionError, ProcessLookupError, FileNotFoundError):
            continue
    return found
