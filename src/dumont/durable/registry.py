"""The list of workflows that this product knows; workers bind it at start, everybody else only names it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import Problem

if TYPE_CHECKING:
    from dumont.durable.run import Run

Body = Callable[["Run", Any], Awaitable[dict[str, Any] | None]]
OnFailure = Callable[[AsyncSession, "Run", Problem], Awaitable[None]]


@dataclass(frozen=True)
class Definition:
    """One workflow: its name for ever, the kind people see, its planned steps, and what a failure writes."""

    name: str
    kind: str
    steps: tuple[str, ...]
    body: Body
    on_failure: OnFailure


@dataclass
class Registry:
    """Workflows by name."""

    definitions: dict[str, Definition] = field(default_factory=dict)

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
