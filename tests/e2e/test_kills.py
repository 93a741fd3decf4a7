"""kill -9 of `dumont up` in the middle of launch, hibernate and wake: the work ends, one machine or none is billed."""

import time
from collections.abc import Callable, Iterator

import pytest
from tests.support.product import Product, product

from dumont.client import Operation

FILES_MB = 66
MAKE_FILES = f"""
set -e
mkdir -p data
for n in 1 2 3; do head -c {FILES_MB // 3}000000 /dev/urandom > data/part$n; done
printf secret > token; chmod 600 token; ln -s data/part1 first
"""
HASHES = "find . -type f -print0 | sort -z | xargs -0 sha256sum; stat -c '%a %s' token; readlink first"
STUBBORN = "trap '' TERM; sleep 600"
"""A program that does not end on SIGTERM: the marketplace needs a whole second to stop its machine."""


@pytest.fixture(scope="module")
def survivor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A product that is killed and started again from test to test; the tests of this file run in their order."""
    with product(tmp_path_factory.mktemp("kills"), DUMONT_LIMIT_TOKEN_REQUESTS_MINUTE="60000") as made:
        made.start()
        assert made.cli("whoami").code == 0
        yield made


@pytest.mark.checklist("VAL-03")
def test_a_launch_killed_while_it_rents_rents_one_machine(survivor: Product) -> None:
    """The kill falls between the marketplace's yes, whose answer is lost, and our finding the machine by its label."""
    survivor.control.add_fault("accept_then_drop", {"ops": ["create"]})
    survivor.control.add_fault("read_lag", {"ops": ["create"], "s": 1.5})  # the label is not found at once
    instance_id, operation_id = begin_launch(survivor, "one", "--onstart", STUBBORN)
    kill_in(survivor, operation_id, "rent", when=lambda: bool(survivor.control.ledger()))
    survivor.restart()
    done = survivor.ended(operation_id)
    assert (done.status, interrupted(done)) == ("succeeded", {"rent"}), done.raw
    assert survivor.client.instance(instance_id).status == "running"
    assert [line.running for line in survivor.bills(instance_id)] == [True]
    assert len(survivor.control.ledger()) == 1, "no second machine was ever rented"


@pytest.mark.checklist("VAL-03")
def test_a_hibernation_goes_on_after_two_kills(survivor: Product) -> None:
    """Kills while it saves, and while the machine stops."""
    survivor.run_on("one", MAKE_FILES)
    (survivor.home / "before").write_text(survivor.run_on("one", HASHES))
    instance = next(survivor.client.iter_instances(label="one"))
    operation_id = survivor.client.hibernate(instance.id, "destroy").operation_id
    kill_in(survivor, operation_id, "snapshot")
    survivor.restart()
    kill_in(survivor, operation_id, "stop")
    survivor.restart()
    done = survivor.ended(operation_id)
    assert (done.status, interrupted(done)) == ("succeeded", {"snapshot", "stop"}), done.raw
    asleep = survivor.client.instance(instance.id)
    assert asleep.status == "hibernated"
    assert survivor.client.snapshot(str(asleep.last_snapshot_id)).status == "ready"
    kept = [False] if asleep.machine_kept else []
    assert [line.running for line in survivor.bills(instance.id)] == kept, "one stopped machine, or none, as it says"


@pytest.mark.checklist("VAL-03", "VAL-07", "HIB-21")
def test_a_wake_goes_on_after_a_kill_with_every_byte(survivor: Product) -> None:
    """The kill falls in the middle of the restore, after a rent whose answer was lost."""
    instance = next(survivor.client.iter_instances(label="one"))
    known = len(survivor.control.ledger())
    survivor.control.add_fault("accept_then_drop", {"ops": ["create"]})
    operation_id = survivor.client.wake(instance.id, elsewhere=True).operation_id
    kill_in(survivor, operation_id, "restore")
    survivor.restart()
    done = survivor.ended(operation_id)
    assert (done.status, interrupted(done)) == ("succeeded", {"restore"}), done.raw
    assert survivor.client.instance(instance.id).status == "running"
    assert survivor.run_on("one", HASHES) == (survivor.home / "before").read_text()
    assert [line.running for line in survivor.bills(instance.id)] == [True]
    assert len(survivor.control.ledger()) == known + 1, "the kept machine was given back, one other was rented"


def test_the_next_operations_work(survivor: Product) -> None:
    assert survivor.cli("hibernate", "one", "--destroy", "--json").code == 0
    instance = next(survivor.client.iter_instances(label="one"))
    assert survivor.bills(instance.id) == []
    assert survivor.cli("wake", "one", "--json").code == 0
    assert survivor.run_on("one", HASHES) == (survivor.home / "before").read_text()
    assert survivor.cli("destroy", "one", "--yes", "--json").code == 0
    assert [line for line in survivor.control.ledger() if line.destroyed_at is None] == []
    assert survivor.stop() == 0


def begin_launch(made: Product, label: str, *more: str) -> tuple[str, str]:
    """Begin a launch and return the ids of the instance and of the operation."""
    said = made.cli("launch", "--label", label, "--no-wait", "--json", *more)
    assert said.code == 0, said
    return said.document["id"], said.document["operation_id"]


def interrupted(operation: Operation) -> set[str]:
    """Name the steps that were begun more than once: the kill fell into them."""
    return {step["name"] for step in operation.raw["steps"] if step["attempts"] > 1}


def kill_in(made: Product, operation_id: str | None, *steps: str, when: Callable[[], bool] = lambda: True) -> None:
    """Kill the product while one of the steps runs and `when` holds.

    Errors: AssertionError when the operation ends before, or the moment does not come.
    """
    assert operation_id is not None
    deadline = time.monotonic() + 90
    while True:
        assert made.process is not None and made.process.poll() is None, f"it ended by itself: {made.err()[-3000:]}"
        known = made.client.operation(operation_id)
        if known.current_step in steps and when():
            break
        assert not known.ended, f"it ended before the kill: {known.raw}"
        assert time.monotonic() < deadline, f"the moment did not come: {known.raw} {made.err()[-3000:]}"
        time.sleep(0.01)
    made.kill9()
