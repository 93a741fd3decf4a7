"""What a benchmark says: one metric with its unit, its goal and its peer, as a table line or as JSON."""

import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TextIO

GOALS: dict[str, tuple[str, float]] = {
    "ready_cpu_s": ("<=", 4.0),
    "ready_fresh_cpu_s": ("<=", 9.0),
    "rss_all_mb": ("<=", 190.0),
    "rss_api_mb": ("<=", 130.0),
    "read_p50_ms": ("<=", 2.0),
    "read_cpu_ms": ("<=", 1.5),
    "read_rps_core": (">=", 600.0),
    "list_100_of_10k_ms": ("<=", 10.0),
    "list_kb": ("<=", 60.0),
    "cli_ps_cpu_s": ("<=", 0.3),
    "step_ms": ("<=", 9.0),
    "takeover_s": ("<=", 5.0),
    "loss_seen_s": ("<=", 15.0),
    "orphan_found_s": ("<=", 60.0),
    "launch_200_s": ("<=", 10.0),
    "destroy_200_s": ("<=", 5.0),
    "offers_cold_ms": ("<=", 200.0),
    "offers_warm_ms": ("<=", 20.0),
    "single_8_vs_pgbench_n": (">=", 0.55),
    "single_32_vs_pgbench_n": (">=", 0.55),
    "coalesced_32_spread_vs_pgbench_n": (">=", 1.3),
    "coalesced_32_hot_vs_pgbench_n": (">=", 1.3),
    "coalesced_256_hot_vs_pgbench_n": (">=", 2.0),
    "batch_100_vs_pgbench_n": (">=", 1.6),
    "batch_1000_vs_pgbench_n": (">=", 2.5),
    "cpu_single_8": ("<=", 2.2),
    "cpu_batch_100": ("<=", 0.40),
    "cpu_batch_1000": ("<=", 0.25),
    "fault_seeds_wrong": ("<=", 0.0),
    "first_cpu_vs_s5cmd": ("<=", 0.5),
    "first_wall_vs_s5cmd": ("<=", 0.6),
    "first_cpu_vs_restic_mixed": ("<=", 0.25),
    "first_cpu_vs_restic_tensors": ("<=", 0.167),
    "stored_vs_restic_mixed": ("<=", 0.88),
    "stored_vs_restic_tensors": ("<=", 0.85),
    "nochange_ms_per_10k_files": ("<=", 100.0),
    "nochange_speedup": (">=", 30.0),
    "changed_1pct_speedup": (">=", 10.0),
    "changed_1pct_stored_ratio": ("<=", 2.5),
    "bf16_ratio": (">=", 1.5),
    "bf16_gb_per_cpu_s": (">=", 0.95),
    "resaved_new_bytes_pct": ("<=", 0.1),
    "restore_vs_restic": ("<=", 0.5),
    "restore_tensors_vs_raw": ("<=", 1.3),
    "decode_gb_per_cpu_s": (">=", 2.5),
    "peak_rss_mb": ("<=", 400.0),
}
"""What each metric should be; nothing fails when it is not."""

BUSY = 0.35
"""Waiting or running processes for each core from which on figures of wall time are not to be trusted."""


@dataclass(frozen=True)
class Metric:
    """One figure. `peer` is the same act done by the least that could do it, in the same run; `more` explains."""

    metric: str
    value: float
    unit: str
    peer: float | None = None
    more: dict[str, float | str] = field(default_factory=dict)

    @property
    def goal(self) -> str | None:
        """The goal as text, such as `<= 4`."""
        found = GOALS.get(self.metric)
        return f"{found[0]} {found[1]:g}" if found else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        found = GOALS.get(self.metric)
        if found is None:
            return None
        return self.value <= found[1] if found[0] == "<=" else self.value >= found[1]

    def document(self) -> dict[str, object]:
        """Show the metric as the one JSON object of its line."""
        shown: dict[str, object] = {"metric": self.metric, "value": round(self.value, 4), "unit": self.unit}
        if self.goal is not None:
            shown |= {"goal": self.goal, "met": self.met}
        if self.peer is not None:
            shown |= {"peer": round(self.peer, 4), "ratio": round(self.value / self.peer, 2)}
        return shown | {name: round(v, 4) if isinstance(v, float) else v for name, v in self.more.items()}


class Report:
    """Writes metrics as they come: lines for people, or JSON objects. Notes go to people only."""

    def __init__(self, stream: TextIO, *, as_json: bool) -> None:
        self._stream = stream
        self._as_json = as_json

    def show(self, metric: Metric) -> None:
        """Write one metric."""
        self._write(json.dumps(metric.document()) if self._as_json else _line(metric))

    def note(self, text: str) -> None:
        """Write a remark, where people read."""
        if not self._as_json:
            self._write(text)

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


def median(values: Sequence[float]) -> float:
    """Return the middle value."""
    return float(statistics.median(values))


def is_busy() -> bool:
    """Tell whether others use this machine too much for figures of wall time."""
    return os.getloadavg()[0] / (os.cpu_count() or 1) > BUSY


def load_note() -> str:
    """Say how busy the machine is, and what that means for the figures."""
    cores, load = os.cpu_count() or 1, os.getloadavg()
    text = f"load {load[0]:.2f} {load[1]:.2f} {load[2]:.2f} on {cores} cores"
    return f"{text}: busy, so do not call wall times good or bad" if is_busy() else text


def _line(metric: Metric) -> str:
    words = f"{metric.metric:<20} {metric.value:>9.3f} {metric.unit:<8}"
    if metric.goal is not None:
        words += f" goal {metric.goal:<8} {'met' if metric.met else 'MISSED':<7}"
    if metric.peer is not None:
        words += f" peer {metric.peer:.3f} (x{metric.value / metric.peer:.2f})"
    more = " ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in metric.more.items()
    )
    return f"{words}  {more}".rstrip()
