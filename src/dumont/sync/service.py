"""The verbs of sync: set what is synced, begin a piece of work on the history, stop it, let a tripped guard go."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from dumont.core import Problem, new_id
from dumont.db import publish
from dumont.durable import Operation, begin_operation, cancel_operation, get_operation
from dumont.http import problems
from dumont.instances import Instance, OperationInProgress, Status, expect, start_operation
from dumont.snapshots import workspace_path
from dumont.sync import queries
from dumont.sync.model import SyncEmpty, SyncGuarded, SyncPointNotFound, SyncPolicy, SyncRun

_NO_FAILURES = ("cancelled", problems.WrongState.code, SyncEmpty.code)
LEAST_GAP = timedelta(seconds=30)
DEADLINES = {"sync": 24.0, "restore": 24.0, "check": 24.0, "prune": 24.0, "list": 0.5}
"""In hours."""
DEFAULTS: dict[str, Any] = {
    "enabled": False,
    "interval_seconds": 300,
    "paths": ["."],
    "exclude": [],
    "keep_last": 10,
    "bandwidth_mbps_max": None,
    "deletion_guard_percent": 50,
}


def exclude_pattern(text: str) -> str:
    """Return a pattern of what is left out; one that begins with a slash is meant below the workspace.

    Errors: PathNotAllowed.
    """
    return f"/{workspace_path(text)}" if text.startswith("/") else text


async def policy(session: AsyncSession, instance: Instance) -> SyncPolicy:
    """Read an instance's policy and lock it; where nobody has set one, write the defaults, which sync nothing."""
    found = await queries.policy_of(session, instance.id, lock=True)
    if found is None:
        found = new_policy(instance)
        session.add(found)
        await session.flush()
    return found


def new_policy(instance: Instance) -> SyncPolicy:
    """Make the policy that an instance has before anybody sets one."""
    own = {"instance_id": instance.id, "team_id": instance.team_id, "workspace_id": instance.workspace_id}
    return SyncPolicy(**own, **DEFAULTS, consecutive_failures=0)


async def configure(session: AsyncSession, instance: Instance, now: datetime, **values: Any) -> SyncPolicy:
    """Set members of an instance's policy. Switched on, the first sync is due at once.

    Errors: WrongState for an instance that is destroyed.
    """
    if instance.status == Status.DESTROYED:
        raise problems.WrongState(instance.status, [], "The instance is destroyed; nothing of it can be synced.")
    found = await policy(session, instance)
    was, pause = found.enabled, found.interval_seconds
    for name, value in values.items():
        setattr(found, name, value)
    if not found.enabled:
        found.next_run_at = None
    elif not was or found.next_run_at is None:
        found.next_run_at = now
    elif found.interval_seconds != pause:
        found.next_run_at = min(found.next_run_at, now + timedelta(seconds=found.interval_seconds))
    await session.flush()
    return found


async def begin_sync(
    session: AsyncSession, instance: Instance, *, now: datetime, requested_by: str | None, force: bool = False
) -> tuple[SyncRun, bool]:
    """Begin a sync of a locked instance, and tell whether one was begun.

    A sync that goes on is returned as it is, and so is one that ended less than 30 seconds ago, without `force`.
    Errors: WrongState, SyncGuarded, OperationInProgress.
    """
    found = await policy(session, instance)
    running = await queries.live_run(session, instance.workspace_id)
    if running is not None and running.kind == "sync":
        return running, False
    expect(instance, Status.RUNNING)
    if found.guard_run_id is not None:
        raise SyncGuarded(
            "The last sync found that too many files had vanished, and nothing was synced since. Look at the history, "
            "restore what is missed, or accept the deletions (`dumont sync release`).",
            run_id=found.guard_run_id,
        )
    last = await queries.newest(session, instance.workspace_id, *queries.POINT)
    if not force and last is not None and last.finished_at is not None and now - last.finished_at < LEAST_GAP:
        return last, False
    run = await begin(session, instance, "sync", {}, now=now, requested_by=requested_by, policy=found)
    found.next_run_at = now + timedelta(seconds=found.interval_seconds) if found.enabled else None
    return run, True


async def begin(
    session: AsyncSession,
    instance: Instance,
    kind: str,
    inputs: dict[str, Any],
    *,
    now: datetime,
    requested_by: str | None,
    policy: SyncPolicy | None = None,
) -> SyncRun:
    """Begin a piece of work on a workspace's history; there is one at a time. A restore has the instance for itself.

    Errors: OperationInProgress.
    """
    run = SyncRun(
        id=new_id("syn"),
        team_id=instance.team_id,
        workspace_id=instance.workspace_id,
        instance_id=instance.id,
        kind=kind,
        status="running",
        paths=policy.paths if policy else inputs.get("paths", []),
        exclude=policy.exclude if policy else [],
        unreadable=[],
        started_at=now,
    )
    try:
        async with session.begin_nested():
            session.add(run)
            await session.flush()
    except IntegrityError as error:
        other = await queries.live_run(session, instance.workspace_id)
        raise OperationInProgress(
            "Another piece of work on this workspace's history is going on. Wait until it has ended.",
            operation_id=other.operation_id if other else None,
            retry_after=2,
        ) from error
    run.operation_id = (await _operation(session, instance, kind, {**inputs, "run_id": run.id}, requested_by)).id
    await session.flush()
    return run


async def _operation(
    session: AsyncSession, instance: Instance, kind: str, inputs: dict[str, Any], requested_by: str | None
) -> Operation:
    deadline = timedelta(hours=DEADLINES[kind])
    if kind == "restore":
        return await start_operation(
            session, instance, "sync.restore", inputs, deadline=deadline, requested_by=requested_by
        )
    return await begin_operation(
        session,
        f"sync.{kind}",
        team_id=instance.team_id,
        resource=("instance", instance.id),
        instance_id=None,
        inputs={**inputs, "instance_id": instance.id, "workspace_id": instance.workspace_id},
        deadline=deadline,
        requested_by=requested_by,
    )


def expect_running(instance: Instance) -> None:
    """Refuse what needs the machine while it does not run. Errors: WrongState."""
    expect(instance, Status.RUNNING)


async def expect_history(session: AsyncSession, instance: Instance) -> None:
    """Refuse work on a history that has not begun. Errors: WrongState."""
    if await queries.newest(session, instance.workspace_id, *queries.POINT) is None:
        raise problems.WrongState("empty", ["synced"], "Nothing of this instance was synced yet. Sync it first.")


async def find_point(session: AsyncSession, instance: Instance, name: str) -> SyncRun:
    """Return the point in time that a run's id, a snapshot's id or the beginning of one names; `latest` the newest.

    Errors: SyncPointNotFound.
    """
    if name == "latest":
        found = await queries.newest(session, instance.workspace_id, "ready")
        chosen = [found] if found is not None and found.forgotten_at is None else []
    else:
        chosen = list(await queries.points(session, instance.id, name))
    if len(chosen) != 1:
        several = "Several points have ids that begin so; write more of it." if chosen else ""
        raise SyncPointNotFound(several or "The history has no such point. List its points and choose one of them.")
    return chosen[0]


async def stop(session: AsyncSession, instance: Instance) -> SyncRun:
    """Ask the sync that goes on to end; what it sent is used by the next one.

    Errors: WrongState where none goes on.
    """
    running = await queries.live_run(session, instance.workspace_id)
    operation = await get_operation(session, running.operation_id or "") if running is not None else None
    if running is None or operation is None:
        raise problems.WrongState("idle", ["running"], "No sync is going on, so there is nothing to stop.")
    await cancel_operation(session, operation)
    return running


async def release_guard(session: AsyncSession, instance: Instance, now: datetime) -> SyncPolicy:
    """Accept that files vanished: the held point becomes one like others, and syncs go on.

    Errors: WrongState where the guard has not tripped.
    """
    found = await policy(session, instance)
    if found.guard_run_id is None:
        raise problems.WrongState("idle", ["guarded"], "The deletion guard has not tripped, so there is nothing to do.")
    held = await queries.get_run(session, found.guard_run_id)
    if held.snapshot_id is not None:
        held.status = "ready"
    found.guard_run_id = None
    found.next_run_at = now if found.enabled else None
    await session.flush()
    return found


async def end_sync(session: AsyncSession, run: SyncRun, done: dict[str, Any], now: datetime) -> dict[str, Any]:
    """Write what a sync did: a point in time, or one that is held because too much vanished.

    Shapes: `done` holds columns of the run.
    """
    for name, value in done.items():
        setattr(run, name, value)
    found = await queries.policy_of(session, run.instance_id, lock=True)
    if found is None:
        raise LookupError(f"instance {run.instance_id} was synced without a policy")
    before = await queries.newest(session, run.workspace_id, "ready")
    run.finished_at = now
    run.files_vanished = _vanished(run, before)
    run.status = "held" if _too_many(run, before, found.deletion_guard_percent) else "ready"
    found.consecutive_failures = 0
    if found.enabled:
        found.next_run_at = now + timedelta(seconds=found.interval_seconds)
    if run.status == "held":
        found.guard_run_id = run.id
        await _tell_guard(session, run, before)
    else:
        await session.flush()
        await queries.forget_old(session, run.instance_id, found.keep_last, now)
    return {"run_id": run.id, "status": run.status, "snapshot_id": run.snapshot_id, **done}


def _vanished(run: SyncRun, before: SyncRun | None) -> int | None:
    """Count the files of the point before that are no more under their names; unknown for the first."""
    if before is None or before.files_total is None or run.parent_id != before.snapshot_id:
        return None
    return max(0, before.files_total - (run.files_changed or 0) - (run.files_unmodified or 0))


def _too_many(run: SyncRun, before: SyncRun | None, percent: int) -> bool:
    """Whether more vanished than the guard allows; where somebody has chosen other paths, that is why."""
    if before is None or not before.files_total or run.files_vanished is None:
        return False
    return _same_wish(run, before) and 100 * run.files_vanished > percent * before.files_total


def _same_wish(run: SyncRun, before: SyncRun) -> bool:
    return (run.paths, run.exclude) == (before.paths, before.exclude)


async def _tell_guard(session: AsyncSession, run: SyncRun, before: SyncRun | None) -> None:
    await publish(
        session,
        topic="sync.guarded",
        resource_type="instance",
        resource_id=run.instance_id,
        team_id=run.team_id,
        operation_id=run.operation_id,
        data={
            "run_id": run.id,
            "files_vanished": run.files_vanished,
            "files_before": before.files_total if before else None,
        },
    )


async def end_work(session: AsyncSession, run_id: str, now: datetime, **values: Any) -> SyncRun:
    """Write that a piece of work on the history has ended well."""
    run = await queries.get_run(session, run_id)
    run.status, run.finished_at = "ready", now
    for name, value in values.items():
        setattr(run, name, value)
    return run


async def fail(session: AsyncSession, run_id: str, operation_id: str, problem: Problem, now: datetime) -> None:
    """Write that a piece of work failed or was stopped; after a failed sync the next one waits longer."""
    run = await queries.get_run(session, run_id)
    run.status = "stopped" if problem.code in _NO_FAILURES else "failed"
    run.finished_at, run.problem = now, problem.document(operation_id)
    found = await queries.policy_of(session, run.instance_id, lock=True)
    if found is None or run.kind != "sync":
        return
    if run.status == "failed":
        found.consecutive_failures += 1
    before = await queries.newest(session, run.workspace_id, "ready")
    if problem.code == SyncEmpty.code and before is not None and before.files_total and _same_wish(run, before):
        run.files_vanished = before.files_total
        found.guard_run_id = run.id
        await _tell_guard(session, run, before)
    if found.enabled:
        found.next_run_at = now + queries.pause_after(found.interval_seconds, found.consecutive_failures)
