"""What was believed and turns out otherwise: machines that were not gone, looks that came too late."""

from pathlib import Path

from tests.support.sandbox import start_in
from tests.support.world import DOUBT_DELAYS, Stage
from tests.workflows.scenarios import check_running, kept, new_instance

from dumont.providers import VastProvider

from .conftest import Watch
from .test_losses import machine_of


async def believe_gone(stage: Stage, watch: Watch, home: Path, instance_id: str) -> None:
    """Let the installation use the key of another account for a while: every machine seems to be gone."""
    other = start_in(home)
    providers: dict[str, object] = stage.world.providers  # type: ignore[assignment]
    ours = providers["sandbox"]
    theirs = VastProvider("sandbox", other.url, other.key, doubt_delays=DOUBT_DELAYS, enforce_gaps=False)
    providers["sandbox"] = theirs
    try:

        async def gone() -> bool:
            return (await stage.instance(instance_id)).rental_id is None

        await watch.until(gone)
    finally:
        providers["sandbox"] = ours
        await theirs.close()
        other.stop()


async def test_a_machine_that_was_not_gone_is_taken_back(stage: Stage, watch: Watch, tmp_path: Path) -> None:
    """Believed gone with work that no snapshot has, and there again: its instance has it back, and pays all of it."""
    up, asleep = await new_instance(stage), await kept(stage, None)
    machines = {await machine_of(stage, case) for case in (up, asleep)}
    await believe_gone(stage, watch, tmp_path / "other", up.instance_id)
    assert (await stage.instance(up.instance_id)).status == "offline"
    await watch.becomes(up.instance_id, "running")
    await check_running(stage, up)
    await watch.rounds(2)
    assert {await machine_of(stage, case) for case in (up, asleep)} == machines
    assert (await stage.instance(asleep.instance_id)).status == "hibernated"
    for case in (up, asleep):
        (await stage.bills(case.instance_id)).agree()
        holes = await stage.rows(
            "SELECT a.kind FROM rental_span a JOIN rental r ON r.id = a.rental_id WHERE r.instance_id = %s AND "
            "a.to_at IS NOT NULL AND a.kind = 'disk' AND NOT EXISTS (SELECT FROM rental_span b "
            "WHERE b.rental_id = a.rental_id AND b.kind = a.kind AND b.from_at = a.to_at)",
            case.instance_id,
        )
        assert holes == [], "the machine cost all the time"
        assert len(await watch.news("instance.machine_back", case.instance_id)) == 1
