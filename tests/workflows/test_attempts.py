"""A launch that fails on one machine goes on to the next best one, as far as was agreed to, and says what failed."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from tests.support.world import Stage

from dumont.durable import Operation
from dumont.providers import Offer, OfferQuery

from .engine import Moment, Trial
from .scenarios import Case, check_running


def wish(stage: Stage, fault: str, times: int = 1, **params: Any) -> None:
    """Ask the sandbox for a fault."""
    stage.sandbox.control.add_fault(fault, params, times=times)


async def launched(
    stage: Stage, offer: Offer | None = None, moment: Moment | None = None, **wishes: Any
) -> tuple[str, Operation]:
    """Launch, see the bill agree with the books, and return the instance's id and the ended operation."""
    instance_id, operation_id = await stage.begin_launch(offer, **wishes)
    trial = Trial(stage, operation_id)
    trial.moment = moment or trial.moment
    operation = await trial.run()
    (await stage.bills(instance_id)).agree()
    return instance_id, operation


def detail(operation: Operation, step: str) -> str:
    """What an operation says of one of its steps."""
    return str(next(entry["detail"] for entry in operation.steps if entry["name"] == step))


async def one_of_many(stage: Stage) -> Offer:
    """An offer of the commonest card that has others like it on other machines at hardly another price."""
    found = await stage.offers()
    for offer in found:
        near = (other for other in found if other.price_hour_nano <= 1.05 * offer.price_hour_nano)
        if len({other.machine_id for other in near} - {offer.machine_id}) > 1:
            return offer
    raise AssertionError("no two machines cost about the same")


async def test_a_sold_offer_is_followed_by_the_next(stage: Stage) -> None:
    """The next machine has the same GPUs and costs at most a tenth more; who failed and why can be read."""
    chosen = await one_of_many(stage)
    wish(stage, "sold_between")
    instance_id, operation = await launched(stage, chosen)
    assert operation.status == "succeeded", operation.problem
    instance = await check_running(stage, Case(instance_id))
    rental = await stage.rental(instance_id)
    assert rental.machine_id != chosen.machine_id
    assert (rental.offer["gpu_name"], rental.offer["num_gpus"]) == (chosen.gpu_name, chosen.num_gpus)
    assert instance.price_hour_nano <= 1.1 * chosen.price_hour_nano
    tried = (operation.result or {})["tried"]
    assert [(entry["machine_id"], entry["code"]) for entry in tried] == [(chosen.machine_id, "offer-gone")]
    assert f"machine {chosen.machine_id}" in detail(operation, "give back")
    assert f"machine {rental.machine_id}" in detail(operation, "search again")
    assert detail(operation, "rent").startswith("The offer was rented by somebody else.")


async def test_what_a_machine_says_cannot_keep_it_from_being_given_back(stage: Stage) -> None:
    """Signs that no database takes stand in its words: the launch fails with them, and nothing is billed."""
    wish(stage, "oci_fail", text="OCI runtime create failed: \x00 no such image", times=1)
    instance_id, operation = await launched(stage, attempts=1)
    assert (operation.status, (operation.problem or {})["code"]) == ("failed", "provider-refused")
    assert "no such image" in detail(operation, "boot") and "\x00" not in detail(operation, "boot")
    instance = await stage.instance(instance_id)
    assert instance.status == "failed" and "no such image" in str(instance.status_detail)
    bills = await stage.bills(instance_id)
    assert bills.made and not bills.billed


async def test_no_more_machines_than_allowed(stage: Stage) -> None:
    """Two machines may be tried and both are gone: failed, nothing billed, and the third was left alone."""
    wish(stage, "sold_between", times=3)
    instance_id, operation = await launched(stage, await one_of_many(stage), attempts=2)
    assert (operation.status, (operation.problem or {})["code"]) == ("failed", "offer-gone")
    assert (await stage.instance(instance_id)).status == "failed"
    rentals = await stage.rows("SELECT machine_id FROM rental WHERE instance_id = %s", instance_id)
    assert len(set(rentals)) == len(rentals) == 2
    assert await asyncio.to_thread(stage.sandbox.control.clear_faults) == 1


async def test_no_dearer_machine_than_allowed(stage: Stage) -> None:
    """The limit is the price of the cheapest: when that one fails there is no next, and the first problem stands."""
    chosen = (await stage.offers())[0]
    wish(stage, "host_offline", moment="ssh_exec")
    instance_id, operation = await launched(stage, chosen, max_price_hour_nano=chosen.price_hour_nano)
    assert (operation.status, (operation.problem or {})["code"]) == ("failed", "host-lost")
    assert "No other machine" in detail(operation, "search again")
    assert (await stage.bills(instance_id)).billed == set()


@pytest.mark.checklist("INST-20")
async def test_a_machine_that_never_comes_up(stage: Stage) -> None:
    """After the time that the launch was given the machine is destroyed and seen gone, and the instance is failed."""
    wish(stage, "stuck_loading")
    instance_id, operation = await launched(stage, attempts=1, minutes=0.02)
    assert (operation.status, (operation.problem or {})["code"]) == ("failed", "creation-timeout")
    instance = await stage.instance(instance_id)
    assert (instance.status, instance.rental_id) == ("failed", None)
    bills = await stage.bills(instance_id)
    assert (len(bills.made), bills.billed) == (1, set())


@dataclass
class MoreTime:
    """Gives the next machine more time than the first had, by a worker that comes anew and reads the wish again."""

    stage: Stage
    given: bool = False

    async def __call__(self, when: str, name: str) -> str | None:
        if self.given or (when, name) != ("recorded", "give back"):
            return None
        self.given = True
        found = await self.stage.rows("SELECT id FROM operation ORDER BY id DESC LIMIT 1")
        longer = "jsonb_set(input::jsonb, '{start_timeout_minutes}', '0.5')"
        await self.stage.write(f"UPDATE operation SET input = {longer} WHERE id = %s", found[0][0])
        return "die"


async def test_a_machine_that_never_comes_up_is_followed_by_the_next(stage: Stage) -> None:
    """The stuck machine is seen gone before the next one is rented."""
    wish(stage, "stuck_loading")
    instance_id, operation = await launched(stage, None, MoreTime(stage), minutes=0.02, max_price_hour_nano=10**12)
    assert operation.status == "succeeded", operation.problem
    assert [entry["code"] for entry in (operation.result or {})["tried"]] == ["creation-timeout"]
    bills = await stage.bills(instance_id)
    assert (len(bills.made), len(bills.billed)) == (2, 1)


async def test_a_lost_answer_is_no_reason_to_go_elsewhere(stage: Stage) -> None:
    """One machine was asked for alone, and the answer was lost: it is found by its label."""
    wish(stage, "accept_then_drop", ops=["create"])
    instance_id, operation = await launched(stage, attempts=1)
    assert operation.status == "succeeded", operation.problem
    assert len((await stage.bills(instance_id)).made) == 1


@dataclass
class Dearer:
    """Raises what the newest machine costs, once it is rented and before anybody looks at it."""

    stage: Stage
    raised: int | None = None

    async def __call__(self, when: str, name: str) -> str | None:
        if (when, name) == ("recorded", "rent") and self.raised is None:
            newest = max(line.instance_id for line in await asyncio.to_thread(self.stage.sandbox.control.ledger))
            self.raised = newest
            path = f"/api/v0/instances/bid_price/{newest}/"
            status, said = self.stage.sandbox.call("PUT", path, {"client_id": "me", "price": 30})
            assert status == 200, said
        return None


async def test_a_machine_that_costs_more_than_it_said(stage: Stage) -> None:
    """What the machine itself says it costs is compared with what was agreed: it is given back, the next is taken."""
    bids = await stage.world.provider("sandbox").offers(OfferQuery(num_gpus=1, machine_type="interruptible"))
    commonest = Counter(offer.gpu_name for offer in bids).most_common(1)[0][0]
    chosen = next(offer for offer in bids if offer.gpu_name == commonest)
    moment = Dearer(stage)
    limit = 10 * chosen.price_hour_nano
    instance_id, operation = await launched(stage, chosen, moment, max_price_hour_nano=limit)
    assert operation.status == "succeeded", operation.problem
    assert [entry["code"] for entry in (operation.result or {})["tried"]] == ["price-moved"]
    assert stage.sandbox.instance(moment.raised or 0) is None
    assert (await stage.instance(instance_id)).price_hour_nano <= limit


async def test_a_bid_is_what_the_machine_costs(stage: Stage) -> None:
    """An interruptible machine costs what was bid for it, and so do our books."""
    bids = await stage.world.provider("sandbox").offers(OfferQuery(num_gpus=1, machine_type="interruptible"))
    bid = (bids[0].min_bid_hour_nano or 0) + 7_000_000
    instance_id, operation = await launched(stage, bids[0], attempts=1, bid_hour_nano=bid)
    assert operation.status == "succeeded", operation.problem
    rates = await stage.rows(
        "SELECT rate_hour_nano FROM rental_span s JOIN rental r ON r.id = s.rental_id "
        "WHERE r.instance_id = %s AND kind = 'gpu'",
        instance_id,
    )
    number = int((await stage.rental(instance_id)).provider_machine_id or 0)
    line = await asyncio.to_thread(stage.sandbox.control.line, number)
    assert rates == [(bid,)] and line.spans[-1]["gpu_rate_nanousd_hour"] == bid
