"""The four named suites stand alone: by their marker, one by one, over the server that DATABASE_URL names."""

import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from tests.ledger.proxy import Cut, Proxy
from tests.support.postgres import RUN_VARIABLE

pytestmark = pytest.mark.requires_postgres
ROOT = Path(__file__).resolve().parents[2]
SUITES = {
    "test_concurrency_transactions": "test_ten_that_take_one_transfer_back",
    "test_idempotency": "test_a_household_stands_alone",
    "test_chaos_failures": "test_a_failure_between_the_entries",
    "test_db_lock_and_latency": "test_the_floor_of_the_table_is_a_refusal",
}


@pytest.mark.checklist("PIX-01", "PIX-14")
def test_each_suite_runs_alone_over_the_given_server(postgres_server: str) -> None:
    """Each in a pytest of its own, with `-m requires_postgres`: it runs, and over the address that it was given."""
    with Proxy(postgres_server).running() as proxy:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        environment |= {"DATABASE_URL": proxy.through(postgres_server), RUN_VARIABLE: uuid4().hex[:12]}
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "requires_postgres"]
        started = [
            subprocess.Popen(
                [*command, f"tests/ledger/{suite}.py", "-k", test],
                cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            for suite, test in SUITES.items()
        ]  # fmt: skip
        said = [child.communicate(timeout=600)[0] for child in started]
    for child, words in zip(started, said, strict=True):
        assert child.returncode == 0 and "1 passed" in words, words
    assert proxy.done[Cut.PASS] > 100


def test_every_test_of_the_suites_has_the_marker(request: pytest.FixtureRequest) -> None:
    """Nothing in this folder is left out by `-m requires_postgres`."""
    here = [item for item in request.session.items if item.path.parent == Path(__file__).parent]
    assert here and all(item.get_closest_marker("requires_postgres") for item in here)
