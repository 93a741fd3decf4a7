"""A wallet that runs dry is pointed out to the people of its team, once, however many jobs find it."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from tests.billing.test_prepaid import USD, prepaid
from tests.billing.till import HandClock, Till
from tests.support.api import Person

from dumont.app.wiring import find_dry_wallet
from dumont.bookkeeping import also_ask, refresh_insights
from dumont.db import Database

pytestmark = pytest.mark.requires_postgres


@dataclass
class World:
    """What the nightly job has of a worker."""

    database: Database
    clock: HandClock


async def pointed_out(till: Till, person: Person) -> list[dict[str, Any]]:
    """What the API shows a user of his wallet."""
    answer = await till.api.http.get("/api/v1/insights", headers=person.headers)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["wallet_running_dry"]
    return found


async def told(till: Till, person: Person) -> list[str]:
    """What a user was told about his wallet."""
    rows = await till.rows(
        "SELECT body FROM notification WHERE team_id = %s AND type = 'wallet_running_dry'", person.team_id
    )
    return [row[0] for row in rows]


@pytest.mark.checklist("PIX-12")
async def test_a_wallet_that_runs_dry_is_told_of_once(till: Till) -> None:
    """100 dollars last four days at a dollar an hour: nothing is said; 20 last 20 hours: shown, and told of once."""
    also_ask(find_dry_wallet)
    rich, poor = await prepaid(till, 100 * USD), await prepaid(till, 20 * USD)
    for person in (rich, poor):
        await till.begin(person.team_id)
    till.api.app.state.clock = till.clock
    world = World(till.worker, till.clock)
    await asyncio.gather(*(refresh_insights(world, till.clock.now()) for _ in range(3)))
    assert [len(await told(till, person)) for person in (rich, poor)] == [0, 1]
    assert "used up in 20 hours" in (await told(till, poor))[0]
    assert await pointed_out(till, rich) == []
    (shown,) = await pointed_out(till, poor)
    assert (shown["hours_left"], shown["burn_hour"]) == (20, {"amount": "1.00", "currency": "USD"})
    assert len(await told(till, poor)) == 1
