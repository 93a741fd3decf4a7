"""How an instance is shown."""

import base64
import binascii
import hashlib
import shlex
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from dumont.http import MoneyDocument, money
from dumont.instances.model import Rental, Status


class PortDocument(BaseModel):
    """Where a port of the machine can be reached from outside."""

    host: str
    port: int


class InstanceDocument(BaseModel):
    """An instance with its machine, if it has one; `ssh_host` and `ssh_port` only while it can be used."""

    id: str
    status: Status
    status_detail: str | None
    provider: str
    gpu_name: str
    num_gpus: int
    gpu_memory_mib: int
    image: str
    disk_size_gb: float
    env_names: list[str] = Field(description="Names alone: values may be secrets and are never shown.")
    label: str | None
    labels: dict[str, str]
    protected: bool
    machine_type: str
    bid_hour: MoneyDocument | None = Field(description="What is bid for the GPUs of an interruptible machine.")
    price_hour: MoneyDocument
    max_price_hour: MoneyDocument | None
    paused_cost_hour: MoneyDocument | None = Field(description="What the disk of its machine costs in every state.")
    cost_to_date: MoneyDocument
    cpu_cores: float | None
    cpu_ram: float | None = Field(description="GB that come with the offer.")
    workspace_id: str
    last_snapshot_id: str | None
    operation_id: str | None = Field(description="The operation that runs on it now.")
    version: int
    created_at: datetime
    started_at: datetime | None
    uptime_seconds: int | None
    paused_at: datetime | None
    hibernated_at: datetime | None
    destroyed_at: datetime | None
    provider_machine_id: str | None
    machine_id: str | None
    geolocation: str | None
    country: str | None
    workspace_root: str | None
    machine_kept: bool
    ssh_host: str | None
    ssh_port: int | None
    host_key_fingerprint: str | None
    public_ipaddr: str | None
    ports: dict[str, PortDocument] | None = Field(description="Open ports beside SSH's, as `8080/tcp`, while it runs.")


class LogLine(BaseModel):
    """One line of a log; when it was written, where the provider says so."""

    at: datetime | None
    text: str


class LogsDocument(BaseModel):
    """The last lines of a log, oldest first; `truncated` where there may be earlier ones."""

    lines: list[LogLine]
    source: Literal["container"]
    truncated: bool


class MachineDocument(BaseModel):
    """One machine that an instance had: where it was, when, and what it cost."""

    id: str
    provider: str
    provider_machine_id: str | None
    machine_id: str
    label: str
    state: Literal["intended", "asked", "rented", "released"]
    gpu_name: str
    num_gpus: int
    geolocation: str | None
    price_hour: MoneyDocument
    cost_gpu: MoneyDocument
    cost_disk: MoneyDocument
    operation_id: str
    rented_at: datetime | None
    released_at: datetime | None
    reason: str | None


class MachinesDocument(BaseModel):
    """Every machine that an instance had."""

    machines: list[MachineDocument]
    count: int
    total: int
    next_cursor: None


class SshDocument(BaseModel):
    """How to log in to a running instance; `host_key` is the pinned key whole, for a known_hosts file."""

    host: str
    port: int
    user: str
    command: str
    host_key: str | None
    host_key_fingerprint: str | None
    workspace_root: str | None
    ready: bool


_SHOWN_AS_IT_IS = (
    *("id", "status", "status_detail", "provider", "gpu_name", "num_gpus", "gpu_memory_mib", "image", "labels"),
    *("protected", "machine_type", "workspace_id", "last_snapshot_id", "version", "operation_id"),
    *("created_at", "started_at", "uptime_seconds", "paused_at", "hibernated_at", "destroyed_at"),
    *("provider_machine_id", "machine_id", "geolocation", "country", "workspace_root"),
)


def instance_document(row: Any) -> InstanceDocument:
    """Show an instance with its machine, if it has one, and what it has cost so far: a row of `queries.shown`."""
    runs, offer = row.status == Status.RUNNING, row.offer or {}
    address = row.address if runs else None
    return InstanceDocument(
        **{name: getattr(row, name) for name in _SHOWN_AS_IT_IS},
        label=row.label or None,
        env_names=sorted(row.env),
        disk_size_gb=row.disk_gb,
        price_hour=money(row.price_hour_nano),
        max_price_hour=_money(row.max_price_hour_nano),
        bid_hour=_money(row.bid_hour_nano),
        paused_cost_hour=_money(offer.get("disk_hour_nano")),
        cpu_cores=offer.get("cpu_cores"),
        cpu_ram=offer.get("cpu_ram_gb"),
        cost_to_date=money(row.cost_nano or 0),
        machine_kept=row.rental_id is not None and row.status == Status.HIBERNATED,
        ssh_host=address["host"] if address else None,
        ssh_port=address["port"] if address else None,
        host_key_fingerprint=fingerprint(row.host_key) if runs else None,
        public_ipaddr=row.public_ip if runs else None,
        ports=row.ports if runs else None,
    )


def _money(nano: int | None) -> MoneyDocument | None:
    return None if nano is None else money(nano)


def machine_document(rental: Rental, costs: dict[str, int]) -> MachineDocument:
    """Show one machine that an instance had; `costs` are nano-dollars by kind."""
    return MachineDocument(
        id=rental.id,
        provider=rental.provider,
        provider_machine_id=rental.provider_machine_id,
        machine_id=rental.machine_id,
        label=rental.label,
        state=rental.state,
        gpu_name=rental.offer["gpu_name"],
        num_gpus=rental.offer["num_gpus"],
        geolocation=rental.geolocation or rental.offer["geolocation"],
        price_hour=money(rental.offer["price_hour_nano"]),
        cost_gpu=money(costs.get("gpu", 0)),
        cost_disk=money(costs.get("disk", 0)),
        operation_id=rental.operation_id,
        rented_at=rental.rented_at,
        released_at=rental.released_at,
        reason=rental.reason,
    )


def ssh_document(rental: Rental) -> SshDocument:
    """Show how to log in: address, the pinned host key whole, and the command with its own known_hosts left out."""
    address = rental.address or {}
    target = f"{address['user']}@{address['host']}"
    return SshDocument(
        host=address["host"],
        port=address["port"],
        user=address["user"],
        command=shlex.join(["ssh", "-p", str(address["port"]), target]),
        host_key=rental.host_key,
        host_key_fingerprint=fingerprint(rental.host_key),
        workspace_root=rental.workspace_root,
        ready=True,
    )


def fingerprint(public_key: str | None) -> str | None:
    """Return OpenSSH's SHA256 fingerprint of a public key line; None where there is no readable key."""
    parts = (public_key or "").split()
    if len(parts) < 2:
        return None
    try:
        blob = base64.b64decode(parts[1], validate=True)
    except (ValueError, binascii.Error):
        return None
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
