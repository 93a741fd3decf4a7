"""Even seeds: whatever lies, dies or is cut off, nothing is lost, doubled or billed unseen."""

import pytest
from tests.simulation.arena import Arena
from tests.simulation.plan import plan_of
from tests.simulation.simulate import simulate


@pytest.mark.parametrize("seed", range(2, 61, 2))
async def test_seed(arena: Arena, seed: int) -> None:
    """After the faults all is as the people wanted it or as it was; `./bench faults --short --seed N` replays."""
    outcome = await simulate(arena, plan_of(seed, full=False))
    assert not outcome.complaints, str(outcome)
