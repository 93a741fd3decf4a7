"""What a run asks of the durable engine: steps that are recorded once, however often they are tried."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncSession

Json = Any


class Refused(Exception):
    """A transaction ends by a problem: roll it back, and record this outcome in its place."""

    def __init__(self, outcome: Json) -> None:
        super().__init__()
        self.outcome = outcome


class Engine(Protocol):
    """The durable engine as a run sees it: a step whose result is recorded once, and a real-time sleep."""

    async def step(self, name: str, body: Callable[[], Awaitable[Json]]) -> Json:
        """Run `body` at least once and record what it returned."""

    async def transaction(self, name: str, body: Callable[[AsyncSession], Awaitable[Json]]) -> Json:
        """Run `body` in a transaction that commits together with its record: exactly once.

        Where it raises Refused, nothing of it stays, and the outcome that this carries is recorded.
        """

    async def write(
        self,
        name: str,
        parts: str,
        values: Mapping[str, Any],
        outcome: Json,
        refuse: Callable[[AsyncSession], Awaitable[Json]],
    ) -> Json:
        """Run a `queries.recorded_write`: exactly once; where it wrote nothing, run `refuse` as a transaction."""

    async def sleep(self, seconds: float) -> None:
        """Sleep across restarts."""

    def remember(self, recorded: Sequence[tuple[int, str, str]]) -> None:
        """Take what is recorded as this execution begins: number, name and output of each step."""

    def own(self, owner: str | None) -> None:
        """Compare the owner that the database names with this execution.

        Errors: the engine's own conflict, which ends this execution, where the workflow was given to another worker.
        """
