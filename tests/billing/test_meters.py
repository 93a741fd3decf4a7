"""Meters charge every stretch of cost once, to the millionth, whoever dies and however many charge at once."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from datetime import timedelta
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.billing.till import NOON, HandClock, Till

from dumont.billing import Stretch
from dumont.core import Clock
from dumont.ledger import Outcome, Posting, Writer

pytestmark = pytest.mark.requires_postgres
MORTAL = Path(__file__).with_name("mortal_meters.py")


class Dying(Writer):
    """A writer whose process dies when the ledger has everything, and the answer was not read."""

    def __init__(self, real: Writer) -> None:
        self.real = real

    async def post_batch(self, postings: Sequence[Posting]) -> list[Outcome]:
        await self.real.post_batch(postings)
        raise SystemExit("killed")


def exact(stretch: Stretch, until: Any) -> int:
    """What a stretch costs up to a moment, rounded half up once, in millionths."""
    seconds = Fraction((until - stretch.from_at) / timedelta(microseconds=1)) / 1_000_000
    return int(stretch.rate_hour_nano * seconds / 3600 / 1000 + Fraction(1, 2))


async def charges(till: Till, stretch: Stretch) -> list[tuple[Any, ...]]:
    """Read what was charged of a stretch, each beside the entry on the revenue that it stands on."""
    return await till.rows(
        "SELECT c.amount, c.from_at, c.to_at, e.amount FROM usage_charge c "
        "JOIN ledger_transfer t ON t.id = c.id::uuid AND t.refusal IS NULL "
        "JOIN ledger_entry e ON e.transfer_id = t.id "
        "JOIN ledger_account a ON a.number = e.account AND a.type = 'revenue' "
        "WHERE c.meter_id = %s ORDER BY c.to_at, c.from_at",
        stretch.id,
    )


async def test_a_stretch_costs_what_its_price_and_its_time_say(till: Till) -> None:
    person = await till.person()
    gpu = await till.begin(person.team_id, rate=412_345_678)
    disk = await till.begin(person.team_id, rate=3_333_333, kind="disk", instance=gpu.instance_id)
    till.clock.turn(minutes=90, microseconds=7)
    for stretch in (gpu, disk):
        await till.end(stretch)
    assert (await till.charge())["left"] == 0
    total = exact(gpu, till.clock.now()) + exact(disk, till.clock.now())
    assert exact(gpu, till.clock.now()) == 618_519
    assert await till.balance(person.team_id, "revenue") == total
    assert await till.balance(person.team_id, "showback") == -total
    assert await till.balance(person.team_id, "wallet") == 0
    [line] = (await till.get(person, "/usage", group_by="instance"))["usage"]
    assert (line["key"], line["quantity"]) == (gpu.instance_id, "1.500000")
    by_kind = await till.get(person, "/usage", group_by="kind")
    assert [row["key"] for row in by_kind["usage"]] == ["disk", "gpu"]
    assert by_kind["total"]["amount"] == f"{total / 1_000_000:.6f}"


async def test_many_small_charges_are_together_what_one_is(till: Till) -> None:
    """Rounding never adds up: each charge is the difference of two totals."""
    person = await till.person()
    odd = await till.begin(person.team_id, rate=1_234_567)
    for seconds in (901, 907, 911, 919, 929, 937, 941, 947, 953, 967, 971, 977):
        till.clock.turn(seconds=seconds, microseconds=333)
        await till.charge()
    await till.end(odd)
    await till.charge()
    found = await charges(till, odd)
    assert len(found) >= 12
    assert sum(row[0] for row in found) == sum(row[3] for row in found) == exact(odd, till.clock.now())
    assert all(before[2] == after[1] for before, after in pairwise(found))


async def test_no_charge_lies_in_two_days(till: Till) -> None:
    person = await till.person()
    stretch = await till.begin(person.team_id)
    till.clock.turn(days=3)
    await till.charge()
    ends = [row[2] for row in await charges(till, stretch)]
    midnight = NOON.replace(hour=0) + timedelta(days=1)
    assert ends == [midnight, midnight + timedelta(days=1), midnight + timedelta(days=2), till.clock.now()]
    days = (await till.get(person, "/usage", group_by="day"))["usage"]
    assert [(row["key"], row["quantity"]) for row in days] == [
        ("2026-03-14", "12.000000"),
        ("2026-03-15", "24.000000"),
        ("2026-03-16", "24.000000"),
        ("2026-03-17", "12.000000"),
    ]
    dates = await till.rows(
        "SELECT t.date::text FROM usage_charge c JOIN ledger_transfer t ON t.id = c.id::uuid "
        "WHERE c.meter_id = %s ORDER BY c.to_at",
        stretch.id,
    )
    assert [row[0] for row in dates] == [row["key"] for row in days]


async def test_a_moment_is_charged_once_by_two_who_charge_at_once(till: Till) -> None:
    person = await till.person()
    stretches = [await till.begin(person.team_id, rate=1_000_000_000 + n) for n in range(30)]
    for _ in range(4):
        till.clock.turn(minutes=20)
        await asyncio.gather(*(till.metering().run() for _ in range(3)))
    total = sum(exact(stretch, till.clock.now()) for stretch in stretches)
    assert await till.balance(person.team_id, "revenue") == total
    assert (await till.rows("SELECT sum(amount) FROM usage_charge WHERE team_id = %s", person.team_id)) == [(total,)]


async def test_a_death_after_the_posting_charges_nothing_twice(till: Till) -> None:
    """Killed when the ledger has the postings and the meters do not know: the next sweep posts the very same."""
    person = await till.person()
    stretch = await till.begin(person.team_id)
    till.clock.turn(minutes=30)
    with pytest.raises(SystemExit):
        await till.metering(Dying(till.writer)).run()
    assert await till.balance(person.team_id, "revenue") == 500_000
    assert await charges(till, stretch) == []
    till.clock.turn(minutes=30)
    await till.end(stretch)
    await till.charge()
    assert await till.balance(person.team_id, "revenue") == 1_000_000
    assert [row[0] for row in await charges(till, stretch)] == [500_000, 500_000]


async def test_a_death_before_the_posting_loses_nothing(till: Till) -> None:
    person = await till.person()
    stretch = await till.begin(person.team_id)
    till.clock.turn(minutes=30)
    assert await till.metering()._intend() >= 1
    assert await till.balance(person.team_id, "revenue") == 0
    till.clock.turn(minutes=3)
    await till.charge()
    assert [row[0] for row in await charges(till, stretch)] == [500_000]
    await till.end(stretch)
    await till.charge()
    assert await till.balance(person.team_id, "revenue") == 550_000


@pytest.mark.parametrize("moment", ["intended", "posted"])
async def test_a_worker_that_is_killed_charges_nothing_twice_and_loses_nothing(till: Till, moment: str) -> None:
    """SIGKILL between the intent and the posting, and between the posting and the mark: then others go on."""
    person = await till.person()
    stretch = await till.begin(person.team_id)
    till.clock.turn(minutes=30)
    environment = {**os.environ, "MORTAL_URL": till.urls.worker, "MORTAL_NOW": till.clock.now().isoformat()}
    mortal = await asyncio.create_subprocess_exec(sys.executable, str(MORTAL), moment, env=environment)
    assert await asyncio.wait_for(mortal.wait(), 120) == -signal.SIGKILL
    assert await charges(till, stretch) == []
    assert await till.balance(person.team_id, "revenue") == (500_000 if moment == "posted" else 0)
    till.clock.turn(minutes=12)
    await till.end(stretch)
    await asyncio.gather(*(till.metering().run() for _ in range(2)))
    await till.charge()
    assert await till.balance(person.team_id, "revenue") == 700_000
    assert [row[0] for row in await charges(till, stretch)] == [500_000, 200_000]


async def test_what_was_charged_too_much_is_given_back(till: Till) -> None:
    """A machine that had ended before the last charge, and a disk that turns out cheaper than its offer said."""
    person = await till.person()
    ended = await till.begin(person.team_id)
    cheaper = await till.begin(person.team_id, kind="disk", rate=40_000_000)
    truly = till.clock.turn(minutes=40)
    till.clock.turn(minutes=20)
    await till.charge()
    assert await till.balance(person.team_id, "revenue") == 1_040_000
    await till.end(ended, truly)
    await till.tell(Stretch(**{**vars(cheaper), "rate_hour_nano": 10_000_000}))
    till.clock.turn(minutes=60)
    await till.charge()
    assert sum(row[0] for row in await charges(till, ended)) == exact(ended, truly) == 666_667
    assert sum(row[0] for row in await charges(till, cheaper)) == 20_000
    assert await till.balance(person.team_id, "revenue") == 686_667


async def test_what_runs_and_is_not_charged_yet_is_shown(till: Till) -> None:
    person = await till.person()
    await till.begin(person.team_id, rate=2_000_000_000)
    await till.begin(person.team_id, rate=12_000_000, kind="disk")
    till.clock.turn(minutes=3)
    shown = await till.get(person, "/wallet")
    assert shown["burn_hour"]["amount"] == "2.012000"
    assert shown["uncharged"]["amount"] == shown["spent_day"]["amount"] == "0.100600"
    assert (shown["shown_back"]["amount"], shown["runs_out_at"]) == ("0.000000", None)


async def test_a_team_from_before_there_were_wallets_gets_one(till: Till) -> None:
    person = await till.api.person()
    await till.begin(person.team_id)
    till.clock.turn(minutes=30)
    await till.charge()
    assert await till.balance(person.team_id, "showback") == -500_000


def test_the_hand_clock_is_a_clock() -> None:
    clock = HandClock()
    assert isinstance(clock, Clock) and clock.seconds() == clock.turn().timestamp()
