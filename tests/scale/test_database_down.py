"""PostgreSQL dies again and again for three seconds in the middle of work: the work ends all the same, once."""

import os
import signal
import time
from pathlib import Path

from tests.support.product import Product
from tests.support.product import product as running_product
from tests.support.sandbox import wait_until

from dumont.client import ApiProblem, Operation
from dumont.core import Act

HASHES = "find . -type f -print0 | sort -z | xargs -0 sha256sum"


def test_work_survives_three_seconds_without_a_database(tmp_path: Path) -> None:
    """Every postmaster that appears within three seconds is killed, in a launch, a hibernation and a wake.

    Each of them ends well, one machine or none is billed in the end, and every file is as it was.
    """
    with running_product(tmp_path) as product:
        product.start()
        product.control.add_fault("slow_pull", {"s": 4})
        begun = product.cli("launch", "--label", "through-the-night", "--no-wait", "--json").document
        number = begun["id"]
        _through_the_night(product, begun["operation_id"])
        assert product.client.instance(number).status == "running"
        assert [line.destroyed_at for line in product.control.ledger()] == [None]

        product.run_on("through-the-night", "for n in 1 2 3; do head -c 20000000 /dev/urandom > part$n; done")
        before = product.run_on("through-the-night", HASHES)
        _through_the_night(product, product.client.hibernate(number, "destroy").operation_id)
        asleep = product.client.instance(number)
        assert asleep.status == "hibernated"
        assert [line.running for line in product.bills(number)] == ([False] if asleep.machine_kept else [])

        _through_the_night(product, product.client.wake(number, elsewhere=True).operation_id)
        assert [line.running for line in product.bills(number)] == [True]
        assert product.run_on("through-the-night", HASHES) == before
        product.stop()


def _through_the_night(product: Product, operation_id: str | None) -> None:
    assert operation_id is not None
    wait_until(lambda: product.client.operation(operation_id).current_step, what="the work to begin")
    _kill_for(product.process.pid if product.process else 0, seconds=3.0)
    found = wait_until(lambda: _ended(product, operation_id), seconds=180, what="the operation to end")
    assert found.status == "succeeded", found.raw


def _ended(product: Product, operation_id: str) -> Operation | None:
    """Return the operation once it has ended; a database that is away is asked again."""
    try:
        found = product.client.operation(operation_id)
    except ApiProblem as problem:
        assert problem.act is Act.WAIT, problem
        return None
    return found if found.ended else None


def _kill_for(parent: int, *, seconds: float) -> None:
    """Kill every server that appears in this time, and at least one that has come back."""
    begun, killed = time.monotonic(), set[int]()
    while time.monotonic() < begun + seconds or len(killed) < 2:
        assert time.monotonic() < begun + 60, "the database was not really down"
        for pid in _postmasters(parent):
            if pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        time.sleep(0.02)


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
