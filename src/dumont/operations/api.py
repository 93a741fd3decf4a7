"""The routes of operations: list, show and wait, follow live, cancel."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, Query, Request
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response, StreamingResponse

from dumont.core import is_id
from dumont.durable import (
    NotCancellable,
    Operation,
    OperationFinished,
    OperationStatus,
    cancel_operation,
    get_operation,
)
from dumont.http import Caller, CallerDep, Page, Router, list_document, page_params, permit, problems, raises
from dumont.operations import queries
from dumont.operations.documents import (
    EventDocument,
    EventsDocument,
    OperationDocument,
    OperationsDocument,
    event_lines,
    operation_document,
    sse,
)

router = Router(prefix="/api/v1/operations", tags=["operations"])
OperationNotFound = problems.not_found("operation")
KEEP_ALIVE_SECONDS = 15.0
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string", "description": "Where asked for by Accept."}}}}
}


async def read_operation(session: AsyncSession, operation_id: str) -> Operation:
    """Read an operation named in a path.

    Errors: OperationNotFound, also for an id of another form.
    """
    found = await get_operation(session, operation_id) if is_id(operation_id, "op") else None
    if found is None:
        raise OperationNotFound("No operation has this id. List the operations and choose one of them.")
    return found


@router.get("", **permit("gpu.view"), responses=raises(problems.InvalidRequest))
async def list_operations(
    caller: CallerDep,
    page: Annotated[Page, Depends(page_params("created_at"))],
    status: Annotated[str | None, Query(max_length=200)] = None,
    kind: Annotated[str | None, Query(max_length=40)] = None,
    instance_id: Annotated[str | None, Query(max_length=40)] = None,
) -> OperationsDocument:
    """List operations, newest first."""
    statuses = [part for part in (status or "").split(",") if part]
    if set(statuses) - {known.value for known in OperationStatus}:
        detail = f"Known are {', '.join(known.value for known in OperationStatus)}."
        raise problems.InvalidRequest([problems.field_error("/query/status", detail, "unknown-value")])
    rows = await queries.listing(caller.session, page, statuses=statuses, kind=kind, instance_id=instance_id)
    return OperationsDocument(**list_document("operations", rows, page, operation_document))


@router.get("/{operation_id}", **permit("gpu.view"), responses=raises(OperationNotFound))
async def show_operation(
    request: Request,
    operation_id: str,
    caller: CallerDep,
    wait_seconds: Annotated[float, Query(ge=0, le=30, allow_inf_nan=False)] = 0,
) -> OperationDocument:
    """Show an operation; with `wait_seconds`, answer at its next change or when the time is over."""
    operation = await read_operation(caller.session, operation_id)
    if wait_seconds == 0 or OperationStatus(operation.status).final:
        return operation_document(operation)
    before = operation_document(operation)
    await caller.release()
    until = asyncio.get_running_loop().time() + wait_seconds
    async with request.app.state.listener.subscribe(operation_id) as subscription:
        while True:
            async with caller.reenter() as session:
                now = operation_document(await read_operation(session, operation_id))
            left = until - asyncio.get_running_loop().time()
            if now != before or left <= 0:
                return now
            await subscription.wait(min(left, KEEP_ALIVE_SECONDS))


@router.get(
    "/{operation_id}/events", **permit("gpu.view", stream=True), responses={**raises(OperationNotFound), **_STREAM}
)
async def follow_operation(request: Request, operation_id: str, caller: CallerDep) -> Response | EventsDocument:
    """Follow an operation: server-sent events when asked for, else all news so far as JSON."""
    await read_operation(caller.session, operation_id)
    if "text/event-stream" not in request.headers.get("accept", ""):
        events = [event async for event in _all_news(caller.session, operation_id, 0)]
        return EventsDocument(events=[EventDocument(**event) for event in events], count=len(events))
    await caller.release()
    last = request.headers.get("last-event-id", "0")
    after = int(last) if last.isascii() and last.isdigit() and len(last) < 19 else 0
    stream = _follow(request, caller, operation_id, after)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _follow(request: Request, caller: Caller, operation_id: str, after: int) -> AsyncIterator[bytes]:
    spoken = time.monotonic()
    async with request.app.state.listener.subscribe(operation_id) as subscription:
        while True:
            async with caller.reenter() as session:
                operation = await read_operation(session, operation_id)
                events = [event async for event in _all_news(session, operation_id, after)]
                document = operation_document(operation)
            for event in events:
                after = event["id"]
                lines = event_lines(event)
                if lines is not None:
                    spoken = time.monotonic()
                    yield lines
            if OperationStatus(operation.status).final:
                yield sse(after + 1, "done", document.model_dump())
                return
            await subscription.wait(KEEP_ALIVE_SECONDS)
            if time.monotonic() - spoken >= KEEP_ALIVE_SECONDS:
                spoken = time.monotonic()
                yield b": still here\n\n"


async def _all_news(session: AsyncSession, operation_id: str, after: int) -> AsyncIterator[dict[str, Any]]:
    """Read all news behind an event id, oldest first, in pieces."""
    while found := await queries.news(session, operation_id, after):
        for event in found:
            after = event["id"]
            yield event


@router.post(
    "/{operation_id}/cancel",
    status_code=202,
    **permit("gpu.provision"),
    responses=raises(OperationNotFound, OperationFinished, NotCancellable),
)
async def cancel(operation_id: str, caller: CallerDep) -> OperationDocument:
    """Ask an operation to stop and undo what it did."""
    operation = await read_operation(caller.session, operation_id)
    await cancel_operation(caller.session, operation)
    return operation_document(operation)
