"""A week of machines: what the meters charged is what the marketplace billed, to the cent, once it is trued up."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.billing.till import TurnedClock, turn
from tests.support.postgres import clone_database, drop_database
from tests.support.sandbox import SandboxProcess, start_in
from tests.support.world import Stage, staged
from tests.workflows.engine import Trial
from tests.workflows.scenarios import Case, destroy, hibernate, pause, resume, wake

from dumont.billing import Metering
from dumont.db import DatabaseUrls
from dumont.instances import Losses, true_up_ended
from dumont.ledger import Lane, Writer, audit
from dumont.providers import OfferQuery

pytestmark = pytest.mark.requires_postgres
SEED = 5
NOON = 2_000_116_800.0
"""When the week begins: a moment to come, so that each run meets the same market."""
HOUR = 3600.0
CENT_NANO = 10_000_000


@pytest.fixture(scope="module")
def urls() -> Iterator[DatabaseUrls]:
    urls = clone_database()
    yield urls
    found = audit(urls.owner, clearing_quiet_seconds=0)
    drop_database(urls)
    assert found.sound, [check for check in found.checks if check.broken]


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    """A market that lives: prices move, hosts come and go, others take what bids hold."""
    sandbox = start_in(tmp_path_factory.mktemp("week") / "sandbox", market="slack", offers=150, seed=SEED)
    sandbox.stop_clock(NOON)
    sandbox.control.turn_clock(pause=False)
    yield sandbox
    sandbox.stop()
    sandbox.end_leftovers()


@pytest.fixture
async def stage(urls: DatabaseUrls, market: SandboxProcess, tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(urls, market, tmp_path) as made:
        made.world = replace(made.world, clock=TurnedClock(made.sandbox))
        yield made


class Week:
    """What happens to a few machines, drawn from a seed."""

    def __init__(self, stage: Stage, writer: Writer) -> None:
        self.stage = stage
        self.chance = random.Random(SEED)
        self.metering = Metering(stage.world.database, stage.world.clock, writer)
        self.losses = Losses(stage.world)

    async def turn(self, hours: float) -> None:
        """Let time go by on both sides, and charge what it cost."""
        await asyncio.to_thread(self.stage.sandbox.control.turn_clock, advance_s=hours * HOUR)
        turn(self.stage.world.clock, hours)
        for _ in range(2):
            await self.losses.look()
        assert (await self.metering.run())["left"] == 0

    async def launch(self, machine_type: str) -> Case:
        query = OfferQuery(num_gpus=1, machine_type=machine_type, limit=20)
        found = await self.stage.world.provider("sandbox").offers(query)
        offer = self.chance.choice(found[:5])
        bid = {} if machine_type == "on-demand" else {"bid_hour_nano": 3 * (offer.min_bid_hour_nano or 0)}
        instance_id, operation_id = await self.stage.begin_launch(offer, **bid)
        done = await Trial(self.stage, operation_id).run()
        assert done.status == "succeeded", done.problem
        return Case(instance_id)

    async def live(self, case: Case) -> str:
        """Do one thing with an instance, by its state and by chance, and say what."""
        status = (await self.stage.instance(case.instance_id)).status
        choices: dict[str, list[Any]] = {
            "running": [pause, hibernate, hibernate],
            "paused": [resume],
            "hibernated": [wake],
            "interrupted": [],
            "offline": [],
        }
        if not choices[status]:
            return status
        verb = self.chance.choice(choices[status])
        done = await Trial(self.stage, await verb(self.stage, case)).run()
        return f"{verb.__name__} {done.status}"


async def test_a_week_of_machines_costs_what_the_marketplace_bills(stage: Stage) -> None:
    writer = Writer(Lane(stage.urls.worker))
    week = Week(stage, writer)
    told = []
    try:
        cases = [await week.launch(kind) for kind in ("on-demand", "on-demand", "interruptible")]
        rival = int((await stage.rental(cases[2].instance_id)).provider_machine_id or 0)
        for day in range(7):
            await week.turn(week.chance.uniform(6, 14))
            told.append(await week.live(cases[day % 3]))
            if day == 1:
                await asyncio.to_thread(stage.sandbox.control.send_rival, rival)
            if day == 3:
                await asyncio.to_thread(stage.sandbox.control.dismiss_rivals)
            await week.turn(week.chance.uniform(6, 14))
            told.append(await week.live(cases[(day + 1) % 3]))
        for case in cases:
            done = await Trial(stage, await destroy(stage, case)).run()
            assert done.status == "succeeded", done.problem
        await week.turn(2)
        metered = await _charged(stage)
        assert await true_up_ended(stage.world) == {"trued_up": await _ended(stage), "left": 0}
        assert await true_up_ended(stage.world) == {"trued_up": 0, "left": 0}
    finally:
        await writer.close()
    await _agree(stage, metered, told)


async def _charged(stage: Stage) -> int:
    [(total,)] = await stage.rows("SELECT coalesce(sum(amount), 0)::bigint FROM usage_charge")
    return int(total)


async def _ended(stage: Stage) -> int:
    [(count,)] = await stage.rows("SELECT count(*) FROM rental WHERE provider_machine_id IS NOT NULL")
    return int(count)


async def _agree(stage: Stage, metered: int, told: list[str]) -> None:
    """See that every machine, and all of them, cost what the marketplace's own exact bill says."""
    labels = dict(await stage.rows("SELECT label, id FROM rental"))
    lines = await asyncio.to_thread(stage.sandbox.control.ledger)
    bill = {labels[line.label]: line.total_nanousd for line in lines if line.label in labels}
    charged = dict(await stage.rows("SELECT rental_id, sum(amount)::bigint * 1000 FROM usage_charge GROUP BY 1"))
    assert set(charged) == set(bill) and len(bill) >= 3, told
    for rental, nano in bill.items():
        assert abs(charged[rental] - nano) < CENT_NANO / 2, (rental, charged[rental], nano, told)
    total = sum(bill.values())
    assert abs(sum(charged.values()) - total) < CENT_NANO / 2, (sum(charged.values()), total, told)
    assert total > 100 * CENT_NANO, "the week cost nothing worth comparing"
    late = abs(metered * 1000 - total)
    corrections = await stage.rows("SELECT kind, amount FROM usage_charge WHERE kind LIKE '%%-true-up'")
    assert late < CENT_NANO / 2 or corrections, (metered, total, told)
    [(revenue,)] = await stage.rows("SELECT sum(balance)::bigint FROM ledger_account WHERE type = 'revenue'")
    assert revenue * 1000 == sum(charged.values())
    assert {"hibernate succeeded", "interrupted"} <= set(told), told
