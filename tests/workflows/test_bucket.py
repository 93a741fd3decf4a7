"""An installation that keeps its snapshots in a bucket: hibernated there, woken on another machine from there."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.world import Stage, tree_digest
from tests.vault.s3_server import s3_server

from dumont.vault import S3Store

from .engine import Trial
from .scenarios import hibernate, running, wake, workspace


@pytest.mark.checklist("SNAP-06")
async def test_a_workspace_sleeps_in_a_bucket_and_wakes_elsewhere(stage: Stage, tmp_path: Path) -> None:
    """The machine brings its packs there by presigned addresses; the next one fetches them; every byte is the same."""
    with s3_server(tmp_path) as place:
        prod = place._replace(prefix="prod")
        stage.world.vaults = replace(stage.world.vaults, root=tmp_path / "unused", bucket=prod)
        case = await running(stage, None)
        before = await stage.rental(case.instance_id)
        digest = tree_digest(await workspace(stage, case.instance_id))
        operation = await Trial(stage, await hibernate(stage, case, "destroy")).run()
        assert operation.status == "succeeded", operation.problem
        names = [name for name, _ in S3Store(prod).list("")]
        assert any("/data/" in name for name in names) and any("/snap/" in name for name in names), names
        assert not (tmp_path / "unused").exists()
        operation = await Trial(stage, await wake(stage, case)).run()
        assert operation.status == "succeeded", operation.problem
        assert (await stage.rental(case.instance_id)).id != before.id
        assert tree_digest(await workspace(stage, case.instance_id)) == digest
