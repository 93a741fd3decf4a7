"""`dumont sync` against the whole product: a person syncs, looks into the history, and brings a file back."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import Dumont
from tests.support.product import Product, product

from dumont.durable import REGISTRY


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, restic: Path) -> Iterator[Product]:
    """The product with one machine on which there is some work, and a restic of its own."""
    with product(tmp_path_factory.mktemp("product")) as running:
        (running.home / "restic").mkdir(parents=True)
        shutil.copy2(restic, running.home / "restic/restic")
        running.start()
        running.launch("one")
        running.run_on("one", "mkdir -p src; echo 'print(1)' >src/a.py; echo 'print(2)' >src/b.py; seq 20000 >log.txt")
        yield running


@pytest.fixture
def dumont(made: Product) -> Dumont:
    """The command line of the product's first user, in this process."""
    return Dumont(made.home, made.home.parent)


def test_a_person_keeps_a_history(made: Product, dumont: Dumont) -> None:
    """Two syncs are two points; a folder is listed as it was, a lost file comes back, and the history is proven."""
    first = dumont("sync", "now", "one")
    assert first.code == 0 and "3 files, 3 new" in first.out, first
    assert "upload: done" in first.err, "nothing was told of the work"
    made.run_on("one", "rm src/a.py; echo 'print(3)' >src/b.py")
    second = dumont("sync", "now", "one", "--force", "--json")
    assert second.code == 0, second
    result = second.document["result"]
    assert (result["files_new"], result["files_changed"], result["files_unmodified"]) == (0, 1, 1)
    points = dumont("sync", "points", "one", "--json").document["points"]
    assert [point["is_incremental"] for point in points] == [True, False]
    older = points[1]["snapshot_id"][:8]
    assert older in dumont("sync", "points", "one").out
    listed = dumont("sync", "ls", "one", older, "src")
    assert "src/a.py" in listed.out and "src/b.py" in listed.out, listed
    assert "src/a.py" not in dumont("sync", "ls", "one", "latest", "/workspace/src").out
    back = dumont("sync", "restore", "one", older, "src/a.py")
    assert back.code == 0 and "Restored" in back.out, back
    assert made.run_on("one", "cat src/a.py src/b.py") == "print(1)\nprint(3)\n"
    checked = dumont("sync", "check", "one", "--read", "100")
    assert checked.code == 0 and checked.out.startswith("Whole: 2 points"), checked
    history = dumont("sync", "history", "one", "--json").document
    assert [run["kind"] for run in history["runs"]] == ["check", "restore", "list", "list", "sync", "sync"]
    assert history["summary"]["speedup"] is not None and history["summary"]["dedup_ratio"] is not None
    assert "times as fast" in dumont("sync", "history", "one").out


def test_a_person_sets_a_policy(dumont: Dumont) -> None:
    """What is said is kept and shown; what cannot be is refused with the reason; the schedule is the product's own."""
    said = dumont("sync", "policy", "one", "--every", "3600", "--path", "/workspace/src", "--exclude", "*.tmp", "--on")
    assert said.code == 0, said
    policy = dumont("sync", "policy", "one", "--keep", "3", "--guard", "20", "--json").document
    assert policy["paths"] == ["/workspace/src"] and policy["exclude"] == ["*.tmp"] and policy["enabled"] is True
    assert (policy["keep_last"], policy["deletion_guard_percent"]) == (3, 20) and policy["next_run_at"]
    for path in ("/etc", "/workspace/../etc", "../x"):
        refused = dumont("sync", "policy", "one", "--path", path)
        assert refused.code != 0 and "workspace" in refused.err, refused
    status = dumont("sync", "status", "one")
    assert "synced by itself   yes" in status.out and "quiet" in status.out, status
    lost = dumont("sync", "ls", "one", "ffffffff")
    assert lost.code != 0 and "no such point" in lost.err, lost
    assert dumont("sync", "release", "one").code != 0
    assert "sync.due" in REGISTRY.schedules
