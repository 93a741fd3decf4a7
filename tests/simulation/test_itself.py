"""The simulation notices a broken product, and a seed always means the same."""

import pytest
from tests.simulation.arena import Arena
from tests.simulation.plan import Act, Life, Plan, plan_of
from tests.simulation.sabotage import SABOTAGE
from tests.simulation.simulate import simulate

LOST = {"fault": "accept_then_drop", "params": {}, "match": {"op": ["create"]}, "when": {"max": 1}}
FORGOTTEN = {"fault": "destroy_lost", "params": {}, "match": {}, "when": {"max": 1}}
RISING = {"fault": "zombie", "params": {"after_s": 0.5}, "match": {}, "when": {"max": 1}}
ENOUGH = {
    "rents blindly": (LOST, "machines were made under"),
    "believes a destroy": (FORGOTTEN, "was called released"),
    "never sweeps": (RISING, "is billed and no row says so"),
}
"""The fault under which each sabotage must show, and the words of the complaint."""


@pytest.mark.parametrize("broken", SABOTAGE)
async def test_a_broken_product_is_found(arena: Arena, broken: str) -> None:
    """The same seed is right with the product as it is, and wrong with it broken, and the complaint says how."""
    rule, words = ENOUGH[broken]
    plan = Plan(7, (Life(0, (Act("launch"), Act("destroy"))),), (rule,), (), (None,))
    found = await simulate(arena, plan, broken=broken, quiet_seconds=4)
    assert any(words in complaint for complaint in found.complaints), str(found)
    as_it_is = await simulate(arena, plan)
    assert not as_it_is.complaints, str(as_it_is)
    assert as_it_is.faults


def test_a_seed_means_the_same_again() -> None:
    """A plan depends on its seed and on nothing else; seeds differ."""
    assert [plan_of(seed) for seed in range(50)] == [plan_of(seed) for seed in range(50)]
    assert len({str(plan_of(seed)).partition(":")[2] for seed in range(50)}) == 50
