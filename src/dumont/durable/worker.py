"""The worker: binds the recorded workflows to DBOS and runs what the API has enqueued.

Source: https://docs.dbos.dev (DBOS Transact for Python 3.4); the settings are explained in
docs/decisions/0002-durable-work-by-dbos.md.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy import Engine, text

from dumont.db import Database, blocking_engine
from dumont.durable.execute import execute
from dumont.durable.presence import Presence
from dumont.durable.record import StepRecord
from dumont.durable.registry import REGISTRY, Definition, Schedule
from dumont.durable.takeover import TakeOver

if TYPE_CHECKING:
    from dbos import DBOSConfig

log = structlog.get_logger()
APPLICATION = "dumont"
VERSION = "1"
QUEUES = ("operations", "urgent")
"""Destroys have a queue of their own: what costs must end, however much else is under way."""
SCHEMA = "dbos"


@dataclass
class Worker:
    """Runs workflows in the event loop that starts it.

    `url` is the worker role's; `world` is handed to every workflow body; `concurrency` is how many pieces of work of
    each queue it does at once, of which most wait for marketplaces; `on_fenced` stops the process when the worker may
    have been replaced.
    """

    url: str
    world: Any
    database: Database
    concurrency: int = 200
    poll_seconds: float = 0.2
    on_fenced: Callable[[], None] = lambda: None
    _presence: Presence | None = field(default=None, init=False)
    _engine: Engine | None = field(default=None, init=False)
    _watch: "asyncio.Task[None] | None" = field(default=None, init=False)
    _lost: "asyncio.Task[None] | None" = field(default=None, init=False)

    async def start(self) -> None:
        """Take a slot, bind every recorded workflow, resume what the slot's last holder left, and listen."""
        from dbos import DBOS

        self._presence = Presence(self.url, self.on_fenced)
        executor = await self._presence.take()
        self._engine = blocking_engine(self.url, pool_size=4, application_name="dumont-engine")
        DBOS(config=self._config(executor))
        for definition in REGISTRY.definitions.values():
            self._bind(definition)
        DBOS.listen_queues(list(QUEUES))
        DBOS.launch()
        for queue in QUEUES:
            await DBOS.register_queue_async(
                queue,
                worker_concurrency=self.concurrency,
                partition_concurrency=1,
                polling_interval_sec=self.poll_seconds,
                on_conflict="always_update",
            )
        await self._apply_schedules()
        takeover = TakeOver(self._presence, self._executors_with_work, _recover)
        self._watch = asyncio.create_task(takeover.run(), name="take-over")
        self._lost = asyncio.create_task(_find_lost(executor), name="lost-claims")
        log.info("worker is ready", executor=executor, workflows=len(REGISTRY.definitions))

    def _config(self, executor: str) -> "DBOSConfig":
        from dbos import DBOSPortableJSONSerializer

        return {
            "name": APPLICATION,
            "system_database_url": self.url,
            "application_version": VERSION,
            "executor_id": executor,
            "dbos_system_schema": SCHEMA,
            "run_migrations": False,
            "serializer": DBOSPortableJSONSerializer(),
            "system_database_engine": self._engine,
            "scheduler_polling_interval_sec": 5.0,
            "log_level": "WARNING",
            "enable_otlp": False,
        }

    def _bind(self, definition: Definition) -> None:
        from dbos import DBOS
        from dbos._context import current_owner_xid

        async def bound(operation_id: str) -> None:
            owner = current_owner_xid(operation_id)
            if owner is None:
                raise RuntimeError(f"operation {operation_id} runs outside of the workflow of its name")
            record = StepRecord(self.database, operation_id, owner)
            await execute(definition, operation_id, world=self.world, database=self.database, engine=record)

        bound.__qualname__ = bound.__name__ = definition.name.replace(".", "_")
        DBOS.workflow(name=definition.name, max_recovery_attempts=1000)(bound)

    async def _apply_schedules(self) -> None:
        from dbos import DBOS, ScheduleInput

        bound: list[ScheduleInput] = [
            {"schedule_name": entry.name, "workflow_fn": self._bind_schedule(entry), "schedule": entry.cron}
            for entry in REGISTRY.schedules.values()
        ]
        await DBOS.apply_schedules_async(bound)

    def _bind_schedule(self, entry: Schedule) -> Any:
        from dbos import DBOS

        async def due(at: datetime | str, context: Any) -> None:
            async def act() -> None:
                await entry.body(self.world, datetime.fromisoformat(at) if isinstance(at, str) else at)

            await DBOS.run_step_async({"name": entry.name}, act)

        due.__qualname__ = due.__name__ = entry.name.replace(".", "_")
        return DBOS.workflow(name=f"schedule.{entry.name}", max_recovery_attempts=100)(due)

    async def _executors_with_work(self) -> set[str]:
        async with self.database.begin() as session:
            found = await session.execute(
                text(
                    f"SELECT DISTINCT executor_id FROM {SCHEMA}.workflow_status "
                    "WHERE status = 'PENDING' AND application_name = :name"
                ),
                {"name": APPLICATION},
            )
            return {str(row[0]) for row in found}

    async def stop(self) -> None:
        """Stop taking work and leave the rest to the next worker; running steps are abandoned, not undone."""
        from dbos import DBOS

        for task in (self._watch, self._lost):
            if task is not None:
                task.cancel()
        await asyncio.to_thread(lambda: DBOS.destroy(destroy_registry=True))
        if self._engine is not None:
            self._engine.dispose()
        if self._presence is not None:
            await self._presence.release()


async def _find_lost(executor: str) -> None:
    """Queue again what this worker claimed and does not run: the database died between the claim and the start.

    A claim counts as lost when it is not running here in two looks, three seconds apart.
    """
    suspects: set[str] = set()
    while True:
        await asyncio.sleep(3.0)
        try:
            seen = await asyncio.to_thread(_claimed_not_running, executor)
            for workflow_id in seen & suspects:
                log.warning("a claimed workflow was never started and is queued again", workflow_id=workflow_id)
                await asyncio.to_thread(_queue_again, workflow_id, executor)
            suspects = seen - suspects
        except Exception as error:  # noqa: BLE001 - the watch outlives every error; each is logged
            log.warning("lost claims will be looked for again", error=repr(error))


def _claimed_not_running(executor: str) -> set[str]:
    from dbos._dbos import _get_dbos_instance

    dbos = _get_dbos_instance()
    claimed = {entry.workflow_id for entry in dbos._sys_db.get_pending_workflows(executor, VERSION)}
    return claimed - set(dbos._active_workflows_set.activeList())


def _queue_again(workflow_id: str, executor: str) -> None:
    from dbos._dbos import _get_dbos_instance
    from dbos._utils import INTERNAL_QUEUE_NAME

    _get_dbos_instance()._sys_db.reenqueue_for_recovery(workflow_id, [executor], INTERNAL_QUEUE_NAME)


async def _recover(executor: str) -> int:
    """Queue a dead executor's workflows again. Uses a private call of DBOS 3.4, which a contract test watches."""
    from dbos._dbos import _get_dbos_instance
    from dbos._recovery import recover_pending_workflows

    handles = await asyncio.to_thread(recover_pending_workflows, _get_dbos_instance(), [executor])
    return len(handles)


def migrate_engine(owner_url: str, worker_role: str | None) -> None:
    """Create or bring up to date DBOS's own tables as the owner, and let only the worker role use them."""
    from dbos import run_dbos_database_migrations

    run_dbos_database_migrations(owner_url, schema=SCHEMA, application_role=worker_role)
