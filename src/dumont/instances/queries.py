"""What is read and written of instances, rentals and their costs, one named function each."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import new_id
from dumont.http import Page
from dumont.instances.model import Instance, Rental, Status

_SORTS = {
    "id": Instance.id,
    "created_at": Instance.created_at,
    "price_hour": Instance.price_hour_nano,
    "status": Instance.status,
}


async def get(session: AsyncSession, instance_id: str) -> Instance | None:
    """Read one instance of the session's team."""
    statement = select(Instance).where(Instance.id == instance_id).execution_options(populate_existing=True)
    return (await session.scalars(statement)).one_or_none()


async def get_locked(session: AsyncSession, instance_id: str) -> Instance | None:
    """Read one instance and hold its row lock to the end of the transaction."""
    statement = (
        select(Instance).where(Instance.id == instance_id).with_for_update().execution_options(populate_existing=True)
    )
    return (await session.scalars(statement)).one_or_none()


async def left_destroying(session: AsyncSession) -> Sequence[tuple[str, str]]:
    """Read (team, instance) of instances of all teams that are destroying while no operation works on them."""
    found = await session.execute(
        text(
            "SELECT team_id, id FROM instance i WHERE status = 'destroying' AND NOT EXISTS (SELECT FROM operation o "
            "WHERE o.instance_id = i.id AND o.status IN ('queued', 'running', 'cancelling')) ORDER BY id"
        )
    )
    return [(str(row[0]), str(row[1])) for row in found]


async def get_rental(session: AsyncSession, rental_id: str) -> Rental:
    """Read one rental, as it is now."""
    statement = select(Rental).where(Rental.id == rental_id).execution_options(populate_existing=True)
    return (await session.scalars(statement)).one()


async def open_rentals(session: AsyncSession, instance_id: str) -> Sequence[Rental]:
    """Read the rentals of an instance that are not seen to be released."""
    statement = select(Rental).where(Rental.instance_id == instance_id, Rental.state != "released").order_by(Rental.id)
    return (await session.scalars(statement)).all()


async def change_rental(session: AsyncSession, rental_id: str, **values: Any) -> None:
    """Write columns of one rental."""
    await session.execute(update(Rental).where(Rental.id == rental_id).values(**values))


async def listing(
    session: AsyncSession, page: Page, *, statuses: Sequence[str], label: str | None, include_destroyed: bool
) -> Sequence[Instance]:
    """Read a page of instances, and one more to know whether there is a next."""
    statement = select(Instance)
    if statuses:
        statement = statement.where(Instance.status.in_(statuses))
    elif not include_destroyed:
        statement = statement.where(Instance.status != Status.DESTROYED.value)
    if label is not None:
        statement = statement.where(Instance.label == label)
    return (await session.scalars(page.select(statement, _SORTS))).all()


async def rentals_by_id(session: AsyncSession, rental_ids: Sequence[str]) -> dict[str, Rental]:
    """Read rentals by their ids."""
    found = await session.scalars(select(Rental).where(Rental.id.in_(rental_ids)))
    return {rental.id: rental for rental in found}


async def open_span(
    session: AsyncSession, *, team_id: str, rental_id: str, kind: str, rate_hour_nano: int, at: datetime
) -> None:
    """Begin a stretch of cost; does nothing where one of that kind is open already."""
    await session.execute(
        text(
            "INSERT INTO rental_span (id, team_id, rental_id, kind, rate_hour_nano, from_at) "
            "VALUES (:id, :team, :rental, :kind, :rate, :at) "
            "ON CONFLICT (rental_id, kind) WHERE to_at IS NULL DO NOTHING"
        ),
        {
            "id": new_id("spn"),
            "team": team_id,
            "rental": rental_id,
            "kind": kind,
            "rate": rate_hour_nano,
            "at": at,
        },
    )


async def close_spans(session: AsyncSession, rental_id: str, kinds: Sequence[str], at: datetime) -> None:
    """End the open stretches of cost of these kinds."""
    for kind in kinds:
        await session.execute(
            text(
                "UPDATE rental_span SET to_at = greatest(from_at, :at) "
                "WHERE rental_id = :rental AND kind = :kind AND to_at IS NULL"
            ),
            {"at": at, "rental": rental_id, "kind": kind},
        )


async def costs(session: AsyncSession, instance_ids: Sequence[str], now: datetime) -> dict[str, int]:
    """Sum what instances have cost so far. Units: nano-dollars by instance id; absent means nothing yet."""
    found = await session.execute(
        text(
            "SELECT r.instance_id, round(sum(s.rate_hour_nano * extract(epoch FROM "
            "greatest(coalesce(s.to_at, :now) - s.from_at, interval '0')) / 3600))::bigint "
            "FROM rental_span s JOIN rental r ON r.id = s.rental_id "
            "WHERE r.instance_id = ANY(:ids) GROUP BY r.instance_id"
        ),
        {"now": now, "ids": list(instance_ids)},
    )
    return {row[0]: int(row[1]) for row in found}


async def rental_costs(session: AsyncSession, instance_id: str, now: datetime) -> dict[str, dict[str, int]]:
    """Sum what each machine of an instance has cost so far, by kind. Units: nano-dollars."""
    found = await session.execute(
        text(
            "SELECT s.rental_id, s.kind, round(sum(s.rate_hour_nano * extract(epoch FROM "
            "greatest(coalesce(s.to_at, :now) - s.from_at, interval '0')) / 3600))::bigint "
            "FROM rental_span s JOIN rental r ON r.id = s.rental_id "
            "WHERE r.instance_id = :id GROUP BY s.rental_id, s.kind"
        ),
        {"now": now, "id": instance_id},
    )
    costs: dict[str, dict[str, int]] = {}
    for rental_id, kind, nano in found:
        costs.setdefault(rental_id, {})[kind] = int(nano)
    return costs


async def rentals_of(session: AsyncSession, instance_id: str) -> Sequence[Rental]:
    """Read every rental that an instance ever had, oldest first."""
    statement = select(Rental).where(Rental.instance_id == instance_id).order_by(Rental.id)
    return (await session.scalars(statement)).all()
