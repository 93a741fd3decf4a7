"""The list of workflows that this product knows; workers bind it at start, everybody else only names it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import Problem

if TYPE_CHECKING:
    from dumont.durable.run import Run

ScheduledBody = Callable[[Any, datetime], Awaitable[None]]
Refusal = Awaitable[NoReturn]


@dataclass(frozen=True)
class Ending:
    """The last rows of a workflow as part of the one statement that also writes its success: one round trip.

    Shapes: `moved` holds parts of a WITH as `queries.closing` takes them, with `values`; `news` is what is told of the
    move, topic and data. Where nothing was moved, `refuse` raises the problem that says why.
    """

    moved: str
    values: dict[str, Any]
    news: dict[str, Any]
    result: dict[str, Any]
    refuse: Callable[[AsyncSession], Refusal]


Plain = dict[str, Any] | Callable[[AsyncSession], Awaitable[dict[str, Any]]] | None
Result = Ending | Plain
"""What a body ends with: the result, or what writes its last rows and returns it, committed with the success."""
Body = Callable[["Run", Any], Awaitable[Result]]
OnFailure = Callable[[AsyncSession, "Run", Problem], Awaitable[None]]


@dataclass(frozen=True)
class Definition:
    """One workflow: its name for ever, the kind people see, its planned steps, and what a failure writes."""

    name: str
    kind: str
    steps: tuple[str, ...]
    body: Body
    on_failure: OnFailure


@dataclass(frozen=True)
class Schedule:
    """Something to do again and again: its name for ever, when (cron, UTC, seconds allowed in front), and what."""

    name: str
    cron: str
    body: ScheduledBody


@dataclass
class Registry:
    """Workflows and schedules by name."""

    definitions: dict[str, Definition] = field(default_factory=dict)
    schedules: dict[str, Schedule] = field(default_factory=dict)

    def schedule(self, name: str, *, cron: str) -> Callable[[ScheduledBody], ScheduledBody]:
        """Record a schedule; each of its times fires once, whatever the number of workers.

        The body takes the worker's world and the time it was due, and may run again after a crash.
        """

        def record(body: ScheduledBody) -> ScheduledBody:
            if name in self.schedules:
                raise ValueError(f"two schedules are called {name!r}")
            self.schedules[name] = Schedule(name, cron, body)
            return body

        return record

    def workflow(
        self, name: str, *, kind: str, steps: tuple[str, ...], on_failure: OnFailure
    ) -> Callable[[Body], Body]:
        """Record a workflow; nothing runs and nothing is imported from the durable engine.

        The body is deterministic between its steps. `on_failure` runs in one transaction with the final state,
        after every undo.
        """

        def record(body: Body) -> Body:
            if name in self.definitions:
                raise ValueError(f"two workflows are called {name!r}")
            self.definitions[name] = Definition(name, kind, steps, body, on_failure)
            return body

        return record


REGISTRY = Registry()
workflow = REGISTRY.workflow
schedule = REGISTRY.schedule
