"""Machines that no row owns, rentals that nobody finishes: found, told of, and given back where they are ours."""

import asyncio
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from tests.support.api import running_api
from tests.support.world import Stage
from tests.workflows.engine import Trial
from tests.workflows.scenarios import BY_NAME, check_asleep, destroy, kept

from dumont.db import Database, set_sweep
from dumont.instances import Losses, Sweep, keep_watch, stray_router, watch_queries, watch_report

from .conftest import Watch
from .test_losses import launched, machine_of, snapshot_of_all

STRAY = "SELECT kind, action, label, team_id, rental_id FROM stray_machine WHERE provider_machine_id = %s"


async def reported(stage: Stage) -> list[dict[str, Any]]:
    """The strays of which `dumont doctor` is told."""
    found = await Sweep(stage.world).run()
    async with stage.world.database.begin() as session:
        await set_sweep(session)
        await session.execute(text("INSERT INTO watch_turn VALUES ('sweep', now()) ON CONFLICT DO NOTHING"))
        await watch_queries.end_turn(session, "sweep", found)
        return (await watch_report(session)).strays


async def test_machines_of_others_are_told_of_and_left(stage: Stage, watch: Watch) -> None:
    """Without a label, with a person's, or with one of another installation: reported once, never touched."""
    ours = await launched(stage)
    before = await snapshot_of_all(stage)
    labels = {None: "foreign", "my own machine": "foreign", "dumont-0123456789AB-a1": "other-installation"}
    others = {stage.sandbox.rent(label=label): (label, kind) for label, kind in labels.items()}
    await watch.rounds(3)
    for number, (label, kind) in others.items():
        assert await stage.rows(STRAY, str(number)) == [(kind, "reported", label, None, None)]
        news = await watch.news("machine.stray", str(number))
        assert [(one["kind"], one["action"]) for one in news] == [(kind, "reported")]
        shown = stage.sandbox.instance(number)
        assert shown is not None and shown["intended_status"] == "running" and shown["label"] == label
    assert {str(number) for number in others} <= {stray["provider_machine_id"] for stray in await reported(stage)}
    assert (await snapshot_of_all(stage))[:3] == before[:3]
    (await stage.bills(ours.instance_id)).agree()


async def strays_shown_to(stage: Stage) -> list[dict[str, Any]]:
    """What the API shows the stage's team, and nobody else."""
    async with running_api(stage.urls, stray_router, settings=stage.settings) as api:
        stranger = await api.person()
        answer = await api.http.get("/api/v1/strays", headers=stranger.headers)
        assert (answer.status_code, answer.json()["strays"]) == (200, [])
        answer = await api.http.get("/api/v1/strays?limit=100", headers=stage.person.headers)
        assert answer.status_code == 200, answer.text
        shown: list[dict[str, Any]] = answer.json()["strays"]
        return shown


async def test_an_answer_that_came_too_late(stage: Stage, watch: Watch) -> None:
    """A machine under a label that was given up is destroyed, with a row and news that say so."""
    case = await launched(stage)
    rental = await stage.rental(case.instance_id)
    done = await BY_NAME["destroy"].try_out(stage, case)
    assert done[0].status == "succeeded"
    late = stage.sandbox.rent(label=rental.label)
    await watch.rounds(1)
    assert stage.sandbox.instance(late) is None
    assert await stage.rows(STRAY, str(late)) == [("late", "destroyed", rental.label, stage.person.team_id, rental.id)]
    assert len(await watch.news("machine.stray", str(late))) == 1
    shown = await strays_shown_to(stage)
    assert [(one["provider_machine_id"], one["kind"], one["action"]) for one in shown] == [
        (str(late), "late", "destroyed")
    ]
    await watch.rounds(1)
    assert len(await watch.news("machine.stray", str(rental.provider_machine_id))) == 0


async def test_a_second_machine_under_one_label(stage: Stage, watch: Watch) -> None:
    """A rent that was carried out twice: the machine that the row holds stays, the other goes."""
    case = await launched(stage)
    rental = await stage.rental(case.instance_id)
    twin = stage.sandbox.rent(label=rental.label)
    await watch.rounds(2)
    assert stage.sandbox.instance(twin) is None
    assert stage.sandbox.instance(int(rental.provider_machine_id or 0)) is not None
    assert (await stage.rows(STRAY, str(twin)))[0][:2] == ("twin", "destroyed")
    assert (await stage.instance(case.instance_id)).status == "running"


async def test_our_label_on_another_machine_is_no_reason(stage: Stage, watch: Watch) -> None:
    """A person moved our label to a machine of his own: it is told of and left, for it is not a second one."""
    case = await launched(stage)
    rental = await stage.rental(case.instance_id)
    his = stage.sandbox.rent(label=rental.label)
    stage.sandbox.call("PUT", f"/api/v0/instances/{rental.provider_machine_id}/", {"label": "renamed"})
    await watch.rounds(3)
    assert stage.sandbox.instance(his) is not None
    assert (await stage.rows(STRAY, str(his)))[0][:2] == ("twin", "left")
    assert (await stage.instance(case.instance_id)).status == "running"


async def test_a_rent_whose_operation_is_over(stage: Stage, watch: Watch) -> None:
    """Asked for, never settled, and nobody works on it: what appeared is destroyed, the row closed once it is gone."""
    case = await launched(stage)
    rental = await stage.rental(case.instance_id)
    await stage.write("UPDATE rental SET state = 'asked', provider_machine_id = NULL WHERE id = %s", rental.id)
    await stage.write("UPDATE instance SET status = 'failed', rental_id = NULL WHERE id = %s", case.instance_id)
    await stage.write(
        "UPDATE operation SET finished_at = now() - interval '2 minutes' WHERE instance_id = %s", case.instance_id
    )

    async def released() -> bool:
        return (await stage.rows("SELECT state FROM rental WHERE id = %s", rental.id)) == [("released",)]

    await watch.until(released)
    assert stage.sandbox.instance(int(rental.provider_machine_id or 0)) is None
    assert (await stage.rows(STRAY, str(rental.provider_machine_id)))[0][:2] == ("unfinished", "destroyed")
    (await stage.bills(case.instance_id)).agree()


async def test_a_machine_that_an_instance_has_left(stage: Stage, watch: Watch) -> None:
    """A rented machine that is not its instance's any more costs without a reason: it is given back and closed."""
    case = await launched(stage)
    rental = await stage.rental(case.instance_id)
    await stage.write("UPDATE instance SET status = 'failed', rental_id = NULL WHERE id = %s", case.instance_id)
    stage.sandbox.control.add_fault("http_error", {"ops": ["destroy"], "status": 502})

    async def released() -> bool:
        return (await stage.rows("SELECT state FROM rental WHERE id = %s", rental.id)) == [("released",)]

    await watch.until(released)
    assert (await stage.rows(STRAY, str(rental.provider_machine_id)))[0][:2] == ("superseded", "destroyed")
    bills = await stage.bills(case.instance_id)
    bills.agree()
    assert bills.billed == set()


async def test_a_machine_that_was_started_behind_our_back(stage: Stage, watch: Watch) -> None:
    """A kept machine that runs while its instance sleeps is stopped again, and what it cost meanwhile is written."""
    case = await kept(stage, None)
    machine = await machine_of(stage, case)
    watch.change(machine, "running")
    await asyncio.to_thread(stage.sandbox.wait_for, int(machine), "running")
    await watch.rounds(2)
    begun = await stage.rows(
        "SELECT id FROM operation WHERE instance_id = %s AND workflow = 'instances.stop_unasked'", case.instance_id
    )
    assert len(begun) == 1
    (await stage.bills(case.instance_id)).agree()
    done = await Trial(stage, begun[0][0]).run()
    assert done.status == "succeeded", done.problem
    assert (await check_asleep(stage, case, keeps=True)).disk_newer
    assert [one["what"] for one in await watch.news("instance.changed_outside", case.instance_id)] == ["started"]


async def test_a_person_destroys_what_is_being_stopped_again(stage: Stage, watch: Watch) -> None:
    """Nobody waits for a stop that he did not ask for: it gives way, and the machine goes."""
    case = await kept(stage, None)
    machine = await machine_of(stage, case)
    watch.change(machine, "running")
    await asyncio.to_thread(stage.sandbox.wait_for, int(machine), "running")
    await watch.rounds(2)
    [(stopping,)] = await stage.rows(
        "SELECT id FROM operation WHERE instance_id = %s AND workflow = 'instances.stop_unasked'", case.instance_id
    )
    begun = await destroy(stage, case)
    gave_way, done = await asyncio.gather(Trial(stage, stopping).run(), Trial(stage, begun).run())
    assert (gave_way.status, done.status) == ("cancelled", "succeeded"), (gave_way.problem, done.problem)
    assert (await stage.instance(case.instance_id)).status == "destroyed"
    bills = await stage.bills(case.instance_id)
    bills.agree()
    assert (bills.billed, bills.gpu_spans, bills.disk_spans) == (set(), [], [])


class SweptAtEachDeath:
    """Dies before and after each step, once, with a sweep and a look in between as the next worker would make them."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._died: set[tuple[str, str]] = set()

    async def __call__(self, when: str, name: str) -> str | None:
        if when == "recorded" or (when, name) in self._died:
            return None
        self._died.add((when, name))
        for _ in range(2):
            await Sweep(self._stage.world).run()
            await Losses(self._stage.world).look()
        return "die"


async def test_a_sweep_at_every_crash_leaves_the_work_to_its_operation(stage: Stage) -> None:
    """Whatever a dead worker left half done, the sweep before its restart destroys nothing of it."""
    scenario = BY_NAME["launch"]
    case = await scenario.ready(stage, None)
    operation, trial = await scenario.try_out(stage, case, SweptAtEachDeath(stage))
    assert operation.status == "succeeded", operation.problem
    assert not any("(2)" in step for step in trial.names()), "a second machine was needed"
    assert await stage.rows("SELECT kind FROM stray_machine WHERE team_id = %s", stage.person.team_id) == []


async def test_turns_are_taken_once(stage: Stage) -> None:
    """However many workers ask at once, one takes the turn; the next is due a period later, also after a death."""
    databases = [Database(stage.urls.worker, pool_size=1, application_name=f"turn-{n}") for n in range(4)]

    async def ask(database: Database, seconds: float) -> float:
        async with database.begin() as session:
            await set_sweep(session)
            return await watch_queries.take_turn(session, "test", seconds)

    try:
        for _ in range(3):
            left = await asyncio.gather(*(ask(database, 600) for database in databases))
            assert sorted(value == 0.0 for value in left) == [False, False, False, True]
            assert max(left) <= 600
            await stage.write("UPDATE watch_turn SET next_at = next_at - interval '600 seconds' WHERE name = 'test'")
    finally:
        for database in databases:
            await database.close()


async def test_the_watch_keeps_its_times(stage: Stage) -> None:
    """Left alone it looks and sweeps by itself, and writes down what each turn found."""
    stage.world.settings = replace(stage.world.settings, loss_seconds=0.1, sweep_seconds=0.2)
    watching = asyncio.create_task(keep_watch(stage.world))
    try:
        case = await launched(stage)
        stage.sandbox.call("PUT", f"/api/v0/instances/{await machine_of(stage, case)}/", {"state": "stopped"})
        deadline = asyncio.get_running_loop().time() + 60
        while (await stage.instance(case.instance_id)).status != "paused":
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.05)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    turns = dict(await stage.rows("SELECT name, detail FROM watch_turn WHERE ended_at IS NOT NULL"))
    assert {"losses", "sweep"} <= set(turns) and turns["sweep"]["machines"]["sandbox"] >= 1


def test_application_cannot_write_strays(stage: Stage) -> None:
    """Strays are written by workers alone; a team reads its own."""
    with (
        psycopg.connect(stage.urls.app.replace("+psycopg", "")) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("DELETE FROM stray_machine")
