"""Get a running machine for an instance: write the intent, rent, see it up, prepare it; else give it back and go on."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import Problem, new_id
from dumont.durable import Retry, Run
from dumont.identity import ssh_keys_of
from dumont.instances.machines import boot
from dumont.instances.model import Rental
from dumont.instances.release import release
from dumont.instances.renting import rent
from dumont.instances.world import World
from dumont.market import ProviderDown, best_like, offer_from_json, offer_to_json

SAME_AGAIN = "rent-in-doubt"
ELSEWHERE = frozenset(
    {"offer-gone", "creation-timeout", "ssh-unreachable", "host-lost", "provider-refused", "no-capacity"}
)
PATIENT = Retry(on=(ProviderDown,), for_seconds=120.0)
Prepare = Callable[[str, int], Awaitable[None]]


@dataclass
class Wish:
    """What to rent and how hard to try. `elsewhere` allows other machines with the same GPUs when one fails."""

    offer: dict[str, Any]
    image: str
    disk_gb: float
    env: dict[str, str]
    onstart_cmd: str | None
    max_price_hour_nano: int | None
    requested_by: str
    attempts: int = 3
    elsewhere: bool = False
    avoid: list[str] = field(default_factory=list)

    def terms(self) -> dict[str, Any]:
        """The part of the wish that does not depend on the machine."""
        return {
            "image": self.image,
            "disk_gb": self.disk_gb,
            "env": self.env,
            "onstart_cmd": self.onstart_cmd,
            "max_price_hour_nano": self.max_price_hour_nano,
        }


async def acquire(run: Run, world: World, wish: Wish, prepare: Prepare) -> str:
    """Rent, boot and prepare a machine, over several attempts, and return the rental that holds it.

    Guarantees: every attempt has its own row and label before the provider is asked; an attempt that failed has been
    given back and seen gone before the next begins; what is left is undone when the workflow fails.
    Errors: the last attempt's problem.
    """
    offer, avoid = wish.offer, list(wish.avoid)
    for attempt in range(1, wish.attempts + 1):
        intent = await run.record(f"intend {attempt}", partial(_intend, run, world, offer, attempt, wish.requested_by))
        rental_id = intent["rental_id"]
        try:
            await _attempt(run, world, wish, intent, attempt)
            await prepare(rental_id, attempt)
            return str(rental_id)
        except Problem as problem:
            again = problem.code == SAME_AGAIN or (wish.elsewhere and problem.code in ELSEWHERE)
            if attempt == wish.attempts or not again:
                raise
            reason = problem.code
        await run.call(named("give back", attempt), partial(release, run, world, rental_id, reason), retry=PATIENT)
        if reason != SAME_AGAIN:
            avoid.append(offer["machine_id"])
            offer = await run.call(named("search again", attempt), partial(_other, world, wish, offer, avoid))
    raise AssertionError("unreachable: the last attempt returns or raises")


def named(step: str, attempt: int) -> str:
    """Name a step by its attempt; the first has the plain name."""
    return step if attempt == 1 else f"{step} ({attempt})"


async def _attempt(run: Run, world: World, wish: Wish, intent: dict[str, Any], attempt: int) -> None:
    rental_id = intent["rental_id"]
    await run.call(
        named("rent", attempt),
        partial(rent, run, world, rental_id, wish.terms()),
        retry=PATIENT,
        undo=partial(release, run, world, rental_id, "the operation was undone"),
    )
    await run.call(named("boot", attempt), partial(boot, run, world, rental_id, intent["public_keys"]))


async def _intend(
    run: Run, world: World, offer: dict[str, Any], attempt: int, requested_by: str, session: AsyncSession
) -> dict[str, Any]:
    rental = Rental(
        id=new_id("rnt"),
        team_id=run.team_id,
        instance_id=run.instance_id,
        operation_id=run.operation_id,
        provider=offer["provider"],
        label=f"dumont-{run.operation_id[-12:]}-a{attempt}",
        state="intended",
        offer=offer,
        machine_id=offer["machine_id"],
        created_at=world.clock.now(),
    )
    session.add(rental)
    await session.flush()
    keys = await ssh_keys_of(session, requested_by)
    return {"rental_id": rental.id, "label": rental.label, "public_keys": list(keys)}


async def _other(world: World, wish: Wish, offer: dict[str, Any], avoid: list[str]) -> dict[str, Any]:
    provider = world.provider(offer["provider"])
    found = await best_like(
        provider,
        offer_from_json(offer),
        disk_gb=wish.disk_gb,
        max_price_hour_nano=wish.max_price_hour_nano,
        avoid=avoid,
    )
    return offer_to_json(found)
