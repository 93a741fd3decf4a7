"""What the watch over machines reads and writes, of all teams, one named function each."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb
from sqlalchemy import BigInteger, DateTime, Row, Text, column, select, table, text
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import new_id
from dumont.http import Page
from dumont.instances.model import GONE
from dumont.providers import Machine

_TAKE = text(
    "INSERT INTO watch_turn AS t (name, next_at) VALUES (:name, clock_timestamp() + :seconds * interval '1 second') "
    "ON CONFLICT (name) DO UPDATE SET next_at = excluded.next_at "
    "WHERE t.next_at <= clock_timestamp() OR t.next_at > clock_timestamp() + :seconds * interval '1 second' RETURNING 1"
)
"""A turn further away than one period was set by a longer period, or by another clock: it is taken at once.

The time is read again where the row is there already: who has waited for another's turn must not find it far away.
"""
_LEFT = text(
    "SELECT greatest(0, extract(epoch FROM next_at - clock_timestamp()))::float FROM watch_turn WHERE name = :name"
)
_KEEP = text(
    "UPDATE watch_turn SET next_at = greatest(next_at, clock_timestamp() + :seconds * interval '1 second') "
    "WHERE name = :name"
)
_END = text("UPDATE watch_turn SET ended_at = clock_timestamp(), detail = :detail WHERE name = :name")
_OPEN = text(
    "SELECT r.id AS rental_id, r.team_id, r.instance_id, r.operation_id, r.provider, r.label, r.state, "
    "r.provider_machine_id, r.host_key, r.offer->>'machine_type' = 'interruptible' AS interruptible, "
    "i.status, i.version, i.rental_id IS NOT DISTINCT FROM r.id AS held, i.last_snapshot_id IS NOT NULL AS saved, "
    "EXISTS (SELECT FROM operation o WHERE o.instance_id = i.id AND o.status IN ('queued', 'running', 'cancelling')) "
    "AS busy, "
    "EXISTS (SELECT FROM rental_span s WHERE s.rental_id = r.id AND s.kind = 'gpu' AND s.to_at IS NULL) AS gpu_costs, "
    "coalesce((SELECT extract(epoch FROM clock_timestamp() - max(o.finished_at)) FROM operation o "
    "WHERE o.instance_id = i.id), 0)::float AS quiet_seconds "
    "FROM rental r JOIN instance i ON i.id = r.instance_id WHERE r.state <> 'released' ORDER BY r.id"
)
_BY_LABEL = text(
    "SELECT r.id, r.team_id, r.instance_id, r.provider, r.label, r.state, r.provider_machine_id, "
    "r.state = 'released' AND r.reason = :gone AND i.rental_id IS NULL AND i.status NOT IN ('destroying', 'destroyed') "
    "AS missed FROM rental r JOIN instance i ON i.id = r.instance_id WHERE r.label = ANY(:labels)"
)
_NOTE_STRAY = text(
    "INSERT INTO stray_machine AS s (id, team_id, provider, provider_machine_id, label, rental_id, kind, action, "
    "state, price_hour_nano, first_seen_at, last_seen_at) "
    "VALUES (:id, :team_id, :provider, :machine, :label, :rental_id, :kind, :action, :state, :price, :at, :at) "
    "ON CONFLICT (provider, provider_machine_id) DO UPDATE SET kind = excluded.kind, action = excluded.action, "
    "team_id = excluded.team_id, rental_id = excluded.rental_id, label = excluded.label, state = excluded.state, "
    "price_hour_nano = excluded.price_hour_nano, last_seen_at = excluded.last_seen_at "
    "RETURNING xmax = 0 AS is_new"
)
_LEFT_DESTROYING = text(
    "SELECT team_id, id FROM instance i WHERE status = 'destroying' AND NOT EXISTS (SELECT FROM operation o "
    "WHERE o.instance_id = i.id AND o.status IN ('queued', 'running', 'cancelling')) ORDER BY id"
)
_TURNS = text(
    "SELECT name, extract(epoch FROM clock_timestamp() - ended_at)::float AS ended, detail FROM watch_turn "
    "WHERE ended_at IS NOT NULL"
)
_STRAYS = text(
    "SELECT kind, action, provider, provider_machine_id, label, state, price_hour_nano FROM stray_machine "
    "WHERE last_seen_at >= CAST(:since AS timestamptz) ORDER BY id"
)
_COSTLY = text(
    "SELECT i.id FROM instance i JOIN rental r ON r.instance_id = i.id AND r.state = 'rented' "
    "WHERE i.status = 'failed' ORDER BY i.id"
)
_STRAY = table(
    "stray_machine",
    column("id", Text),
    *(
        column(name, Text)
        for name in ("provider", "provider_machine_id", "label", "rental_id", "kind", "action", "state")
    ),
    column("price_hour_nano", BigInteger),
    *(column(name, DateTime(timezone=True)) for name in ("first_seen_at", "last_seen_at")),
)
StrayRow = Row[Any]


@dataclass(frozen=True)
class OpenRental:
    """A rental that is not released, with its instance: `held` is the instance's machine, `busy` has an operation.

    `gpu_costs`: a stretch of GPU cost is open. `quiet_seconds`: real time since the last operation on it ended.
    """

    rental_id: str
    team_id: str
    instance_id: str
    operation_id: str
    provider: str
    label: str
    state: str
    provider_machine_id: str | None
    host_key: str | None
    interruptible: bool
    status: str
    version: int
    held: bool
    saved: bool
    busy: bool
    gpu_costs: bool
    quiet_seconds: float


@dataclass(frozen=True)
class KnownLabel:
    """A rental of any state by its label; `missed`: believed gone, and its instance has no other machine."""

    id: str
    team_id: str
    instance_id: str
    provider: str
    label: str
    state: str
    provider_machine_id: str | None
    missed: bool = False


@dataclass(frozen=True)
class Stray:
    """A machine of the account that no row owns, and what was done about it."""

    machine: Machine
    provider: str
    kind: str
    action: str
    known: KnownLabel | None


@dataclass(frozen=True)
class WatchReport:
    """What the last turns found: seconds since each ended, what the last sweep saw, and failed instances that cost."""

    ended_seconds: dict[str, float]
    sweep: dict[str, Any]
    strays: list[dict[str, Any]]
    failed_with_machine: list[str]


async def watch_report(session: AsyncSession) -> WatchReport:
    """Read what the watch knows, of all teams."""
    turns = (await session.execute(_TURNS)).all()
    sweep: dict[str, Any] = next((row.detail for row in turns if row.name == "sweep"), {})
    since = sweep.get("at", "infinity")
    strays = [dict(row._mapping) for row in await session.execute(_STRAYS, {"since": since})]
    failed = [str(row[0]) for row in await session.execute(_COSTLY)]
    return WatchReport({row.name: float(row.ended) for row in turns}, sweep, strays, failed)


async def take_turn(session: AsyncSession, name: str, seconds: float) -> float:
    """Take the turn of that name if it is due, and set the next; returns 0, or the seconds until it is due."""
    values = {"name": name, "seconds": seconds}
    if (await session.execute(_TAKE, values)).first() is not None:
        return 0.0
    return max(0.01, float((await session.execute(_LEFT, {"name": name})).scalar_one()))


async def keep_turn(session: AsyncSession, name: str, seconds: float) -> None:
    """Let nobody else take the turn for so long."""
    await session.execute(_KEEP, {"name": name, "seconds": seconds})


async def end_turn(session: AsyncSession, name: str, detail: dict[str, Any]) -> None:
    """Write when a turn ended and what it found."""
    await session.execute(_END, {"name": name, "detail": Jsonb(detail)})


async def open_rentals(session: AsyncSession) -> list[OpenRental]:
    """Read every rental that is not released; one statement, so that no operation is seen half begun."""
    return [OpenRental(**row._mapping) for row in await session.execute(_OPEN)]


async def by_label(session: AsyncSession, labels: Sequence[str]) -> dict[str, KnownLabel]:
    """Read the rentals that have these labels, whatever became of them."""
    if not labels:
        return {}
    found = await session.execute(_BY_LABEL, {"labels": list(labels), "gone": GONE})
    return {row.label: KnownLabel(**row._mapping) for row in found}


async def note_stray(session: AsyncSession, stray: Stray, at: datetime) -> bool:
    """Write down a stray machine; tells whether it was never seen before."""
    values = {
        "id": new_id("str"),
        "team_id": stray.known.team_id if stray.known else None,
        "provider": stray.provider,
        "machine": stray.machine.id,
        "label": stray.machine.label,
        "rental_id": stray.known.id if stray.known else None,
        "kind": stray.kind,
        "action": stray.action,
        "state": stray.machine.state.value,
        "price": stray.machine.price_hour_nano,
        "at": at,
    }
    return bool((await session.execute(_NOTE_STRAY, values)).scalar_one())


async def strays_of_team(session: AsyncSession, page: Page) -> Sequence[StrayRow]:
    """Read a page of the team's strays, and one more to know whether there is a next."""
    columns = {"id": _STRAY.c.id, "first_seen_at": _STRAY.c.first_seen_at}
    rows: Sequence[StrayRow] = (await session.execute(page.select(select(_STRAY), columns))).all()
    return rows


async def left_destroying(session: AsyncSession) -> list[tuple[str, str]]:
    """Read (team, instance) of instances that are destroying while no operation works on them."""
    return [(str(row[0]), str(row[1])) for row in await session.execute(_LEFT_DESTROYING)]
