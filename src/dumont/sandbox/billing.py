"""The sandbox's money: what each span cost, exactly, in integer nano-dollars."""

from dataclasses import dataclass
from typing import Any

from dumont.sandbox.store import Rental, Span, Store

MICRO = 1_000_000
_HOUR_US = 3600 * MICRO
BILLED_GPU = ("running", "rebooting", "recycling")


def cost(rate: int, microseconds: int) -> int:
    """Return rate x time, rounded half up once. Units: nano-dollars per hour, product microseconds, nano-dollars."""
    return (2 * rate * microseconds + _HOUR_US) // (2 * _HOUR_US)


@dataclass(frozen=True)
class Bill:
    """What one rental has cost so far. Units: nano-dollars."""

    gpu: int
    disk: int

    @property
    def total(self) -> int:
        """GPU and disk together."""
        return self.gpu + self.disk


def span_rates(rental: Rental, phase: str) -> tuple[int, int]:
    """Return the (GPU, disk) rates of a phase: the GPU costs only while it can be used, the disk always."""
    return (rental.gpu_rate if phase in BILLED_GPU else 0, rental.disk_rate)


def bill(spans: list[Span], now_us: int, window: tuple[int, int] | None = None) -> Bill:
    """Add spans up, a running one up to now; `window` counts only that stretch of time."""
    gpu = disk = 0
    for span in spans:
        start, end = _clip(span, now_us, window)
        gpu += cost(span.gpu_rate, max(0, end - start))
        disk += cost(span.disk_rate, max(0, end - start))
    return Bill(gpu, disk)


def credit(store: Store, granted: int, now_us: int) -> int:
    """Return what is left of the account's money, nano-dollars; may be below zero."""
    return granted - bill(store.spans(), now_us).total


def ledger(store: Store, now_us: int) -> list[dict[str, Any]]:
    """Return a line for each rental that ever was, with its spans; times in product seconds."""
    lines = []
    for rental in store.rentals(destroyed=True):
        spans = store.spans(rental.id)
        total = bill(spans, now_us)
        lines.append(
            {
                "instance_id": rental.id,
                "label": rental.label,
                "machine_id": rental.box_id,
                "spans": [_span_document(span, now_us) for span in spans],
                "gpu_nanousd": total.gpu,
                "disk_nanousd": total.disk,
                "total_nanousd": total.total,
                "running": rental.destroyed_us is None and rental.phase == "running",
                "created_at": rental.created_us / MICRO,
                "destroyed_at": None if rental.destroyed_us is None else rental.destroyed_us / MICRO,
            }
        )
    return lines


def charges(store: Store, now_us: int, window: tuple[int, int]) -> list[dict[str, Any]]:
    """Return the marketplace's own charge rows for a stretch of time, one for each instance that cost something."""
    rows = []
    for rental in store.rentals(destroyed=True):
        spans = [span for span in store.spans(rental.id) if _overlaps(span, now_us, window)]
        if spans:
            rows.append(_charge(rental, spans, now_us, window))
    return rows


def _charge(rental: Rental, spans: list[Span], now_us: int, window: tuple[int, int]) -> dict[str, Any]:
    starts, ends = zip(*(_clip(span, now_us, window) for span in spans), strict=True)
    total = bill(spans, now_us, window)
    lengths = [end - start for start, end in zip(starts, ends, strict=True)]
    items = []
    for kind, rates in (("gpu", [span.gpu_rate for span in spans]), ("disk", [span.disk_rate for span in spans])):
        # A bid that was changed is a line for each of its rates.
        for rate in dict.fromkeys(rate for rate in rates if rate):
            parts = [length for length, one in zip(lengths, rates, strict=True) if one == rate]
            amount = sum(cost(rate, part) for part in parts)
            items.append(_item(kind, rate, sum(parts), amount, min(starts), max(ends)))
    return {
        "start": min(starts) / MICRO,
        "end": max(ends) / MICRO,
        "type": "instance",
        "source": f"instance-{rental.id}",
        "description": f"Instance {rental.id} Charges",
        "amount": round(total.total / 1e9, 3),
        "metadata": {"template_id": None, "label": rental.label},
        "items": items,
    }


def _item(kind: str, rate: int, us: int, amount: int, start: int, end: int) -> dict[str, Any]:
    return {
        "start": start / MICRO,
        "end": end / MICRO,
        "type": kind,
        "description": f"{us / _HOUR_US:.3f} hours at ${rate / 1e9:.3f}/hour",
        "amount": round(amount / 1e9, 3),
        "items": [],
    }


def _clip(span: Span, now_us: int, window: tuple[int, int] | None) -> tuple[int, int]:
    end = span.to_us if span.to_us is not None else max(span.from_us, now_us)
    if window is None:
        return span.from_us, end
    return max(span.from_us, window[0]), min(end, window[1])


def _overlaps(span: Span, now_us: int, window: tuple[int, int]) -> bool:
    start, end = _clip(span, now_us, window)
    return end > start


def _span_document(span: Span, now_us: int) -> dict[str, Any]:
    return {
        "state": span.state,
        "gpu_rate_nanousd_hour": span.gpu_rate,
        "disk_rate_nanousd_hour": span.disk_rate,
        "from": span.from_us / MICRO,
        "to": None if span.to_us is None else span.to_us / MICRO,
        "nanousd": bill([span], now_us).total,
    }
