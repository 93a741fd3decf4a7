"""`dumont demo` proves the main job, and says so only when it is so."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.product import Product, Said, product


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    with product(tmp_path_factory.mktemp("demo")) as made:
        made.start()
        yield made


@pytest.fixture(scope="module")
def told(running: Product) -> Said:
    """What one demo said."""
    return running.cli("demo", "--json")


@pytest.mark.checklist("VAL-07", "HIB-18", "HIB-19", "HIB-21", "INST-11", "INST-13", "INST-19")
def test_every_claim_of_the_demo_holds(told: Said) -> None:
    assert told.code == 0, told.err
    claims = told.document["claims"]
    assert len(claims) >= 10
    assert all(claim["holds"] for claim in claims), claims


def test_the_demo_tells_what_the_marketplace_billed(running: Product, told: Said) -> None:
    """Each figure of the report is compared with the marketplace's own ledger and with the API."""
    report: dict[str, Any] = told.document
    lines = {line.label: line for line in running.control.ledger()}
    machines = report["machines"]
    assert {machine["label"] for machine in machines} == set(lines), "every machine ever rented is in the report"
    for machine in machines:
        line = lines[machine["label"]]
        assert line.destroyed_at is not None and not line.running
        assert machine["paid_nano"] == line.total_nanousd
        assert machine["seconds"] == pytest.approx(line.destroyed_at - line.created_at)
    assert report["money"]["billed_nano"] == sum(line.total_nanousd for line in lines.values())
    snapshots = {row.id: row.raw for row in running.client.iter_snapshots(instance_id=report["instance_id"])}
    assert {row["id"] for row in report["snapshots"]} == set(snapshots)
    for row in report["snapshots"]:
        stored = snapshots[row["id"]]
        assert (row["bytes_total"], row["bytes_new"], row["files"]) == tuple(
            stored[name] for name in ("bytes_total", "bytes_new", "files")
        )
        assert stored["bytes_verified"] > 0


def test_the_first_host_was_really_lost(running: Product, told: Said) -> None:
    """The marketplace's own ledger shows that it stopped billing the lost machine before we gave it back."""
    first, lost, last = told.document["machines"]
    line = next(line for line in running.control.ledger() if line.label == lost["label"])
    assert line.spans[-1]["to"] < line.destroyed_at
    assert lost["why"] in ("host-lost", "ssh-unreachable")
    assert last["machine_id"] not in (first["machine_id"], lost["machine_id"])


def test_a_demo_that_breaks_says_so_and_fails(running: Product, told: Said) -> None:
    """One byte of each stored pack is flipped while the instance sleeps: no wrong byte may come back unnoticed."""
    assert told.code == 0
    packs = {path for path in (running.home / "vault").rglob("*") if path.is_file()}
    with running.open_cli("demo", "--json") as demo:
        assert demo.stderr is not None
        for line in demo.stderr:
            if line.startswith(b"5. Waking it"):
                break
        fresh = [path for path in (running.home / "vault").rglob("*") if path.is_file() and path not in packs]
        flipped = [path for path in fresh if path.stat().st_size > 1 << 20]
        for path in flipped:
            _flip_a_byte(path)
        rest, problem_lines = demo.communicate(timeout=180)
    assert flipped, "the demo has stored no pack"
    assert demo.returncode not in (0, None)
    assert rest == b"", "a failed demo prints no report"
    code = json.loads(problem_lines.strip().splitlines()[-1])["code"]
    assert code in ("restore-verification-failed", "snapshot-verification-failed")
    asleep = next(running.client.iter_instances())
    assert asleep.status == "hibernated"
    assert running.bills(asleep.id) == []


def _flip_a_byte(path: Path) -> None:
    path.chmod(0o600)
    with path.open("r+b") as stream:
        stream.seek(path.stat().st_size // 2)
        byte = stream.read(1)[0]
        stream.seek(-1, 1)
        stream.write(bytes([byte ^ 1]))
