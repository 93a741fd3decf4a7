"""Following an operation on stderr: a live bar on a terminal, one plain line per change elsewhere."""

import shutil
import sys
import time
from typing import Any

from dumont.cli.exit import CliError, Interrupted
from dumont.cli.words import UNKNOWN, seconds_between, size, span, text
from dumont.client import ApiProblem, Client, Event, Operation, Step, read
from dumont.core import Act

_BAR = 24
_SOONEST_RATE = 0.2
_OVER = {"done": "done", "failed": "failed", "undone": "undone", "skipped": "skipped"}
_FIGURES = (
    *("bytes_done", "bytes_total", "bytes_second", "seconds_left", "ratio"),
    *("attempts", "detail", "started_at", "finished_at"),
)


def follow(client: Client, operation_id: str, *, quiet: bool = False) -> Operation:
    """Wait for the end of an operation, showing what happens, and return it when it succeeded.

    Errors: ApiProblem with the operation's own problem when it failed, CliError when it was cancelled, Interrupted on
    Ctrl-C (the operation goes on).
    """
    view = View(terminal=sys.stderr.isatty(), quiet=quiet)
    ended: Operation | None = None
    try:
        for event in client.watch_operation(operation_id):
            view.take(event)
            ended = event.operation if event.name == "done" else ended
    except KeyboardInterrupt:
        view.clear()
        raise Interrupted(
            f"Operation {operation_id} goes on. Follow it with `dumont operations {operation_id} --follow`, "
            f"stop it with `dumont cancel {operation_id}`."
        ) from None
    finally:
        view.clear()
    return succeeded(ended or client.operation(operation_id))


def wait_for(client: Client, begun: Operation, *, no_wait: bool, quiet: bool) -> Operation:
    """Follow an operation to its end, or say how to; return it as it then is."""
    if not no_wait:
        return follow(client, begun.id, quiet=quiet)
    if not quiet:
        print(f"Operation {begun.id} goes on. Follow it with `dumont operations {begun.id} --follow`.")
    return begun


def succeeded(operation: Operation) -> Operation:
    """Return an operation that succeeded, and raise what went wrong with any other that ended."""
    if operation.status == "failed":
        unknown = f"Operation {operation.id} failed without saying why."
        raise operation.problem or ApiProblem("operation-failed", Act.REPORT, 500, unknown)
    if operation.status == "cancelled":
        raise CliError(f"Operation {operation.id} was cancelled before its end.", code="cancelled")
    return operation


class View:
    """What has been told so far of one operation."""

    def __init__(self, *, terminal: bool, quiet: bool) -> None:
        self._terminal = terminal and not quiet
        self._quiet = quiet
        self._steps: dict[str, Step] = {}
        self._told: set[tuple[str, str | None]] = set()
        self._first: dict[str, tuple[float, int]] = {}
        self._percent: float | None = None
        self._live = False

    def take(self, event: Event) -> None:
        """Take in one piece of news and show what is new in it."""
        operation = event.operation
        if operation is not None:
            self._percent = operation.percent
            for step in operation.steps:
                self._learn(step)
        else:
            self._learn_part(event)
        self._draw()

    def clear(self) -> None:
        """Take the live line off the terminal."""
        if self._live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._live = False

    def _learn_part(self, event: Event) -> None:
        data = event.data
        if isinstance(data.get("percent"), (int, float)):
            self._percent = data["percent"]
        nested = data.get("step")
        inner: dict[str, Any] = nested if isinstance(nested, dict) else data
        name = inner.get("name") or (nested if isinstance(nested, str) else data.get("current_step"))
        if not isinstance(name, str):
            return
        known = self._steps.get(name)
        merged = dict(known.raw) if known else {"status": "running"}
        members = (*_FIGURES, "status") if event.name == "step" else _FIGURES
        merged.update({member: inner[member] for member in members if member in inner})
        self._learn(read(Step, {**merged, "name": name}))

    def _learn(self, step: Step) -> None:
        self._steps[step.name] = step
        if step.bytes_done is not None:
            self._first.setdefault(step.name, (time.monotonic(), step.bytes_done))
        mark = (step.name, step.status)
        if step.status in (None, "pending") or mark in self._told:
            return
        self._told.add(mark)
        if step.status in _OVER:
            self._line(f"{_name(step)}: {_OVER[step.status]}{_ending(step)}")
        elif not self._terminal:
            self._line(f"{_name(step)}: {text(step.detail) if step.detail else 'started'}")

    def _line(self, line: str) -> None:
        if self._quiet:
            return
        self.clear()
        print(line, file=sys.stderr, flush=True)

    def _draw(self) -> None:
        running = [step for step in self._steps.values() if step.status not in (None, "pending", *_OVER)]
        if not self._terminal or not running:
            return
        step = running[-1]
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"\r\x1b[K{self._bar(step)}"[: width + 4])
        sys.stderr.flush()
        self._live = True

    def _bar(self, step: Step) -> str:
        share = None
        if step.bytes_done is not None and step.bytes_total:
            share = min(1.0, step.bytes_done / step.bytes_total)
        elif self._percent is not None:
            share = self._percent / 100
        filled = round(_BAR * share) if share is not None else 0
        bar = "━" * filled + "╌" * (_BAR - filled)
        known = f"{100 * share:3.0f}%" if share is not None else "    "
        parts = [bar, known, _name(step), self._traffic(step)]
        return " ".join(part for part in parts if part)

    def _traffic(self, step: Step) -> str:
        if step.bytes_done is None:
            return text(step.detail) if step.detail else ""
        total = f" of {size(step.bytes_total)}" if step.bytes_total else ""
        began, at_first = self._first[step.name]
        elapsed = time.monotonic() - began
        moved = step.bytes_done - at_first
        rate = f", {size(moved / elapsed)}/s" if elapsed > _SOONEST_RATE and moved > 0 else ""
        return f"{size(step.bytes_done)}{total}{rate}{_more(step)}"


def _more(step: Step) -> str:
    """Say how long a transfer still takes and what compression makes of it, where that is known."""
    left, ratio = step.raw.get("seconds_left"), step.raw.get("ratio")
    told = f", {span(left)} left" if isinstance(left, (int, float)) else ""
    return told + (f", {ratio:.2f}x smaller" if isinstance(ratio, (int, float)) and ratio > 1 else "")


def _name(step: Step) -> str:
    return text(step.name).replace("_", " ").replace("-", " ")


def _ending(step: Step) -> str:
    figures = []
    if step.bytes_done:
        figures.append(size(step.bytes_done))
    seconds = seconds_between(step.started_at, step.finished_at)
    if seconds is not None and seconds >= 0:
        figures.append(f"{seconds:.1f} s")
    if step.attempts is not None and step.attempts > 1:
        figures.append(f"{step.attempts} attempts")
    told = ", ".join(figures)
    detail = text(step.detail) if step.detail and step.status != "done" else UNKNOWN
    return (f" ({told})" if told else "") + (f": {detail}" if detail != UNKNOWN else "")
