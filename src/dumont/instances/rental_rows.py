"""What the steps of launches and destroys read and write of one rental, each in a transaction of one round trip."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb
from sqlalchemy import bindparam, func, select, text
from sqlalchemy.dialects.postgresql import aggregate_order_by

from dumont.billing import following_stretches
from dumont.core import new_id
from dumont.db import Question
from dumont.durable import live_operation_id
from dumont.instances.model import Instance, Rental
from dumont.instances.world import World

_TEAM = Question(text("SELECT set_config('dumont.team_id', :team, true)"))
_READ = Question(select(Rental.__table__).where(Rental.__table__.c.id == bindparam("id")))
_LEFT = Question(
    select(
        live_operation_id(bindparam("instance")).label("operation"),
        select(func.array_agg(aggregate_order_by(Rental.id, Rental.id)))
        .where(Rental.instance_id == bindparam("instance"), Rental.state != "released")
        .scalar_subquery()
        .label("rentals"),
    )
)
WISH = ("image", "disk_gb", "env", "onstart_cmd", "max_price_hour_nano", "ports", "bid_hour_nano")
"""Columns of an instance that say what it was wished to be; a wake may be asked for with another limit."""
_WISH = Question(
    select(*(Instance.__table__.c[name] for name in WISH)).where(Instance.__table__.c.id == bindparam("id"))
)
_ASKED = Question(
    text("UPDATE rental SET state = 'asked', offer = :offer WHERE id = :id AND state <> 'released' RETURNING id")
)
_NOT_ASKED = Question(text("UPDATE rental SET state = 'intended' WHERE id = :id AND state = 'asked'"))
_SPAN = (
    "INSERT INTO rental_span (id, team_id, rental_id, kind, rate_hour_nano, from_at) "
    "SELECT :span, :team, id, :kind, :rate, :at FROM {rental} "
    "ON CONFLICT (rental_id, kind) WHERE to_at IS NULL DO NOTHING"
)
_OPEN_SPAN = Question(
    text(
        "WITH held AS (SELECT id FROM rental WHERE id = :id AND state <> 'released' FOR SHARE) "
        + _SPAN.format(rental="held")
    )
)
"""Locks the rental, so that a worker that thaws after others released it opens nothing that nobody would close."""
_RENTED = Question(
    text(
        "WITH taken AS (UPDATE rental SET state = 'rented', provider_machine_id = :machine, rented_at = :at "
        f"WHERE id = :id AND state <> 'released' RETURNING id), span AS ({_SPAN.format(rental='taken')}) "
        "SELECT id FROM taken"
    )
)
_UP = Question(
    text(
        "WITH corrected AS (UPDATE rental_span SET rate_hour_nano = :rate "
        "WHERE rental_id = :id AND kind = 'disk' AND to_at IS NULL AND rate_hour_nano <> :rate) "
        "UPDATE rental SET offer = :offer, address = :address, host_key = :host_key, workspace_root = :workspace_root, "
        "geolocation = :geolocation, country = :country, public_ip = :public_ip, ports = :ports "
        "WHERE id = :id RETURNING id"
    )
)
_RELEASED = Question(
    text(
        "UPDATE rental SET state = 'released', released_at = :at, released_real_at = clock_timestamp(), "
        "reason = :reason WHERE id = :id RETURNING id"
    )
)
_CLOSED = Question(
    text(
        "UPDATE rental_span SET to_at = greatest(from_at, :at) "
        "WHERE rental_id = :id AND kind IN ('gpu', 'disk') AND to_at IS NULL RETURNING id"
    )
)
_METERED = following_stretches(
    "SELECT s.id, s.team_id, r.instance_id, s.rental_id, s.kind, s.rate_hour_nano, s.from_at, s.to_at "
    "FROM rental_span s JOIN rental r ON r.id = s.rental_id WHERE s.rental_id = :id"
)
"""Follows whatever changes a stretch of cost, in the same transaction."""


async def _ask(world: World, team_id: str, *questions: Question, **values: Any) -> Any:
    async with world.database.glance() as glance:
        rows = await glance.enter_and_ask(_TEAM, *questions, values={"team": team_id, **values})
    return rows[0] if rows else None


async def read_rental(world: World, team_id: str, rental_id: str) -> Rental:
    """Read one rental, as it is now.

    Errors: LookupError where the team has none of this id.
    """
    row = await _ask(world, team_id, _READ, id=rental_id)
    if row is None:
        raise LookupError(f"there is no rental {rental_id}")
    return Rental(**row._asdict())


async def read_wish(world: World, team_id: str, instance_id: str) -> dict[str, Any]:
    """Read what an instance was wished to be.

    Errors: LookupError where the team has none of this id.
    """
    row = await _ask(world, team_id, _WISH, id=instance_id)
    if row is None:
        raise LookupError(f"there is no instance {instance_id}")
    return dict(row._asdict())


async def what_is_left(world: World, team_id: str, instance_id: str) -> tuple[str | None, list[str]]:
    """Read which operation on an instance has not ended, the oldest, and which rentals are not seen to be released."""
    row = await _ask(world, team_id, _LEFT, instance=instance_id)
    return row.operation, list(row.rentals or ())


async def write_asked(world: World, rental: Rental, offer: dict[str, Any]) -> bool:
    """Write that the provider is about to be asked, for which offer: from here on a machine may exist.

    False where the rental was released meanwhile: then nobody may ask.
    """
    return await _ask(world, rental.team_id, _ASKED, id=rental.id, offer=Jsonb(offer)) is not None


async def write_not_asked(world: World, rental: Rental) -> None:
    """Write that the provider certainly carried nothing out: no machine of this label exists, and it may be asked."""
    await _ask(world, rental.team_id, _NOT_ASKED, id=rental.id)


async def write_rented(world: World, rental: Rental, machine_id: str, disk_hour_nano: int, at: datetime) -> bool:
    """Write which machine a rental is, and begin the cost of its disk; False where it was released meanwhile."""
    span = {"span": new_id("spn"), "kind": "disk", "rate": disk_hour_nano, "at": at}
    return await _ask(world, rental.team_id, _RENTED, _METERED, id=rental.id, machine=machine_id, **span) is not None


async def open_gpu(world: World, rental: Rental, rate_hour_nano: int, at: datetime) -> None:
    """Begin the cost of a machine's GPU, where it does not run already and the rental is not released."""
    span = {"span": new_id("spn"), "kind": "gpu", "rate": rate_hour_nano, "at": at}
    await _ask(world, rental.team_id, _OPEN_SPAN, _METERED, id=rental.id, **span)


async def write_up(world: World, rental: Rental, facts: Mapping[str, Any], disk_hour_nano: int | None) -> None:
    """Write how to reach a machine for the first time, and what its disk has cost from the beginning.

    Shapes: `facts` holds columns of the rental: offer, address, host_key, workspace_root and so on.
    """
    values = {name: Jsonb(value) if isinstance(value, dict) else value for name, value in facts.items()}
    await _ask(world, rental.team_id, _UP, _METERED, id=rental.id, rate=disk_hour_nano, **values)


async def write_released(world: World, rental: Rental, reason: str, at: datetime) -> None:
    """Write that a machine was seen gone, and end all of its cost.

    The row comes first: who opens a stretch of cost locks it, and either is closed here or finds it released.
    """
    await _ask(world, rental.team_id, _RELEASED, _CLOSED, _METERED, id=rental.id, reason=reason, at=at)
