"""What is read and written of instances, rentals and their costs, one named function each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Result,
    Row,
    Select,
    Text,
    any_,
    bindparam,
    case,
    cast,
    func,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.billing import Stretch, follow_stretch
from dumont.core import new_id
from dumont.db import Glance, Question
from dumont.durable import live_operation_id
from dumont.instances.model import Instance, Rental, RentalSpan, Status

_I, _R, _S = Instance.__table__.c, Rental.__table__.c, RentalSpan.__table__.c
LABEL = func.coalesce(_I.label, "")
_MACHINE = Rental.__table__.alias("machine")
_SECONDS = func.extract(
    "epoch", func.greatest(func.coalesce(_S.to_at, bindparam("shown_now")) - _S.from_at, timedelta(0))
)
COST = (
    select(cast(func.round(func.sum(_S.rate_hour_nano * _SECONDS / 3600)), BigInteger))
    .join(_MACHINE, _MACHINE.c.id == _S.rental_id)
    .where(_MACHINE.c.instance_id == _I.id)
    .scalar_subquery()
)
"""What an instance has cost so far on all its machines; null means nothing yet. Units: nano-dollars."""
_TOLD = (
    " RETURNING id, team_id, rental_id, kind, rate_hour_nano, from_at, to_at, "
    "(SELECT r.instance_id FROM rental r WHERE r.id = rental_id) AS instance_id"
)
"""What the meters must know of every stretch of cost that is begun, changed or ended."""
_AGE = cast(func.extract("epoch", bindparam("shown_now") - _I.started_at), BigInteger)
_SHOWN: Select[Any] = select(
    *(column for column in _I if column.name not in ("team_id", "created_by", "onstart_cmd", "label", "ports")),
    LABEL.label("label"),
    _I.price_hour_nano.label("price_hour"),
    *(
        _R[name]
        for name in ("provider_machine_id", "machine_id", "geolocation", "country", "workspace_root", "address")
    ),
    *(_R[name] for name in ("ports", "public_ip", "offer", "host_key")),
    case((_I.status == Status.RUNNING.value, func.greatest(_AGE, 0))).label("uptime_seconds"),
    COST.label("cost_nano"),
    live_operation_id(_I.id).label("operation_id"),
).outerjoin(Rental.__table__, _R.id == _I.rental_id)
"""All that is shown of instances, by tables and not by classes: rows that are only read need no objects."""
_SHOWN_ONE = _SHOWN.where(_I.id == bindparam("shown_id"))
_SHOWN_ONE_GLANCE = Question(_SHOWN_ONE)


@dataclass(frozen=True)
class Wanted:
    """Which instances a list shall hold; what is not given narrows nothing, but the destroyed are left out."""

    statuses: Sequence[str] = ()
    label: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    provider: str | None = None
    gpu_name: str | None = None
    include_destroyed: bool = False

    def narrow(self, statement: Select[Any]) -> Select[Any]:
        """Return the statement with these conditions."""
        if self.statuses:
            statement = statement.where(_I.status == any_(cast(list(self.statuses), ARRAY(Text))))
        elif not self.include_destroyed:
            statement = statement.where(_I.status != Status.DESTROYED.value)
        if self.labels:
            statement = statement.where(_I.labels.contains(dict(self.labels)))
        for column, value in ((_I.label, self.label), (_I.provider, self.provider), (_I.gpu_name, self.gpu_name)):
            if value is not None:
                statement = statement.where(column == value)
        return statement


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


async def get_rental(session: AsyncSession, rental_id: str) -> Rental:
    """Read one rental, as it is now."""
    statement = select(Rental).where(Rental.id == rental_id).execution_options(populate_existing=True)
    return (await session.scalars(statement)).one()


async def change_rental(session: AsyncSession, rental_id: str, **values: Any) -> None:
    """Write columns of one rental."""
    await session.execute(update(Rental).where(Rental.id == rental_id).values(**values))


async def glance_at(glance: Glance, instance_id: str, now: datetime) -> Any | None:
    """Read all that is shown of one instance, as the one question of a glance."""
    rows = await glance.ask(_SHOWN_ONE_GLANCE, {"shown_id": instance_id, "shown_now": now})
    return rows[0] if rows else None


async def shown(session: AsyncSession, instance_id: str, now: datetime) -> Row[Any] | None:
    """Read all that is shown of one instance, in one round trip; what is pending must be flushed before."""
    rows: Sequence[Row[Any]] = (await session.execute(_SHOWN_ONE, {"shown_id": instance_id, "shown_now": now})).all()
    return rows[0] if rows else None


async def open_span(
    session: AsyncSession, *, team_id: str, rental_id: str, kind: str, rate_hour_nano: int, at: datetime
) -> None:
    """Begin a stretch of cost; does nothing where one of that kind is open already, or the rental is released.

    Guarantees: a worker that thaws after others released the rental opens nothing that nobody would close.
    """
    opened = await session.execute(
        text(
            "INSERT INTO rental_span (id, team_id, rental_id, kind, rate_hour_nano, from_at) "
            "SELECT :id, :team, id, :kind, :rate, :at FROM rental WHERE id = :rental AND state <> 'released' FOR SHARE "
            f"ON CONFLICT (rental_id, kind) WHERE to_at IS NULL DO NOTHING{_TOLD}"
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
    await _tell_meters(session, opened)


async def turn_span(session: AsyncSession, rental: Rental, kind: str, rate_hour_nano: int, at: datetime) -> None:
    """Go on at another rate from here, where an open stretch has another one. Locks the rental before its stretches."""
    closed = await session.execute(
        text(
            "WITH held AS (SELECT id FROM rental WHERE id = :rental FOR SHARE) "
            "UPDATE rental_span AS s SET to_at = greatest(s.from_at, :at) FROM held "
            "WHERE s.rental_id = held.id AND s.kind = :kind AND s.to_at IS NULL AND s.rate_hour_nano <> :rate "
            "RETURNING s.id, s.team_id, s.rental_id, s.kind, s.rate_hour_nano, s.from_at, s.to_at, "
            "(SELECT r.instance_id FROM rental r WHERE r.id = s.rental_id) AS instance_id"
        ),
        {"at": at, "rental": rental.id, "kind": kind, "rate": rate_hour_nano},
    )
    if await _tell_meters(session, closed):
        await open_span(
            session, team_id=rental.team_id, rental_id=rental.id, kind=kind, rate_hour_nano=rate_hour_nano, at=at
        )


async def close_spans(session: AsyncSession, rental_id: str, kinds: Sequence[str], at: datetime) -> None:
    """End the open stretches of cost of these kinds."""
    for kind in kinds:
        closed = await session.execute(
            text(
                "UPDATE rental_span SET to_at = greatest(from_at, :at) "
                f"WHERE rental_id = :rental AND kind = :kind AND to_at IS NULL{_TOLD}"
            ),
            {"at": at, "rental": rental_id, "kind": kind},
        )
        await _tell_meters(session, closed)


async def continue_span(session: AsyncSession, rental_id: str, kind: str, ended_at: datetime) -> None:
    """Go on with a stretch of cost from where it was ended, at its rate; does nothing where none ended there."""
    continued = await session.execute(
        text(
            "INSERT INTO rental_span (id, team_id, rental_id, kind, rate_hour_nano, from_at) "
            "SELECT :id, team_id, rental_id, kind, rate_hour_nano, to_at FROM rental_span "
            "WHERE rental_id = :rental AND kind = :kind AND to_at = :at ORDER BY from_at DESC, id DESC LIMIT 1 "
            f"ON CONFLICT (rental_id, kind) WHERE to_at IS NULL DO NOTHING{_TOLD}"
        ),
        {"id": new_id("spn"), "rental": rental_id, "kind": kind, "at": ended_at},
    )
    await _tell_meters(session, continued)


async def _tell_meters(session: AsyncSession, spans: Result[Any]) -> int:
    """Have the stretches that a statement returned counted by their meters; returns how many there were."""
    rows = spans.all()
    for row in rows:
        await follow_stretch(session, Stretch(**row._mapping))
    return len(rows)


async def release_rental(session: AsyncSession, rental_id: str, reason: str, at: datetime) -> None:
    """Write that a rental's machine is gone and costs nothing from that moment on.

    The row comes first: who opens a stretch of cost locks it, and either is closed here or finds it released.
    """
    await session.execute(
        update(Rental)
        .where(Rental.id == rental_id)
        .values(state="released", released_at=at, released_real_at=func.clock_timestamp(), reason=reason)
    )
    await close_spans(session, rental_id, ["gpu", "disk"], at)


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
