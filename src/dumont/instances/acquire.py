"""Get a running machine for an instance: write the intent, rent, see it up, prepare it; else give it back and go on."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

from psycopg.types.json import Jsonb
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import Problem, money_document, new_id
from dumont.durable import Retry, Run, StepFailed, patiently
from dumont.identity import glance_at_ssh_keys
from dumont.instances.machines import boot
from dumont.instances.release import release
from dumont.instances.renting import rent
from dumont.instances.world import World
from dumont.market import NoMatchingOffer, ProviderDown, best_like, offer_from_json, offer_to_json

SAME_AGAIN = "rent-in-doubt"
ELSEWHERE = frozenset(
    {
        *("offer-gone", "price-moved", "creation-timeout", "ssh-unreachable", "host-lost"),
        *("provider-refused", "no-capacity"),
    }
)
"""Problems of one machine, after which another one may do."""
PATIENT = Retry(on=(ProviderDown,), for_seconds=120.0)
Prepare = Callable[[str, int], Awaitable[None]]


@dataclass
class Wish:
    """What to rent and how hard to try. `elsewhere` allows other machines with the same GPUs when one fails.

    At most `machines` are tried, in `attempts`, which also count answers that were lost.
    `retry_price_hour_nano` is the most that another machine may cost where `max_price_hour_nano` sets no limit.
    `tried` collects what was tried in vain: machine, price, and the problem; `label` is that of the machine in the end.
    """

    offer: dict[str, Any]
    image: str
    disk_gb: float
    env: dict[str, str]
    onstart_cmd: str | None
    max_price_hour_nano: int | None
    requested_by: str
    ports: list[int] = field(default_factory=list)
    bid_hour_nano: int | None = None
    start_timeout_minutes: float | None = None
    attempts: int = 3
    machines: int = 3
    elsewhere: bool = False
    retry_price_hour_nano: int | None = None
    avoid: list[str] = field(default_factory=list)
    tried: list[dict[str, Any]] = field(default_factory=list)
    label: str = ""

    def goes_on_after(self, code: str) -> bool:
        """Whether there is another attempt after this problem: on the same machine, or on another that is allowed."""
        machines = 1 + sum(1 for entry in self.tried if entry["code"] != SAME_AGAIN)
        return code == SAME_AGAIN or (self.elsewhere and code in ELSEWHERE and machines < self.machines)

    def terms(self) -> dict[str, Any]:
        """The part of the wish that does not depend on the machine."""
        return {
            "image": self.image,
            "disk_gb": self.disk_gb,
            "env": self.env,
            "onstart_cmd": self.onstart_cmd,
            "max_price_hour_nano": self.max_price_hour_nano,
            "ports": self.ports,
            "bid_hour_nano": self.bid_hour_nano,
        }


async def acquire(run: Run, world: World, wish: Wish, prepare: Prepare) -> str:
    """Rent, boot and prepare a machine, over several attempts, and return the rental that holds it.

    Guarantees: every attempt has its own row and label before the provider is asked; an attempt that failed has been
    given back and seen gone before the next begins; what is left is undone when the workflow fails. Steps say which
    machine failed and why. Errors: the last attempt's problem.
    """
    offer, avoid = wish.offer, list(wish.avoid)
    for attempt in range(1, wish.attempts + 1):
        intent = await _intend(run, world, offer, attempt, wish.requested_by)
        rental_id = intent["rental_id"]
        try:
            await _attempt(run, world, wish, intent, attempt)
            await prepare(rental_id, attempt)
            wish.label = intent["label"]
            return str(rental_id)
        except Problem as problem:
            if attempt == wish.attempts or not wish.goes_on_after(problem.code):
                raise
            failed = problem
        offer = await _next(run, world, wish, offer, rental_id, attempt, failed, avoid)
    raise AssertionError("unreachable: the last attempt returns or raises")


async def _next(
    run: Run,
    world: World,
    wish: Wish,
    offer: dict[str, Any],
    rental_id: str,
    attempt: int,
    failed: Problem,
    avoid: list[str],
) -> dict[str, Any]:
    """Give back the machine that failed and choose the next offer: the same one after a lost answer.

    Errors: `failed`, where no other machine fits.
    """
    said = f"{_shown(offer)} failed: {failed.detail}"
    give_back = named("give back", attempt)
    run.note(give_back, said)
    await run.call(give_back, partial(release, run, world, rental_id, failed.code), retry=PATIENT)
    wish.tried.append(
        {
            "rental_id": rental_id,
            "provider": offer["provider"],
            "machine_id": offer["machine_id"],
            "price_hour": money_document(offer["price_hour_nano"]),
            "code": failed.code,
            "detail": failed.detail,
        }
    )
    if failed.code == SAME_AGAIN:
        return offer
    avoid.append(offer["machine_id"])
    step = named("search again", attempt)
    found = await run.call(step, partial(_other, run, step, world, wish, avoid), retry=PATIENT)
    if found is None:
        failed.detail = f"{failed.detail} No other machine fits within the limit on its price: raise it, or wait."
        raise failed
    return dict(found)


def _shown(offer: dict[str, Any]) -> str:
    price = money_document(offer["price_hour_nano"])
    return f"{offer['num_gpus']} x {offer['gpu_name']} on machine {offer['machine_id']} at {price['amount']} USD/h"


def named(step: str, attempt: int) -> str:
    """Name a step by its attempt; the first has the plain name."""
    return step if attempt == 1 else f"{step} ({attempt})"


async def _attempt(run: Run, world: World, wish: Wish, intent: dict[str, Any], attempt: int) -> None:
    rental_id = intent["rental_id"]
    rented = await run.call(
        named("rent", attempt),
        partial(rent, run, world, rental_id, wish.terms()),
        retry=PATIENT,
        undo=partial(release, run, world, rental_id, "the operation was undone"),
    )
    up = partial(
        boot,
        run,
        world,
        rental_id,
        intent["public_keys"],
        minutes=wish.start_timeout_minutes,
        highest_hour_nano=rented.get("highest_hour_nano"),
    )
    await run.call(named("boot", attempt), up)


_INTENDED = (
    "done AS (INSERT INTO rental (id, team_id, instance_id, operation_id, provider, label, state, offer, machine_id, "
    "created_at) SELECT :rental, :team, :instance, :id, :provider, :label, 'intended', :offer, :machine, :at FROM mine "
    "ON CONFLICT DO NOTHING RETURNING id)"
)


async def _intend(run: Run, world: World, offer: dict[str, Any], attempt: int, requested_by: str) -> dict[str, Any]:
    intent = {"rental_id": new_id("rnt"), "label": f"dumont-{run.operation_id[-12:]}-a{attempt}"}
    values = {
        "rental": intent["rental_id"],
        "provider": offer["provider"],
        "label": intent["label"],
        "offer": Jsonb(offer),
        "machine": offer["machine_id"],
        "at": world.clock.now(),
    }

    async def refuse(session: AsyncSession) -> NoReturn:
        raise StepFailed(f"The rental could not be written. Report it with operation {run.operation_id}.")

    kept: dict[str, Any] = await run.write(f"intend {attempt}", _INTENDED, values, intent, refuse)
    keys = partial(glance_at_ssh_keys, world.database, run.team_id, requested_by)
    return {"public_keys": await patiently(run.operation_id, keys), **kept}


async def _other(run: Run, step: str, world: World, wish: Wish, avoid: list[str]) -> dict[str, Any] | None:
    """Find the next best machine like the one first wished for; None where nothing fits."""
    limits = (wish.max_price_hour_nano, wish.retry_price_hour_nano)
    try:
        found = await best_like(
            world.provider(wish.offer["provider"]),
            offer_from_json(wish.offer),
            disk_gb=wish.disk_gb,
            max_price_hour_nano=next((limit for limit in limits if limit is not None), None),
            avoid=avoid,
        )
    except NoMatchingOffer as problem:
        run.note(step, problem.detail)
        return None
    run.note(step, f"Next is {_shown(offer_to_json(found))}.")
    return offer_to_json(found)
