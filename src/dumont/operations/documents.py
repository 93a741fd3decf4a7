"""How an operation and its news are shown."""

import json
from datetime import datetime
from typing import Any

from dumont.durable import Operation

_EVENTS = {"operation.step": "step", "operation.progress": "progress"}


def operation_document(operation: Operation) -> dict[str, Any]:
    """Show an operation: status, percent that never falls, steps, and its result or problem."""
    return {
        "id": operation.id,
        "kind": operation.kind,
        "status": operation.status,
        "percent": operation.percent,
        "current_step": operation.current_step,
        "steps": operation.steps,
        "resource": {"type": operation.resource_type, "id": operation.resource_id},
        "instance_id": operation.instance_id,
        "requested_by": operation.requested_by,
        "created_at": operation.created_at,
        "started_at": operation.started_at,
        "finished_at": operation.finished_at,
        "deadline_at": operation.deadline_at,
        "cancellable": operation.cancellable and operation.finished_at is None,
        "result": operation.result,
        "problem": operation.problem,
    }


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
