"""Instances and the machines rented for them: tables, states and what may follow what, problems."""

from datetime import datetime
from enum import Enum
from typing import Any

from sqlalchemy import BigInteger, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from dumont.core import Act, Problem
from dumont.db import Base


class Status(str, Enum):
    """Where an instance stands. `running` means that the machine answered on SSH, not that somebody said so.

    `interrupted`: the provider took the GPU away, the disk may be there. `offline`: the host is cut off or lost.
    """

    CREATING = "creating"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    OFFLINE = "offline"
    PAUSING = "pausing"
    PAUSED = "paused"
    RESUMING = "resuming"
    HIBERNATING = "hibernating"
    HIBERNATED = "hibernated"
    WAKING = "waking"
    MIGRATING = "migrating"
    DESTROYING = "destroying"
    DESTROYED = "destroyed"
    FAILED = "failed"


NEXT: dict[Status, frozenset[Status]] = {
    Status.CREATING: frozenset({Status.RUNNING, Status.FAILED, Status.DESTROYING}),
    Status.RUNNING: frozenset(
        {
            *(Status.PAUSING, Status.RESUMING, Status.HIBERNATING, Status.MIGRATING, Status.DESTROYING),
            *(Status.INTERRUPTED, Status.OFFLINE, Status.PAUSED),
        }
    ),
    Status.INTERRUPTED: frozenset(
        {Status.RUNNING, Status.OFFLINE, Status.PAUSED, Status.RESUMING, Status.WAKING, Status.DESTROYING}
    ),
    Status.OFFLINE: frozenset(
        {Status.RUNNING, Status.INTERRUPTED, Status.PAUSED, Status.RESUMING, Status.WAKING, Status.DESTROYING}
    ),
    Status.PAUSING: frozenset({Status.PAUSED, Status.RUNNING, Status.DESTROYING}),
    Status.PAUSED: frozenset({Status.RESUMING, Status.WAKING, Status.HIBERNATED, Status.OFFLINE, Status.DESTROYING}),
    Status.RESUMING: frozenset({Status.RUNNING, Status.PAUSED, Status.FAILED, Status.DESTROYING}),
    Status.HIBERNATING: frozenset({Status.HIBERNATED, Status.RUNNING, Status.DESTROYING}),
    Status.HIBERNATED: frozenset({Status.WAKING, Status.DESTROYING}),
    Status.WAKING: frozenset({Status.RUNNING, Status.HIBERNATED, Status.FAILED, Status.DESTROYING}),
    Status.MIGRATING: frozenset({Status.RUNNING, Status.DESTROYING}),
    Status.DESTROYING: frozenset({Status.DESTROYED, Status.DESTROYING}),
    Status.FAILED: frozenset({Status.DESTROYING}),
    Status.DESTROYED: frozenset(),
}
"""What may follow what; the only place that says so."""


GONE = "gone at the provider"
"""Why a rental was released whose machine was missing, and not destroyed by us: it may turn out to be there."""


class Instance(Base):
    """What a person rents and names; it keeps its id and its workspace while machines come and go.

    `disk_newer` says that the kept machine's processes may have written after the snapshot.
    """

    __tablename__ = "instance"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    team_id: Mapped[str] = mapped_column(Text)
    workspace_id: Mapped[str] = mapped_column(Text)
    created_by: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text)
    status_detail: Mapped[str | None] = mapped_column(Text)
    provider: Mapped[str] = mapped_column(Text)
    label: Mapped[str | None] = mapped_column(Text)
    labels: Mapped[dict[str, str]] = mapped_column(JSONB, default=dict)
    image: Mapped[str] = mapped_column(Text)
    env: Mapped[dict[str, str]] = mapped_column(JSONB)
    onstart_cmd: Mapped[str | None] = mapped_column(Text)
    ports: Mapped[list[int]] = mapped_column(JSONB, default=list)
    machine_type: Mapped[str] = mapped_column(Text, default="on-demand")
    bid_hour_nano: Mapped[int | None] = mapped_column(BigInteger)
    disk_gb: Mapped[float]
    gpu_name: Mapped[str] = mapped_column(Text)
    num_gpus: Mapped[int]
    gpu_memory_mib: Mapped[int]
    price_hour_nano: Mapped[int] = mapped_column(BigInteger)
    max_price_hour_nano: Mapped[int | None] = mapped_column(BigInteger)
    rental_id: Mapped[str | None] = mapped_column(Text)
    last_snapshot_id: Mapped[str | None] = mapped_column(Text)
    disk_newer: Mapped[bool]
    protected: Mapped[bool]
    version: Mapped[int]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    paused_at: Mapped[datetime | None]
    hibernated_at: Mapped[datetime | None]
    destroyed_at: Mapped[datetime | None]

    @property
    def price_hour(self) -> int:
        """The price under the name by which lists are sorted. Units: nano-dollars per hour."""
        return self.price_hour_nano


class Rental(Base):
    """One machine asked of a provider. The row and its label are committed before anybody is asked.

    `state`: intended -> asked -> rented -> released. `asked` without a machine means that the outcome is unknown.
    """

    __tablename__ = "rental"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    team_id: Mapped[str] = mapped_column(Text)
    instance_id: Mapped[str] = mapped_column(Text)
    operation_id: Mapped[str] = mapped_column(Text)
    provider: Mapped[str] = mapped_column(Text)
    label: Mapped[str] = mapped_column(Text, unique=True)
    state: Mapped[str] = mapped_column(Text)
    offer: Mapped[dict[str, Any]] = mapped_column(JSONB)
    provider_machine_id: Mapped[str | None] = mapped_column(Text)
    machine_id: Mapped[str] = mapped_column(Text)
    address: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    host_key: Mapped[str | None] = mapped_column(Text)
    workspace_root: Mapped[str | None] = mapped_column(Text)
    ports: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    public_ip: Mapped[str | None] = mapped_column(Text)
    geolocation: Mapped[str | None] = mapped_column(Text)
    country: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]
    rented_at: Mapped[datetime | None]
    released_at: Mapped[datetime | None]
    released_real_at: Mapped[datetime | None]
    reason: Mapped[str | None] = mapped_column(Text)


class RentalSpan(Base):
    """A stretch of product time in which a machine costs one rate: `disk` from rent to release, `gpu` while it runs."""

    __tablename__ = "rental_span"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    team_id: Mapped[str] = mapped_column(Text)
    rental_id: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text)
    rate_hour_nano: Mapped[int] = mapped_column(BigInteger)
    from_at: Mapped[datetime]
    to_at: Mapped[datetime | None]


class InstanceNotFound(Problem):
    """No instance of this team has this id."""

    code, status, act = "instance-not-found", 404, Act.FIX
    title = "There is no such instance"


class OperationInProgress(Problem):
    """Another operation on the instance has not ended; extra: operation_id."""

    code, status, act = "operation-in-progress", 409, Act.WAIT
    title = "Another operation is running on this instance"


class InstanceProtected(Problem):
    """The instance is protected from destruction."""

    code, status, act = "instance-protected", 409, Act.FIX
    title = "The instance is protected"


class InstanceNotRunning(Problem):
    """The machine is not running, so nobody can log in."""

    code, status, act = "instance-not-running", 409, Act.FIX
    title = "The instance is not running"


class VersionMismatch(Problem):
    """Somebody changed the resource since the caller read it; extra: version, which it has now."""

    code, status, act = "version-mismatch", 412, Act.FIX
    title = "It was changed in the meantime"


class CreationTimeout(Problem):
    """The machine did not come up in time and was given back."""

    code, status, act = "creation-timeout", 503, Act.WAIT
    title = "The machine did not come up in time"


class SshUnreachable(Problem):
    """The machine does not answer on SSH; it may be alive."""

    code, status, act = "ssh-unreachable", 503, Act.WAIT
    title = "The machine does not answer"


class AgentUnfit(Problem):
    """Our agent cannot do its work on this machine; the detail says why."""

    code, status, act = "agent-unfit", 409, Act.REPORT
    title = "The agent cannot work on this machine"


class HostLost(Problem):
    """The machine is gone or its host is cut off."""

    code, status, act = "host-lost", 503, Act.WAIT
    title = "The host was lost"


class HostKeyMismatch(Problem):
    """The machine shows another host key than the one that we pinned; nothing was sent to it."""

    code, status, act = "host-key-changed", 409, Act.REPORT
    title = "The machine's host key has changed"


class RentInDoubt(Problem):
    """The provider's answer to a rent was lost, and no machine of that label was found in time."""

    code, status, act = "rent-in-doubt", 503, Act.WAIT
    title = "The rent may or may not have happened"
