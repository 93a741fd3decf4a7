"""Recorded or made-up availability that a part of the market follows: reading, checking and generating of traces.

Source: the form `{"metadata": {"gap_seconds": N}, "data": [n, ...]}` is that of the public collection
skypilot-org/spot-traces; none of its files is part of the product.
"""

import argparse
import csv
import json
import math
import random
import sys
from bisect import bisect
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dumont.core import nanousd
from dumont.sandbox.catalogue import Box

MOST_BYTES = 5_000_000
_MODES = ("availability", "preemption", "price")
_UP_SIGMA = 1.0
_DOWN_SIGMA = 0.8
_SYNTHETIC = {"seed": 0.0, "days": 14.0, "gap_seconds": 60.0, "most": 1.0, "up_hours": 2.0, "down_minutes": 25.0}
_PRICE_GAP_S = 60.0


class BadTrace(ValueError):
    """A trace or its binding that cannot be used; the message names the file and the place in it."""


@dataclass(frozen=True)
class Trace:
    """Samples at equal distances. Units: `gap_s` seconds; a value counts machines, or nano-dollars for a price."""

    gap_s: float
    data: tuple[int, ...]

    def document(self) -> dict[str, Any]:
        """Return the form in which traces are kept in files."""
        return {"metadata": {"gap_seconds": self.gap_s}, "data": list(self.data)}


@dataclass(frozen=True)
class Binding:
    """A trace laid over a part of the market from `start_s` of product time on."""

    trace: Trace
    mode: str
    start_s: float
    model: str | None = None
    country: str | None = None
    machine: int | None = None
    scale: float = 1.0
    loop: bool = True
    skip_s: float = 0.0

    def covers(self, box: Box) -> bool:
        """Tell whether a box belongs to the bound part."""
        return (
            self.model in (None, box.model.name)
            and self.country in (None, box.country)
            and self.machine in (None, box.id)
        )

    def value(self, at: float) -> int:
        """Return the sample that holds at a moment, scaled; before the first moment the first one."""
        index = self._index(at)
        size = len(self.trace.data)
        sample = self.trace.data[index % size if self.loop else min(index, size - 1)]
        return math.floor(sample * self.scale + 1e-9)

    def next_change(self, at: float) -> float:
        """Return the moment at which the next sample begins."""
        index = self._index(at)
        if not self.loop and index >= len(self.trace.data) - 1:
            return math.inf
        return self.start_s - self.skip_s + (index + 1) * self.trace.gap_s

    def _index(self, at: float) -> int:
        # A boundary computed as a float must belong to the sample that it begins.
        return max(0, math.floor((at - self.start_s + self.skip_s) / self.trace.gap_s + 1e-6))


def bind(document: dict[str, Any], now_s: float) -> Binding:
    """Read a binding: trace, bind, mode, scale, offset_s, repeat, start.

    `trace` is a file's name, the content of one, or `{"synthetic": {"seed": 7, "days": 14, ...}}`.

    Errors: BadTrace.
    """
    mode, where = document.get("mode", "availability"), document.get("bind") or {}
    if mode not in _MODES:
        raise BadTrace(f"mode must be one of {', '.join(_MODES)}.")
    trace = _read_any(document.get("trace"), mode)
    if not isinstance(where, dict) or not where or set(where) - {"model", "country", "machine"}:
        raise BadTrace('bind must name a "model", a "country" or a "machine"; the sandbox has no zones.')
    scale, offset = _number(document, "scale", 1.0), _number(document, "offset_s", 0.0)
    repeat, start = document.get("repeat", "loop"), document.get("start", "first")
    if repeat not in ("loop", "hold") or start not in ("first", "first_nonzero"):
        raise BadTrace('repeat must be "loop" or "hold", and start "first" or "first_nonzero".')
    first = next((i for i, value in enumerate(trace.data) if value), 0) if start == "first_nonzero" else 0
    machine = where.get("machine")
    if machine is not None and (isinstance(machine, bool) or not isinstance(machine, int)):
        raise BadTrace("bind.machine must be a machine's number.")
    return Binding(
        trace=trace,
        mode=mode,
        start_s=_number(document, "begins_at", now_s),
        model=None if where.get("model") is None else str(where["model"]).replace("_", " "),
        country=None if where.get("country") is None else str(where["country"]),
        machine=machine,
        scale=scale,
        loop=repeat == "loop",
        skip_s=offset + first * trace.gap_s,
    )


def read_trace(path: Path) -> Trace:
    """Read a trace file.

    Errors: BadTrace with the file and, for a bad sample, its index.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise BadTrace(f"{path}: a trace has at most {MOST_BYTES // 1_000_000} MB.")
        return check(json.loads(path.read_text(encoding="utf-8")), str(path))
    except OSError as error:
        raise BadTrace(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        if isinstance(error, BadTrace):
            raise
        raise BadTrace(f"{path}: is not JSON ({error}).") from error


def check(document: Any, name: str) -> Trace:
    """Check the content of a trace.

    Errors: BadTrace.
    """
    metadata = document.get("metadata") if isinstance(document, dict) else None
    gap = metadata.get("gap_seconds") if isinstance(metadata, dict) else None
    if isinstance(gap, bool) or not isinstance(gap, (int, float)) or not (math.isfinite(gap) and gap > 0):
        raise BadTrace(f"{name}: metadata.gap_seconds must be a number above zero.")
    data = document.get("data")
    if not isinstance(data, list) or not data:
        raise BadTrace(f"{name}: data must be a list that is not empty.")
    for index, value in enumerate(data):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise BadTrace(f"{name}: data[{index}] must be a whole number, not below zero.")
    return Trace(float(gap), tuple(data))


def synthetic(
    seed: int,
    *,
    days: float = 14,
    gap_seconds: float = 60,
    most: int = 1,
    up_hours: float = 2,
    down_minutes: float = 25,
) -> Trace:
    """Make a trace of `most` machines that each come and go: up and down times are log-normal with these medians.

    Guarantees: the same arguments give the same trace.
    """
    size = max(1, round(days * 86_400 / gap_seconds))
    data = [0] * size
    for machine in range(most):
        chance = random.Random(seed * 1000 + machine)
        at, up = -chance.uniform(0, up_hours) * 3600, True
        while at < size * gap_seconds:
            median, sigma = (up_hours * 3600, _UP_SIGMA) if up else (down_minutes * 60, _DOWN_SIGMA)
            ends = at + chance.lognormvariate(math.log(median), sigma)
            last = min(size, math.ceil(ends / gap_seconds)) if up else 0
            for index in range(max(0, math.ceil(at / gap_seconds)), last):
                data[index] += 1
            at, up = ends, not up
    return Trace(float(gap_seconds), tuple(data))


def read_prices(path: Path) -> Trace:
    """Read a price trace, a CSV of `timestamp_utc,usd_per_hour` change points, into samples of one minute.

    Units: the samples are nano-dollars per hour. Errors: BadTrace with the file and the line.
    """
    points: list[tuple[float, int]] = []
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except OSError as error:
        raise BadTrace(f"{path}: cannot be read ({error.strerror}).") from error
    for line, row in enumerate(rows, 2):
        try:
            moment = datetime.fromisoformat(row["timestamp_utc"].replace("Z", "+00:00"))
            points.append((moment.replace(tzinfo=timezone.utc).timestamp(), nanousd(row["usd_per_hour"])))
        except (KeyError, ValueError, ArithmeticError, AttributeError) as error:
            raise BadTrace(f"{path}: line {line} must hold timestamp_utc and usd_per_hour.") from error
    if not points:
        raise BadTrace(f"{path}: holds no price.")
    points.sort()
    length = points[-1][0] - points[0][0]
    if length / _PRICE_GAP_S > MOST_BYTES:
        raise BadTrace(f"{path}: spans more than {MOST_BYTES} minutes.")
    moments = [moment for moment, _ in points]
    count = max(1, math.ceil(length / _PRICE_GAP_S) + 1)
    values = [points[bisect(moments, moments[0] + i * _PRICE_GAP_S) - 1][1] for i in range(count)]
    return Trace(_PRICE_GAP_S, tuple(values))


def _read_any(source: Any, mode: str) -> Trace:
    if isinstance(source, str) and source:
        path = Path(source)
        return read_prices(path) if mode == "price" else read_trace(path)
    if isinstance(source, dict) and "synthetic" in source:
        wishes = source["synthetic"]
        if not isinstance(wishes, dict) or set(wishes) - set(_SYNTHETIC):
            raise BadTrace(f"synthetic takes {', '.join(_SYNTHETIC)}.")
        chosen = {name: _number(wishes, name, default) for name, default in _SYNTHETIC.items()}
        seed, most = int(chosen.pop("seed")), int(chosen.pop("most"))
        if min(chosen.values()) <= 0 or most < 1 or chosen["days"] * 86_400 / chosen["gap_seconds"] > 1_000_000:
            raise BadTrace("synthetic needs numbers above zero and at most a million samples.")
        return synthetic(seed, most=most, **chosen)
    if isinstance(source, dict):
        return check(source, "trace")
    raise BadTrace("trace must be a file's name, a trace, or a wish for a synthetic one.")


def _number(document: dict[str, Any], name: str, default: float) -> float:
    value = document.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise BadTrace(f"{name} must be a number, not below zero.")
    return float(value)


def main(arguments: list[str] | None = None) -> int:
    """Write a synthetic trace to stdout: `python -m dumont.sandbox.traces --seed 7 --days 14`."""
    parser = argparse.ArgumentParser(prog="python -m dumont.sandbox.traces", description=main.__doc__)
    for name, default in _SYNTHETIC.items():
        parser.add_argument("--" + name.replace("_", "-"), type=float, default=default)
    wishes = vars(parser.parse_args(arguments))
    try:
        made = _read_any({"synthetic": wishes}, "availability")
    except BadTrace as problem:
        parser.error(str(problem))
    sys.stdout.write(json.dumps(made.document()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
