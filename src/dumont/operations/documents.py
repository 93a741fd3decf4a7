"""How an operation and its news are shown."""

import json
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import NotRequired, TypedDict

from dumont.durable import Operation, OperationStatus
from dumont.http import MomentText, ProblemDocument

_EVENTS = {"operation.step": "step", "operation.progress": "progress"}


class StepDocument(TypedDict):
    """One step of an operation; what is not known yet is absent."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    name: str
    status: Literal["pending", "running", "done", "failed", "skipped"]
    attempts: NotRequired[int]
    started_at: NotRequired[MomentText]
    finished_at: NotRequired[MomentText]
    detail: NotRequired[str | None]
    bytes_done: NotRequired[int]
    bytes_total: NotRequired[int | None]
    bytes_second: NotRequired[int | None]
    seconds_left: NotRequired[float | None]
    ratio: NotRequired[float | None]


class ResourceDocument(BaseModel):
    """What an operation is about."""

    type: str
    id: str


class OperationDocument(BaseModel):
    """Work longer than a request: status, percent that never falls, steps, and its result or problem."""

    id: str
    kind: str
    status: OperationStatus
    percent: int | None = Field(ge=0, le=100)
    current_step: str | None
    steps: list[StepDocument]
    resource: ResourceDocument
    instance_id: str | None
    requested_by: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    deadline_at: datetime
    cancellable: bool
    result: dict[str, Any] | None = Field(description="What it made; the members depend on the kind.")
    problem: ProblemDocument | None


class OperationsDocument(BaseModel):
    """A page of operations."""

    operations: list[OperationDocument]
    count: int
    total: int | None
    next_cursor: str | None


class EventDocument(BaseModel):
    """One piece of news of an operation; `id` continues a stream through Last-Event-ID."""

    id: int
    at: datetime
    type: str
    data: dict[str, Any] = Field(description="What is new; the members depend on the type.")


class EventsDocument(BaseModel):
    """News of an operation so far, oldest first."""

    events: list[EventDocument]
    count: int


def operation_document(operation: Operation) -> OperationDocument:
    """Show an operation."""
    return OperationDocument(
        id=operation.id,
        kind=operation.kind,
        status=operation.status,
        percent=operation.percent,
        current_step=operation.current_step,
        steps=operation.steps,
        resource=ResourceDocument(type=operation.resource_type, id=operation.resource_id),
        instance_id=operation.instance_id,
        requested_by=operation.requested_by,
        created_at=operation.created_at,
        started_at=operation.started_at,
        finished_at=operation.finished_at,
        deadline_at=operation.deadline_at,
        cancellable=operation.cancellable and operation.finished_at is None,
        result=operation.result,
        problem=operation.problem,
    )


def event_lines(event: dict[str, Any]) -> bytes | None:
    """Write one piece of news as a server-sent event; None where it is not for this stream."""
    name = _EVENTS.get(event["type"])
    if name is None:
        return None
    return sse(event["id"], name, {**event["data"], "at": event["at"]})


def sse(event_id: int, name: str, data: dict[str, Any]) -> bytes:
    """Write a server-sent event. Source: WHATWG HTML, section 9.2."""
    return f"id: {event_id}\nevent: {name}\ndata: {json.dumps(data, default=_plain)}\n\n".encode()


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    raise TypeError(f"{type(value).__name__} is not JSON")
