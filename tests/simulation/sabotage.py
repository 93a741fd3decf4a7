"""The product broken on purpose, one way at a time: a simulation that does not notice would prove nothing."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from importlib import import_module
from typing import Any

import dumont.instances.renting as renting_room
import dumont.instances.watch as watch_room
import dumont.providers.vast.provider as provider_room
from dumont.providers import OfferQuery, ProviderError, ProviderUnreachable
from dumont.providers.vast.rent import create_body


def _rent_blindly() -> None:
    """Never look by label: neither before an order nor after a lost answer."""

    async def nothing(*arguments: Any, **more: Any) -> None:
        return None

    async def ask_again(client: Any, provider: Any, request: Any, delays: Sequence[float]) -> str:
        for offer in [request.offer, *await provider.offers(OfferQuery(num_gpus=1))]:
            with suppress(ProviderError):
                path = f"/api/v0/asks/{offer.provider_offer_id}/"
                return str((await client.ask("create", "PUT", path, body=create_body(request)))["new_contract"])
        raise ProviderUnreachable("nothing could be rented")

    renting_room.found_by_label = nothing  # type: ignore[assignment]
    provider_room.rent_once = ask_again


def _believe_a_destroy() -> None:
    """Call a machine gone as soon as the marketplace has taken the order."""

    async def asked(run: Any, world: Any, provider: Any, rental: Any, machine_id: str) -> datetime:
        await provider.destroy(machine_id)
        now: datetime = world.clock.now()
        return now

    room: Any = import_module("dumont.instances.release")  # the door gives the function of that name
    room._destroy_and_see = asked


def _never_sweep() -> None:
    """Look for losses, but never for machines that no row owns."""

    class Blind:
        def __init__(self, world: Any) -> None:
            """Take the place of a sweep."""

        async def run(self) -> dict[str, Any]:
            return {}

    watch_room.Sweep = Blind  # type: ignore[assignment, misc]


SABOTAGE: dict[str, Callable[[], None]] = {
    "rents blindly": _rent_blindly,
    "believes a destroy": _believe_a_destroy,
    "never sweeps": _never_sweep,
}
