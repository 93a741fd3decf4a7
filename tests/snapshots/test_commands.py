"""`dumont snapshots` as people type it, over the real API, a real worker's body, and a real repository."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from click.testing import CliRunner, Result
from tests.snapshots.conftest import Shelf, days_ago
from tests.snapshots.test_checking import flip
from tests.snapshots.test_keeping import add_instance, statuses, world
from tests.support.api import running_api
from tests.workflows.engine import Trial
from tests.workflows.test_crashes import EachStepTwice

from dumont import hibernation, instances, operations, snapshots
from dumont.app.doctor import snapshots_finding
from dumont.cli.app import app
from dumont.core import Settings
from dumont.db import DatabaseUrls
from dumont.snapshots import keeping_queries

pytestmark = pytest.mark.requires_postgres
ROUTERS = (*snapshots.routers, *hibernation.routers, instances.router, operations.router)
Dumont = Callable[..., Awaitable[Result]]


@pytest.fixture
async def dumont(urls: DatabaseUrls, shelf: Shelf, tmp_path: Path) -> AsyncIterator[Dumont]:
    """The command line, signed in as a team's admin; the shelf becomes that team's."""
    for name in ("snapshots.verify", "snapshots.collect", "snapshots.preview", "hibernation.restore"):
        await shelf.rows("INSERT INTO durable_workflow (name) VALUES (%s) ON CONFLICT DO NOTHING", name)
    open_to = {"limit_token_requests_minute": 0, "limit_token_requests_at_once": 0}
    settings = Settings(home=tmp_path, store_gb_month_usd=0.006, **open_to)
    async with running_api(urls, *ROUTERS, settings=settings) as api:
        api.app.state.clock, api.app.state.settings = settings.clock, settings
        person = await api.person()
        shelf.team_id = person.team_id
        async with shelf.session() as session:
            shelf.workspace_id = (await snapshots.create_workspace(session, shelf.team_id, days_ago(0))).id
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen(16)
            server = uvicorn.Server(uvicorn.Config(api.app, log_level="warning", access_log=False, lifespan="off"))
            server.capture_signals = nullcontext  # type: ignore[assignment,method-assign]
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            kept: dict[str, str | None] = {name: None for name in os.environ if name.startswith("DUMONT_")}
            kept |= {"DUMONT_HOME": str(tmp_path), "DUMONT_URL": f"http://127.0.0.1:{listening.getsockname()[1]}"}
            kept |= {"DUMONT_TOKEN": person.headers["Authorization"].removeprefix("Bearer "), "LANG": "C"}

            async def run(*words: str, code: int = 0) -> Result:
                done = await asyncio.to_thread(CliRunner().invoke, app, ["snapshots", *words], env=kept)
                assert done.exit_code == code, done.output
                return done

            yield run
            server.should_exit = True
            await serving


async def carry_out(shelf: Shelf, begun: Result) -> None:
    """Run the operation that a command began, as a worker does."""
    stage = SimpleNamespace(world=world(shelf))
    done = await Trial(stage, json.loads(begun.stdout)["id"]).run()  # type: ignore[arg-type]
    assert done.status == "succeeded", done.problem


async def test_snapshots_are_listed_kept_pruned_and_forgotten(dumont: Dumont, shelf: Shelf) -> None:
    ids = [await shelf.save({b"f": b"%d" % n}, days_ago(20 - n)) for n in range(4)]
    assert json.loads((await dumont("list", "--json")).stdout)["count"] == 4
    assert len((await dumont()).stdout.splitlines()) == 5
    assert "restore point  yes" in (await dumont("keep", ids[0][-8:], "--restore-point", "--name", "before")).stdout
    refused = await dumont("forget", ids[0], "--json", code=2)
    assert json.loads(refused.stderr)["code"] == "snapshot-protected"
    assert "1 snapshots would be deleted" in (await dumont("prune", "--keep-last", "2")).stdout
    assert set((await statuses(shelf)).values()) == {"ready"}
    assert json.loads((await dumont("prune", "--keep-last", "2", "--yes", "--json")).stdout)["deleted"] == [ids[1]]
    assert ids[2][-8:] in (await dumont("forget", ids[2])).stdout
    found = await statuses(shelf)
    assert [found[one] for one in ids] == ["ready", "deleting", "deleting", "ready"]
    assert "Say what to change" in (await dumont("keep", ids[0], code=2)).stderr


async def test_a_policy_is_shown_and_changed(dumont: Dumont, shelf: Shelf) -> None:
    """What is not named stays; the team's holds for an instance without its own."""
    assert json.loads((await dumont("policy", "--json")).stdout)["source"] == "default"
    changed = json.loads((await dumont("policy", "--on", "--keep-last", "5", "--json")).stdout)
    assert (changed["enabled"], changed["keep_last"], changed["keep_daily"], changed["source"]) == (True, 5, 7, "team")
    assert "keep weekly   4" in (await dumont("policy")).stdout


async def test_a_snapshot_is_read_back_on_request_and_damage_is_shown(dumont: Dumont, shelf: Shelf) -> None:
    """The command's answer, the list of checks, the list of snapshots and the doctor say the same."""
    first = await shelf.save({b"weights": b"w" * 3000, b"text": b"t" * 100})
    await carry_out(shelf, await dumont("verify", first, "--depth", "full", "--no-wait", "--json"))
    flip(shelf, shelf.repository.sealer.chunk_id(b"w" * 3000))
    begun = await dumont("verify", first, "--depth", "full", "--no-wait", "--json")
    await carry_out(shelf, begun)
    rows = json.loads((await dumont("checks", "--json")).stdout)["checks"]
    assert [row["outcome"] for row in rows] == ["damaged", "whole"]
    assert rows[0]["touched"] == [{"snapshot_id": first, "files": 1, "paths": ["weights"]}]
    assert "damaged" in (await dumont("checks", first, "--outcome", "damaged")).stdout
    assert "damaged" in (await dumont()).stdout
    async with shelf.session() as session:
        known = await keeping_queries.verdicts(session)
    said = snapshots_finding(known)
    assert said.state == "broken" and first in said.detail
    unknown = snapshots_finding(replace(known, damaged=[], unknown=1))
    assert unknown.state == "warning" and "did not answer" in unknown.detail
    assert snapshots_finding(replace(known, damaged=[])).detail.endswith("within 0 hours")


async def test_a_collection_says_first_what_it_would_free(dumont: Dumont, shelf: Shelf) -> None:
    """A dry run names the bytes and changes nothing; the real one marks them; what was freed is added up."""
    first = await shelf.save({b"f": os.urandom(2 << 20)})
    await shelf.save({b"g": b"small"})
    await dumont("forget", first)
    before = list(shelf.repository.store.list(""))
    begun = await dumont("collect", "--no-wait", "--json")
    await carry_out(shelf, begun)
    assert list(shelf.repository.store.list("")) == before
    begun = await dumont("collect", "--yes", "--no-wait", "--json")
    await carry_out(shelf, begun)
    ((result,),) = await shelf.rows("SELECT result FROM operation WHERE id = %s", json.loads(begun.stdout)["id"])
    assert result["workspaces"] == 1 and result["bytes_marked"] > 2 << 20 and result["bytes_freed"] == 0
    assert (await statuses(shelf))[first] == "deleted"


@pytest.mark.checklist("SNAP-20")
async def test_what_a_restore_would_write_is_told_first(dumont: Dumont, shelf: Shelf) -> None:
    """Files and bytes at paths and patterns, below the folder that they are to go to, whichever step dies."""
    first = await shelf.save({b"a.py": b"a" * 30, b"b.py": b"b" * 20, b"weights": b"w" * 5000})
    asked = asyncio.create_task(dumont("restore", first, "--path", "*.py", "--into", "/workspace/old", "--preview"))
    begun: list[tuple[Any, ...]] = []
    while not begun:
        assert not asked.done(), asked.result().output
        begun = await shelf.rows("SELECT id FROM operation WHERE kind = 'preview'")
        await asyncio.sleep(0.02)
    stage: Any = SimpleNamespace(world=world(shelf), crash=_nothing_to_end)
    trial = Trial(stage, begun[0][0], EachStepTwice())
    assert (await trial.run()).status == "succeeded" and trial.deaths == 2 * len(trial.names())
    said = (await asked).stdout
    assert "old/a.py" in said and "old/b.py" in said and "weights" not in said
    assert "2 files, 50 B" in said


async def _nothing_to_end() -> None:
    """Nothing of such a worker has to end with it."""


async def test_a_restore_is_begun_as_it_was_wished(dumont: Dumont, shelf: Shelf) -> None:
    """Onto a running instance only, into the workspace only; all of it by `--replace` only when that is sure."""
    first = await shelf.save({b"f": b"f"})
    await add_instance(shelf, first, "paused")
    assert "works only while it is running" in (await dumont("restore", first, code=2)).stderr
    await shelf.rows("UPDATE instance SET status = 'running' WHERE id = %s", shelf.instance_id)
    for words in (("--path", "../out"), ("--path", "/etc/passwd"), ("--into", "/workspace/.dumont-old-1")):
        assert "path-not-allowed" in (await dumont("restore", first, *words, "--json", code=2)).stderr
    assert "--yes" in (await dumont("restore", first, "--replace", code=2)).stderr
    begun = await dumont("restore", first, "--path", "f", "--into", "old", "--replace", "--no-wait", "--json")
    rows = await shelf.rows("SELECT input, instance_id FROM operation WHERE id = %s", json.loads(begun.stdout)["id"])
    wishes = {"snapshot_id": first, "paths": ["f"], "target_path": "old", "replace": True}
    assert rows == [(wishes, shelf.instance_id)]
    assert "operation" in (await dumont("restore", first, code=4)).stderr


@pytest.mark.checklist("SNAP-03", "SNAP-04", "SNAP-07", "SNAP-09", "SNAP-14")
async def test_what_was_measured_is_told_and_what_was_not_is_unknown(dumont: Dumont, shelf: Shelf) -> None:
    """Sizes, ratio, what was stored already, rates, the first save against a later one, and the price of keeping."""
    first = await shelf.save({b"f": b"f"}, days_ago(2))
    second = await shelf.save({b"f": b"f", b"g": b"g"}, days_ago(1))
    sizes = {"files": 7, "bytes_total": 4_000_000_000, "bytes_new": 1_000_000_000, "bytes_stored": 500_000_000}
    values = ", ".join(f"{name} = {value}" for name, value in sizes.items())
    await shelf.rows(f"UPDATE snapshot SET {values}, seconds = 4, bytes_verified = 3 WHERE id = %s", second)
    await shelf.rows("UPDATE snapshot SET seconds = 40, parent_id = NULL WHERE id = %s", first)
    await shelf.rows("UPDATE snapshot SET parent_id = %s WHERE id = %s", first, second)
    found = json.loads((await dumont("show", second, "--json")).stdout)
    assert {name: found[name] for name in sizes} == sizes
    assert (found["ratio"], found["dedup_share"], found["chain"]) == (2.0, 0.75, [second, first])
    assert (found["bytes_second"], found["sent_bytes_second"]) == (1_000_000_000, 125_000_000)
    assert (found["first_seconds"], found["speedup_vs_full"]) == (40, 10)
    assert found["cost_month"] == {"amount": "0.003000", "currency": "USD"}
    said = (await dumont("show", second)).stdout
    assert "75.0%" in said and "2.00x" in said and "$0.003000 a month" in said
    await shelf.rows("UPDATE snapshot SET bytes_new = NULL, seconds = NULL WHERE id = %s", second)
    found = json.loads((await dumont("show", second, "--json")).stdout)
    assert [found[name] for name in ("ratio", "dedup_share", "bytes_second", "speedup_vs_full")] == [None] * 4
