"""Durable work: operations that survive restarts, their steps, undo, deadlines and cancellation."""

from dumont.durable.engine import Engine
from dumont.durable.history import forget_history
from dumont.durable.model import (
    Cancelled,
    DeadlineExceeded,
    InstanceBusy,
    NotCancellable,
    Operation,
    OperationFinished,
    OperationStatus,
    StepFailed,
)
from dumont.durable.queries import get as get_operation
from dumont.durable.queries import live_of_instance, live_operation_id
from dumont.durable.registry import REGISTRY, Definition, Ending, Registry, Result, Schedule, schedule, workflow
from dumont.durable.run import Retry, Run, revive
from dumont.durable.service import (
    announce,
    begin_moving,
    begin_operation,
    cancel_operation,
    new_operation,
    raise_alarms,
)
from dumont.durable.waiting import patiently
from dumont.durable.worker import Worker, migrate_engine

__all__ = [
    "REGISTRY",
    "Cancelled",
    "DeadlineExceeded",
    "Definition",
    "Ending",
    "Engine",
    "InstanceBusy",
    "NotCancellable",
    "Operation",
    "OperationFinished",
    "OperationStatus",
    "Registry",
    "Result",
    "Retry",
    "Run",
    "Schedule",
    "StepFailed",
    "Worker",
    "announce",
    "begin_moving",
    "begin_operation",
    "cancel_operation",
    "forget_history",
    "get_operation",
    "live_of_instance",
    "live_operation_id",
    "migrate_engine",
    "new_operation",
    "patiently",
    "raise_alarms",
    "revive",
    "schedule",
    "workflow",
]
