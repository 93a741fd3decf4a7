"""PostgreSQL dies again and again for three seconds in the middle of a launch: the launch ends all the same, once."""

import os
import signal
import time
from pathlib import Path

from tests.support.product import Product
from tests.support.product import product as running_product
from tests.support.sandbox import wait_until

from dumont.client import ApiProblem, Operation
from dumont.core import Act


def test_a_launch_survives_three_seconds_without_a_database(tmp_path: Path) -> None:
    """Every postmaster that appears within three seconds is killed; one machine runs and is billed in the end."""
    with running_product(tmp_path) as product:
        product.start()
        product.control.add_fault("slow_pull", {"s": 4})
        client = product.client
        offer = next(iter(client.iter_offers()))
        operation = str(client.create_instance(offer.id, label="through-the-night").operation_id)
        killed = _kill_for(product.process.pid if product.process else 0, seconds=3.0)
        assert killed >= 2, "the database was not really down"
        found = wait_until(lambda: _ended(product, operation), seconds=60, what="the launch to end")
        assert found.status == "succeeded", found.raw
        assert [line.destroyed_at for line in product.control.ledger()] == [None]
        assert next(iter(product.client.iter_instances())).status == "running"
        product.stop()


def _ended(product: Product, operation_id: str) -> Operation | None:
    """Return the operation once it has ended; a database that is away is asked again."""
    try:
        found = product.client.operation(operation_id)
    except ApiProblem as problem:
        assert problem.act is Act.WAIT, problem
        return None
    return found if found.ended else None


def _kill_for(parent: int, *, seconds: float) -> int:
    until, killed = time.monotonic() + seconds, set()
    while time.monotonic() < until:
        for pid in _postmasters(parent):
            if pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        time.sleep(0.02)
    return len(killed)


def _postmasters(parent: int) -> list[int]:
    """Return the running servers of the embedded database: children of `dumont up` that are postgres."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = dict(line.split(":\t", 1) for line in (entry / "status").read_text().splitlines() if ":\t" in line)
        except OSError:
            continue
        if status.get("Name") == "postgres" and int(status.get("PPid", 0)) == parent and "Z" not in status["State"]:
            found.append(int(entry.name))
    return found
