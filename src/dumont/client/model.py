"""Documents of the API as typed records: unknown fields are kept in `raw`, missing or odd ones read as None."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar, get_args, get_origin

from dumont.client.problems import ApiProblem, ApiUnreadable, problem_of

T = TypeVar("T")

FINAL = frozenset({"succeeded", "failed", "cancelled"})
"""States in which an operation has ended."""


@dataclass(frozen=True)
class Money:
    """An amount and its ISO 4217 currency."""

    amount: Decimal
    currency: str


def read(kind: type[T], raw: Any) -> T:
    """Turn a JSON object into a record of that kind; the field types decide how each member is read.

    Errors: ApiUnreadable when it is no object or lacks a member that the kind cannot do without.
    """
    if not isinstance(raw, dict):
        raise ApiUnreadable(f"The server sent no {kind.__name__} where the API promises one.")
    values: dict[str, Any] = {}
    for entry in fields(kind):  # type: ignore[arg-type]
        value = raw if entry.name == "raw" else _value(entry.type, raw.get(entry.name))
        if value is None and entry.type is str:
            raise ApiUnreadable(f"The server sent a {kind.__name__} without {entry.name}.")
        values[entry.name] = value
    return kind(**values)


def _value(expected: Any, value: Any) -> Any:
    if get_origin(expected) is list:
        return [read(get_args(expected)[0], item) for item in value] if isinstance(value, list) else []
    reader = _READERS.get(expected)
    if reader is not None:
        return reader(value)
    if isinstance(value, expected):
        return value
    if isinstance(value, int) and isinstance(0.0, expected):
        return float(value)
    whole = isinstance(value, float) and value.is_integer() and isinstance(0, expected)
    return int(value) if whole else None


def read_money(value: Any) -> Money | None:
    """Read an amount of money, None where there is none to be read."""
    if not isinstance(value, dict):
        return None
    try:
        amount = Decimal(str(value.get("amount")))
    except InvalidOperation:
        return None
    return Money(amount, str(value.get("currency") or "USD")) if amount.is_finite() else None


def read_moment(value: Any) -> datetime | None:
    """Read a point in time, None where there is none to be read."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _problem(value: Any) -> ApiProblem | None:
    if not isinstance(value, dict):
        return None
    status = value.get("status")
    return problem_of(value, status if isinstance(status, int) else 500)


def _record(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


_READERS: dict[Any, Callable[[Any], Any]] = {
    Money | None: read_money,
    datetime | None: read_moment,
    ApiProblem | None: _problem,
    dict[str, Any] | None: _record,
}


@dataclass(frozen=True)
class Session:
    """What signing in gives. Units: `expires_in` in seconds."""

    access_token: str
    user_id: str | None
    email: str | None
    team_id: str | None
    role: str | None
    expires_in: int | None
    refresh_token: str | None
    raw: dict[str, Any]


@dataclass(frozen=True)
class SshKey:
    """A public key of the account."""

    id: str
    name: str | None
    fingerprint: str | None
    public_key: str | None
    created_at: datetime | None
    raw: dict[str, Any]


@dataclass(frozen=True)
class Offer:
    """A machine that may be rented. Units: `gpu_ram`, `cpu_ram`, `disk_space` in GB, `inet_*` in Mbps."""

    id: str
    provider: str | None
    gpu_name: str | None
    num_gpus: int | None
    gpu_ram: float | None
    gpu_memory_mib: int | None
    cpu_cores: float | None
    cpu_ram: float | None
    disk_space: float | None
    inet_down: float | None
    inet_up: float | None
    price_hour: Money | None
    geolocation: str | None
    country: str | None
    region: str | None
    reliability: float | None
    verified: bool | None
    cuda_version: str | None
    machine_type: str | None
    min_bid: Money | None
    performance_per_usd: float | None
    raw: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """How fresh one provider's share of the offers is."""

    provider: str | None
    status: str | None
    as_of: datetime | None
    detail: str | None
    raw: dict[str, Any]


@dataclass(frozen=True)
class OfferPage:
    """One page of offers, with the state of the providers that they come from."""

    offers: list[Offer]
    total: int | None
    next_cursor: str | None
    as_of: datetime | None
    sources: list[Source]
    raw: dict[str, Any]


@dataclass(frozen=True)
class Instance:
    """A rented machine and its life. Units: `disk_size_gb` in GB, `gpu_memory_mib` per GPU."""

    id: str
    status: str | None
    status_detail: str | None
    provider: str | None
    gpu_name: str | None
    num_gpus: int | None
    gpu_memory_mib: int | None
    cpu_cores: int | None
    disk_size_gb: float | None
    image: str | None
    label: str | None
    labels: dict[str, Any] | None
    machine_type: str | None
    price_hour: Money | None
    paused_cost_hour: Money | None
    ssh_host: str | None
    ssh_port: int | None
    geolocation: str | None
    country: str | None
    created_at: datetime | None
    started_at: datetime | None
    uptime_seconds: int | None
    paused_at: datetime | None
    hibernated_at: datetime | None
    destroyed_at: datetime | None
    cost_to_date: Money | None
    last_snapshot_id: str | None
    machine_kept: bool | None
    operation_id: str | None
    protected: bool | None
    version: int | None
    raw: dict[str, Any]


@dataclass(frozen=True)
class SshAccess:
    """How to reach an instance; `host_key` is the whole public key (`type base64`)."""

    host: str | None
    port: int | None
    user: str | None
    command: str | None
    host_key: str | None
    host_key_fingerprint: str | None
    workspace_root: str | None
    ready: bool | None
    raw: dict[str, Any]


@dataclass(frozen=True)
class Hibernation:
    """The sleep of one instance."""

    monitor_status: str | None
    hibernated_at: datetime | None
    auto_delete_at: datetime | None
    snapshot_id: str | None
    machine_kept: bool | None
    raw: dict[str, Any]


@dataclass(frozen=True)
class Wallet:
    """A team's money for machines."""

    mode: str
    posted: Money | None
    held: Money | None
    available: Money | None
    credit_limit: Money | None
    owed: Money | None
    shown_back: Money | None
    burn_hour: Money | None
    runs_out_at: datetime | None
    low: bool | None
    auto_hibernate_at_zero: bool | None
    limit_hour: Money | None
    limit_day: Money | None
    limit_month: Money | None
    spent_day: Money | None
    spent_month: Money | None
    raw: dict[str, Any]


@dataclass(frozen=True)
class Snapshot:
    """A saved workspace."""

    id: str
    status: str | None
    instance_id: str | None
    files: int | None
    bytes_total: int | None
    bytes_new: int | None
    bytes_stored: int | None
    ratio: float | None
    created_at: datetime | None
    verified_at: datetime | None
    bytes_verified: int | None
    merkle_root: str | None
    raw: dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One step of an operation."""

    name: str
    status: str | None
    started_at: datetime | None
    finished_at: datetime | None
    bytes_done: int | None
    bytes_total: int | None
    attempts: int | None
    detail: str | None
    raw: dict[str, Any]


@dataclass(frozen=True)
class Operation:
    """Work that takes longer than a request."""

    id: str
    kind: str | None
    status: str | None
    percent: float | None
    current_step: str | None
    steps: list[Step]
    instance_id: str | None
    created_at: datetime | None
    finished_at: datetime | None
    deadline_at: datetime | None
    result: dict[str, Any] | None
    problem: ApiProblem | None
    raw: dict[str, Any]

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in FINAL


@dataclass(frozen=True)
class Event:
    """One piece of news about an operation: `name` is step, progress or done."""

    name: str
    data: dict[str, Any]
    id: str | None = None

    @property
    def operation(self) -> Operation | None:
        """The whole operation, where the news carries it."""
        whole = isinstance(self.data.get("steps"), list) and isinstance(self.data.get("id"), str)
        return read(Operation, self.data) if whole else None
