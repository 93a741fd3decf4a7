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

import pytest
import uvicorn
from click.testing import CliRunner, Result
from tests.snapshots.conftest import Shelf, days_ago
from tests.snapshots.test_checking import flip
from tests.snapshots.test_keeping import statuses, world
from tests.support.api import running_api
from tests.workflows.engine import Trial

from dumont import operations, snapshots
from dumont.app.doctor import snapshots_finding
from dumont.cli.app import app
from dumont.core import Settings
from dumont.db import DatabaseUrls
from dumont.snapshots import keeping_queries

pytestmark = pytest.mark.requires_postgres
Dumont = Callable[..., Awaitable[Result]]


@pytest.fixture
async def dumont(urls: DatabaseUrls, shelf: Shelf, tmp_path: Path) -> AsyncIterator[Dumont]:
    """The command line, signed in as a team's admin; the shelf becomes that team's."""
    for name in ("snapshots.verify", "snapshots.collect"):
        await shelf.rows("INSERT INTO durable_workflow (name) VALUES (%s) ON CONFLICT DO NOTHING", name)
    settings = Settings(home=tmp_path, limit_token_requests_minute=0, limit_token_requests_at_once=0)
    async with running_api(urls, *snapshots.routers, operations.router, settings=settings) as api:
        api.app.state.clock = settings.clock
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
