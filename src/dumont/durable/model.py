"""Operations: work longer than a request, as people see it, with its problems."""

from datetime import datetime
from enum import Enum
from typing import Any

from sqlalchemy import Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from dumont.core import Act, Problem
from dumont.db import Base


class OperationStatus(str, Enum):
    """Where an operation stands; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing more will happen."""
        return self in (OperationStatus.SUCCEEDED, OperationStatus.FAILED, OperationStatus.CANCELLED)


class Operation(Base):
    """One long act on one resource. `input` holds ids and wishes, never secrets; `steps` is for people's eyes."""

    __tablename__ = "operation"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    team_id: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text)
    workflow: Mapped[str] = mapped_column(Text)
    resource_type: Mapped[str] = mapped_column(Text)
    resource_id: Mapped[str] = mapped_column(Text)
    instance_id: Mapped[str | None] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text)
    percent: Mapped[int | None]
    current_step: Mapped[str | None] = mapped_column(Text)
    steps: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    input: Mapped[dict[str, Any]] = mapped_column(JSONB)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    problem: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    cancellable: Mapped[bool]
    cancel_requested: Mapped[bool]
    requested_by: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    deadline_at: Mapped[datetime]
    alarmed_at: Mapped[datetime | None]


class InstanceBusy(Exception):
    """Another operation works on the instance."""


class DeadlineExceeded(Problem):
    """The operation did not end in the time that it was given, and was undone."""

    code, status, act = "deadline-exceeded", 503, Act.WAIT
    title = "The operation took longer than its deadline and was undone"


class Cancelled(Problem):
    """Somebody cancelled the operation, and it was undone."""

    code, status, act = "cancelled", 409, Act.FIX
    title = "The operation was cancelled and undone"


class OperationFinished(Problem):
    """The operation has ended already, so it cannot be cancelled."""

    code, status, act = "operation-finished", 409, Act.FIX
    title = "The operation has ended already"


class NotCancellable(Problem):
    """This operation goes on to its end: stopping it half-way would leave something that costs."""

    code, status, act = "not-cancellable", 409, Act.FIX
    title = "This operation cannot be cancelled"


class StepFailed(Problem):
    """A step failed in a way that no rule foresaw; the log holds the cause under the operation's id."""

    code, status, act = "step-failed", 500, Act.REPORT
    title = "A step failed on our side"
