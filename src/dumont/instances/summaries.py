"""Instances in a list: what tells them apart and how to reach them; the rest stands in each one's own document.

See docs/decisions/0017-short-lists.md.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Integer, Select, cast, select
from typing_extensions import TypedDict

from dumont.core import money_document
from dumont.db import Glance
from dumont.durable import live_operation_id
from dumont.http import MoneyDocument, Page
from dumont.instances.model import Instance, Rental, Status
from dumont.instances.queries import COST, LABEL, Wanted

_I, _R = Instance.__table__.c, Rental.__table__.c
_SORTS = {
    "id": _I.id,
    "created_at": _I.created_at,
    "price_hour": _I.price_hour_nano,
    "status": _I.status,
    "label": LABEL,
}
_LISTED: Select[Any] = select(
    *(
        _I[name]
        for name in ("id", "status", "status_detail", "provider", "gpu_name", "num_gpus", "labels", "protected")
    ),
    *(_I[name] for name in ("machine_type", "rental_id", "last_snapshot_id", "version", "created_at")),
    LABEL.label("label"),
    _I.price_hour_nano.label("price_hour"),
    _R.geolocation,
    _R.country,
    _R.address["host"].astext.label("ssh_host"),
    cast(_R.address["port"].astext, Integer).label("ssh_port"),
    COST.label("cost_nano"),
    live_operation_id(_I.id).label("operation_id"),
).outerjoin(Rental.__table__, _R.id == _I.rental_id)


class SummaryDocument(TypedDict):
    """An instance in a list; GET it by its id for all that is known of it."""

    id: str
    status: Status
    status_detail: str | None
    label: str | None
    labels: dict[str, str]
    provider: str
    gpu_name: str
    num_gpus: int
    machine_type: str
    protected: bool
    price_hour: MoneyDocument
    cost_to_date: MoneyDocument
    geolocation: str | None
    country: str | None
    ssh_host: str | None
    ssh_port: int | None
    last_snapshot_id: str | None
    machine_kept: bool
    operation_id: str | None
    version: int
    created_at: datetime


class InstancesDocument(BaseModel):
    """A page of instances."""

    instances: list[SummaryDocument]
    count: int
    total: int | None
    next_cursor: str | None


async def listing(glance: Glance, page: Page, now: datetime, wanted: Wanted) -> Sequence[Any]:
    """Read a page of instances, and one more to know whether there is a next, as the one question of a glance."""
    statement = page.select(wanted.narrow(_LISTED), _SORTS)
    return await glance.ask(statement, {"shown_now": now})


def summary(row: Any) -> dict[str, Any]:
    """Show a row of `listing` as a SummaryDocument, ready to be written."""
    runs = row.status == Status.RUNNING
    return {
        "id": row.id,
        "status": row.status,
        "status_detail": row.status_detail,
        "label": row.label or None,
        "labels": row.labels,
        "provider": row.provider,
        "gpu_name": row.gpu_name,
        "num_gpus": row.num_gpus,
        "machine_type": row.machine_type,
        "protected": row.protected,
        "price_hour": money_document(row.price_hour),
        "cost_to_date": money_document(row.cost_nano or 0),
        "geolocation": row.geolocation,
        "country": row.country,
        "ssh_host": row.ssh_host if runs else None,
        "ssh_port": row.ssh_port if runs else None,
        "last_snapshot_id": row.last_snapshot_id,
        "machine_kept": row.rental_id is not None and row.status == Status.HIBERNATED,
        "operation_id": row.operation_id,
        "version": row.version,
        "created_at": row.created_at,
    }
