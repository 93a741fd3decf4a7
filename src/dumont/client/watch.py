"""Following an operation to its end over a connection that may break at any time."""

import time
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPResponse

from dumont.client.model import Event, Operation
from dumont.client.problems import ApiProblem, ApiUnreachable
from dumont.client.sse import read_events

_SILENT_STREAMS = 3
_PAUSE = 0.3
_LONG_POLL = 20


class Watch:
    """One operation being followed.

    Guarantees: each event at most once, `done` exactly once and last. Survives broken streams and a server that
    restarts within `patience` seconds. Where no stream is to be had, asks again and again instead.
    """

    def __init__(
        self,
        operation_id: str,
        ask: Callable[[str, int], Operation],
        stream: Callable[[str, str | None], HTTPResponse],
        patience: float,
    ) -> None:
        self._id = operation_id
        self._ask = ask
        self._stream = stream
        self._patience = patience
        self._last_id: str | None = None
        self._seen: set[str] = set()
        self._heard = 0
        self._lost_since: float | None = None

    def events(self) -> Iterator[Event]:
        """Yield the news until the operation has ended.

        Errors: ApiProblem when it does not exist, ApiUnreachable when the server stays away too long.
        """
        silent = 0
        while silent < _SILENT_STREAMS:
            before = self._heard
            try:
                response = self._stream(self._id, self._last_id)
            except ApiUnreachable as error:
                self._bear(error)
                continue
            except ApiProblem as problem:
                if problem.code == "operation-not-found" or problem.status in (401, 403):
                    raise
                break
            if "text/event-stream" not in response.headers.get("Content-Type", ""):
                response.close()
                break
            for event in self._read(response):
                yield event
                if event.name == "done":
                    return
            silent = silent + 1 if self._heard == before else 0
            known = self._look(0)
            if known is not None and known.ended:
                yield Event("done", known.raw)
                return
            time.sleep(_PAUSE)
        yield from self._polled()

    def _read(self, response: HTTPResponse) -> Iterator[Event]:
        try:
            for event in read_events(response):
                self._lost_since = None
                self._last_id = event.id or self._last_id
                if event.id is not None and event.id in self._seen and event.name != "done":
                    continue
                self._heard += 1
                if event.id is not None:
                    self._seen.add(event.id)
                yield self._whole(event) if event.name == "done" else event
        except (OSError, HTTPException):
            return
        finally:
            response.close()

    def _whole(self, event: Event) -> Event:
        operation = event.operation
        if operation is not None and operation.ended:
            return event
        return Event("done", self._ask(self._id, 0).raw, event.id)

    def _polled(self) -> Iterator[Event]:
        shown: object = None
        while True:
            started = time.monotonic()
            operation = self._look(_LONG_POLL if shown is not None else 0)
            if operation is not None and operation.ended:
                yield Event("done", operation.raw)
                return
            if operation is not None and operation.raw != shown:
                shown = operation.raw
                yield Event("progress", operation.raw)
            time.sleep(max(0.0, _PAUSE - (time.monotonic() - started)))

    def _look(self, wait_seconds: int) -> Operation | None:
        try:
            operation = self._ask(self._id, wait_seconds)
        except ApiUnreachable as error:
            self._bear(error)
            return None
        except ApiProblem as problem:
            if problem.act.value != "wait":
                raise
            self._bear(problem)
            return None
        self._lost_since = None
        return operation

    def _bear(self, error: ApiProblem | ApiUnreachable) -> None:
        now = time.monotonic()
        self._lost_since = self._lost_since or now
        if now - self._lost_since > self._patience:
            raise error
        time.sleep(_PAUSE)
