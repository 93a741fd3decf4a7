"""Waking costs at most what was agreed to: the limit where there is one, else half above the last machine."""

from tests.support.world import Stage

from .engine import Trial
from .scenarios import Case, hibernate, running, wake


async def asleep(stage: Stage, then: str) -> Case:
    """A hibernated instance, with or without its machine."""
    case = await running(stage, None)
    operation = await Trial(stage, await hibernate(stage, case, then)).run()
    assert operation.status == "succeeded", operation.problem
    return case


async def machines(stage: Stage, case: Case) -> int:
    """How many machines the marketplace bills for an instance now."""
    return len((await stage.bills(case.instance_id)).billed)


async def test_without_a_limit_no_machine_far_dearer_than_the_last_is_rented(stage: Stage) -> None:
    """Where everything costs ten times what the instance had, the wake fails, says so, and nothing is rented."""
    case = await asleep(stage, "destroy")
    cheap = "jsonb_build_object('price_hour_nano', (offer->>'price_hour_nano')::bigint / 10, 'gpu_hour_nano', 1)"
    await stage.write(f"UPDATE rental SET offer = offer || {cheap} WHERE instance_id = %s", case.instance_id)
    operation = await Trial(stage, await wake(stage, case)).run()
    problem = operation.problem or {}
    assert (operation.status, problem["code"]) == ("failed", "price-moved")
    assert "raise it, or wait" in problem["detail"]
    assert (await stage.instance(case.instance_id)).status == "hibernated"
    assert await machines(stage, case) == 0


async def test_a_limit_holds_for_the_kept_machine_too(stage: Stage) -> None:
    """A kept machine that costs more than the limit is stopped again, and no other one is rented above it."""
    case = await asleep(stage, "keep")
    kept = await stage.rental(case.instance_id)
    operation = await Trial(stage, await wake(stage, case, limit_nano=1_000)).run()
    assert operation.status == "failed"
    assert "The kept machine: The offer costs more now" in (operation.problem or {})["detail"]
    assert (await stage.instance(case.instance_id)).status == "hibernated"
    bills = await stage.bills(case.instance_id)
    bills.agree()
    assert len(bills.billed) == 1, "the kept disk, and nothing else"
    open_kinds = await stage.rows(
        "SELECT kind FROM rental_span WHERE rental_id = %s AND to_at IS NULL ORDER BY kind", kept.id
    )
    assert open_kinds == [("disk",)]


async def test_an_instance_shows_the_machine_that_it_woke_on(stage: Stage) -> None:
    """After waking elsewhere, price, kind and provider are those of the new machine; a bid stays where bids are."""
    case = await asleep(stage, "destroy")
    await stage.write(
        "UPDATE instance SET machine_type = 'interruptible', bid_hour_nano = 1, price_hour_nano = 1 WHERE id = %s",
        case.instance_id,
    )
    operation = await Trial(stage, await wake(stage, case)).run()
    assert operation.status == "succeeded", operation.problem
    instance, rental = await stage.instance(case.instance_id), await stage.rental(case.instance_id)
    shown = (instance.machine_type, instance.provider, instance.price_hour_nano)
    assert shown == ("on-demand", rental.provider, rental.offer["price_hour_nano"])
