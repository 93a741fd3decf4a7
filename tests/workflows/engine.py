"""A durable engine for trials: it keeps the record of one operation and dies or fails wherever a test says so."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncSession
from tests.support.world import Stage

from dumont.db import Database, set_sweep, set_team
from dumont.durable import REGISTRY, Operation, StepFailed, get_operation
from dumont.durable.engine import Refused
from dumont.durable.execute import execute
from dumont.durable.queries import recorded_write

FIXED = frozenset({"start", "finish", "fail"})
"""The steps of every workflow; a problem of theirs has nobody to go to, so none is thrown there."""


class Died(BaseException):
    """The worker's process ended here."""


class Moment(Protocol):
    """What a test does at a moment of a step: `before` its body, `after` the body but before the record, `recorded`."""

    async def __call__(self, when: str, name: str) -> str | None:
        """Return "die" to end the process, "fail" to let the step fail, None to go on."""


async def _nothing(when: str, name: str) -> str | None:
    return None


@dataclass
class Trial:
    """One operation and its record, which outlives the worker that writes it."""

    stage: Stage
    operation_id: str
    moment: Moment = _nothing
    record: list[tuple[str, str]] = field(default_factory=list)
    deaths: int = 0
    _at: int = 0

    async def run(self) -> Operation:
        """Run the operation to its end, with a new worker after every death."""
        while True:
            self._at = 0
            try:
                await self._once()
            except Died:
                self.deaths += 1
                assert self.deaths < 100, f"the operation does not come to an end: {self.names()}"
                await self.stage.crash()
                continue
            return await self.operation()

    async def _once(self) -> None:
        operation = await self.operation()
        definition = REGISTRY.definitions[operation.workflow]
        world = self.stage.world
        await execute(definition, self.operation_id, world=world, database=world.database, engine=self)
        assert self._at == len(self.record), "the replay left recorded steps out"

    async def operation(self) -> Operation:
        """Read the operation as it is now."""
        async with self.stage.world.database.begin() as session:
            await set_sweep(session)
            found = await get_operation(session, self.operation_id)
            assert found is not None
            return found

    def names(self) -> list[str]:
        """The recorded steps, in order."""
        return [name for name, _ in self.record]

    async def step(self, name: str, body: Callable[[], Awaitable[Any]]) -> Any:
        """Run a step that talks to the world, or return what is recorded of it."""
        known = self._recorded(name)
        if known is None:
            outcome: Any = None
            if not await self._happens("before", name):
                outcome = await body()
                if await self._happens("after", name):
                    outcome = None
            known = self._keep(name, outcome if outcome is not None else _failure(name))
            await self._happens("recorded", name)
        return json.loads(known)

    async def transaction(self, name: str, body: Callable[[AsyncSession], Awaitable[Any]]) -> Any:
        """Run a step of our own rows; its record is kept when, and only when, it is committed."""
        known = self._recorded(name)
        if known is None:
            outcome = None if await self._happens("before", name) else await self._committed(name, body)
            known = self._keep(name, outcome if outcome is not None else _failure(name))
            await self._happens("recorded", name)
        return json.loads(known)

    async def write(
        self,
        name: str,
        parts: str,
        values: Mapping[str, Any],
        outcome: Any,
        refuse: Callable[[AsyncSession], Awaitable[Any]],
    ) -> Any:
        """Run the statement, less its record in the durable engine's table, as any other transaction."""

        async def write(session: AsyncSession) -> Any:
            await set_team(session, values["team"])
            written = (await session.execute(recorded_write(parts, owned=False), dict(values))).first()
            return outcome if written is not None else await refuse(session)

        return await self.transaction(name, write)

    async def _committed(self, name: str, body: Callable[[AsyncSession], Awaitable[Any]]) -> Any:
        database: Database = self.stage.world.database
        try:
            async with database.begin() as session:
                outcome = await body(session)
                if await self._happens("after", name):
                    raise Refused(None)
        except Refused as refused:
            return refused.outcome
        return outcome

    async def sleep(self, seconds: float) -> None:
        """No workflow sleeps so far."""
        raise AssertionError("a workflow sleeps: let the trial's engine record it")

    def remember(self, recorded: Sequence[tuple[int, str, str]]) -> None:
        """Leave it: this engine keeps a record of its own, beside that of the durable engine."""

    def own(self, owner: str | None) -> None:
        """A trial has one execution at a time, which owns its workflow."""

    async def _happens(self, when: str, name: str) -> bool:
        wish = await self.moment(when, name)
        if wish == "die":
            raise Died()
        return wish == "fail"

    def _recorded(self, name: str) -> str | None:
        if self._at == len(self.record):
            return None
        known, text = self.record[self._at]
        assert known == name, (
            f"the replay wants {name!r} where {known!r} is recorded: the workflow is not deterministic"
        )
        self._at += 1
        return text

    def _keep(self, name: str, outcome: Any) -> str:
        text = json.dumps(outcome)
        self.record.append((name, text))
        self._at += 1
        return text


def _failure(name: str) -> Any:
    return {"problem": StepFailed(f"A fault of the test at “{name}”.").document("op_test")}
