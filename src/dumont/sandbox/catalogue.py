"""The computers of the sandbox's marketplace: a fixed small catalogue with one of each oddity.

Source: prices per GPU and model figures are the medians of a public marketplace snapshot of 2025-12-07; places, hosts
and line speeds are chosen.
"""

from dataclasses import dataclass

from dumont.core import nanousd


@dataclass(frozen=True)
class Model:
    """A GPU model. Units: MB, TFLOPS, the marketplace's own benchmark, capability x100, watts, GB/s."""

    name: str
    ram_mb: int
    tflops: float
    dlperf: float
    capability: int
    watts: int
    bandwidth: float


@dataclass(frozen=True)
class Box:
    """One physical computer. Units: nano-dollars per GPU-hour and per GB-month, lines in Mbit/s, disk in GB."""

    id: int
    host: int
    model: Model
    gpus: int
    smallest: int
    gpu_hour: int
    storage_month: int
    place: str | None
    verified: bool
    datacenter: bool
    reliability: float
    down: float
    up: float
    disk: float
    cuda: float
    days_left: int
    bid_share: float = 0.6

    def slices(self) -> list[tuple[int, ...]]:
        """Return the groups of GPU positions that are let: sizes double from the smallest up to the whole box."""
        sizes = []
        size = self.smallest
        while size <= self.gpus:
            sizes.append(size)
            size *= 2
        return [tuple(range(at, at + size)) for size in sizes for at in range(0, self.gpus, size)]


@dataclass(frozen=True)
class Offer:
    """Something to rent: some GPUs of a box, under a number that changes after each rental."""

    id: int
    box: Box
    gpus: tuple[int, ...]

    @property
    def gpu_rate(self) -> int:
        """Nano-dollars per hour for the GPUs."""
        return self.box.gpu_hour * len(self.gpus)

    @property
    def min_bid(self) -> int:
        """Lowest bid that would run now, nano-dollars per hour."""
        return round(self.gpu_rate * self.box.bid_share)

    def disk_rate(self, gigabytes: float) -> int:
        """Nano-dollars per hour for that much disk; a month has 720 hours."""
        return round(self.box.storage_month * gigabytes / 720)


_MODELS = {
    model.name: model
    for model in (
        Model("RTX 3060", 12288, 12.4, 12.5, 860, 170, 360.0),
        Model("RTX 3090", 24576, 35.8, 45.2, 860, 350, 936.2),
        Model("RTX 4090", 24564, 82.6, 98.6, 890, 450, 1008.0),
        Model("RTX 5090", 32607, 109.4, 203.2, 1200, 575, 1792.0),
        Model("RTX A6000", 49140, 36.1, 55.2, 860, 300, 768.0),
        Model("L40S", 46068, 73.3, 95.2, 890, 350, 864.0),
        Model("A100 SXM4", 81920, 15.6, 132.0, 800, 400, 2039.0),
        Model("H100 SXM", 81559, 53.5, 354.0, 900, 700, 3350.0),
    )
}

_ROWS: tuple[tuple[object, ...], ...] = (
    (22991, 10457, "RTX 4090", 2, 1, "0.34", "0.15", "Texas, US", True, False, 0.9958, 905, 812, 900, 12.8, 90),
    (22992, 10457, "RTX 4090", 4, 2, "0.36", "0.15", "Stockholm, SE", True, False, 0.9971, 2900, 2100, 1800, 12.8, 60),
    (23410, 11880, "RTX 4090", 1, 1, "0.31", "0.13", "Prague, CZ", True, False, 0.9892, 640, 410, 500, 12.6, 45),
    (23411, 11881, "RTX 4090", 1, 1, "0.35", "0.14", "São Paulo, BR", True, False, 0.9934, 820, 510, 600, 12.8, 80),
    (24107, 12034, "RTX 3090", 1, 1, "0.15", "0.12", "Mazovia, PL", True, False, 0.9911, 540, 300, 420, 12.4, 30),
    (24108, 12034, "RTX 3090", 2, 1, "0.17", "0.15", "Quebec, CA", True, False, 0.9963, 930, 610, 800, 12.8, 120),
    (25520, 13377, "RTX 5090", 1, 1, "0.41", "0.15", "Washington, US", True, False, 0.9980, 1900, 1200, 600, 13.0, 75),
    (25521, 13377, "RTX 5090", 2, 2, "0.44", "0.18", "Ota, Tokyo, JP", True, False, 0.9967, 3100, 2400, 900, 13.0, 50),
    (30011, 20001, "A100 SXM4", 2, 1, "0.99", "0.20", "Utrecht, NL", True, True, 0.9991, 7800, 7100, 3000, 12.8, 200),
    (30012, 20001, "H100 SXM", 8, 4, "1.86", "0.20", "Virginia, US", True, True, 0.9994, 8800, 8400, 8000, 13.0, 365),
    (30013, 20001, "L40S", 1, 1, "0.60", "0.18", "Hesse, DE", True, True, 0.9989, 4200, 3900, 700, 12.8, 180),
    (26630, 14052, "RTX 3060", 1, 1, "0.06", "0.10", "BR", True, False, 0.9701, 310, 150, 220, 12.2, 20),
    (27719, 14900, "RTX A6000", 1, 1, "0.38", "0.15", ", FR", False, False, 0.9604, 720, 380, 450, 12.4, 10),
)  # fmt: skip


def boxes() -> list[Box]:
    """Return the catalogue, the same at each call."""
    return [_box(row) for row in _ROWS]


def _box(row: tuple[object, ...]) -> Box:
    number, host, model, gpus, smallest, hour, month, *rest = row
    named = dict(
        zip(
            ("place", "verified", "datacenter", "reliability", "down", "up", "disk", "cuda", "days_left"),
            rest,
            strict=True,
        )
    )
    return Box(
        int(str(number)),
        int(str(host)),
        _MODELS[str(model)],
        int(str(gpus)),
        int(str(smallest)),
        nanousd(str(hour)),
        nanousd(str(month)),
        **named,  # type: ignore[arg-type]
    )
