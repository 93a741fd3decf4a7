"""What a provider's own bill does to the charges: a line of its own, nothing for its rounding, unknown where silent."""

import builtins
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from tests.billing.till import Till
from tests.support.world import worker_world

from dumont.billing import Stretch
from dumont.core import new_id
from dumont.instances import true_up_ended
from dumont.providers import Charge, VastProvider

pytestmark = pytest.mark.requires_postgres


class Billing(VastProvider):
    """A marketplace whose bill has the lines that it is given."""

    nano: tuple[int, ...] = ()

    async def charges(self, machine_id: str, start: datetime, end: datetime) -> builtins.list[Charge]:
        """Return those lines, all for the GPU."""
        return [Charge("gpu", nano, start, end, "a line") for nano in self.nano]


async def ended(till: Till) -> Stretch:
    """A machine that ran for an hour at a dollar, was charged, and was given back two hours ago."""
    person = await till.person()
    team, rental, instance = person.team_id, new_id("rnt"), new_id("ins")
    begun = Stretch(new_id("spn"), team, instance, rental, "gpu", 10**9, till.clock.now(), None)
    await till.tell(begun)
    till.clock.turn(hours=1)
    await till.end(begun)
    await till.charge()
    await till.write(
        "WITH w AS (INSERT INTO workspace (id, team_id, created_at) VALUES (%(i)s, %(t)s, now())), "
        "i AS (INSERT INTO instance (id, team_id, workspace_id, created_by, status, provider, image, env, disk_gb, "
        "gpu_name, num_gpus, gpu_memory_mib, price_hour_nano, disk_newer, protected, version, created_at) VALUES "
        "(%(i)s, %(t)s, %(i)s, 'usr', 'destroyed', 'sandbox', 'x', '{}', 1, 'x', 1, 1, 1, false, false, 1, now())) "
        "INSERT INTO rental (id, team_id, instance_id, operation_id, provider, label, state, offer, machine_id, "
        "provider_machine_id, created_at, released_at) "
        "VALUES (%(r)s, %(t)s, %(i)s, 'op', 'sandbox', %(r)s, 'released', '{}', 'm', '1', %(b)s, %(e)s)",
        {"t": team, "r": rental, "i": instance, "b": begun.from_at, "e": till.clock.now()},
    )
    till.clock.turn(hours=2)
    return begun


async def compare(till: Till, home: Path, *nano: int) -> None:
    """Compare with a bill of these lines, as the worker does."""
    made = worker_world(home, till.urls.worker, "http://127.0.0.1:9", "key")
    provider = Billing("sandbox", "http://127.0.0.1:9", "key")
    provider.nano = nano
    try:
        await true_up_ended(replace(made, clock=till.clock, providers={"sandbox": provider}))
    finally:
        await provider.close()
        await made.provider("sandbox").close()
        await made.database.close()


async def lines(till: Till, stretch: Stretch) -> list[tuple[str, int]]:
    rows = await till.rows(
        "SELECT kind, amount FROM usage_charge WHERE rental_id = %s ORDER BY from_at, kind", stretch.rental_id
    )
    return [(str(kind), int(amount)) for kind, amount in rows]


@pytest.mark.parametrize(
    ("stated", "correction"), [((980_000_000,), -20_000), ((500_000_000, 530_000_000), 30_000), ((1_000_400_000,), 0)]
)
async def test_a_difference_is_a_line_of_its_own(
    till: Till, tmp_path: Path, stated: tuple[int, ...], correction: int
) -> None:
    """Too much is given back, too little is charged, and what half a thousandth of a dollar explains is left."""
    stretch = await ended(till)
    for _ in range(2):
        await compare(till, tmp_path, *stated)
    found = [("gpu", 1_000_000)] + ([("gpu-true-up", correction)] if correction else [])
    assert await lines(till, stretch) == found
    assert await till.balance(stretch.team_id, "revenue") == 1_000_000 + correction


async def test_a_silent_bill_is_asked_for_again_and_then_unknown(till: Till, tmp_path: Path) -> None:
    stretch = await ended(till)
    known = "SELECT stated_nano FROM true_up WHERE rental_id = %s"
    await compare(till, tmp_path)
    assert await till.rows(known, stretch.rental_id) == []
    till.clock.turn(days=8)
    await compare(till, tmp_path)
    assert await till.rows(known, stretch.rental_id) == [(None,)]
    assert await lines(till, stretch) == [("gpu", 1_000_000)]
