"""The computers of the sandbox's marketplace, and a small fixed catalogue of them for tests.

Source: prices per GPU and model figures are the medians of a public marketplace snapshot of 2025-12-07; places, hosts
and line speeds are chosen.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

from dumont.core import nanousd
from dumont.sandbox.gpus import MODELS, Model


@dataclass(frozen=True, slots=True)
class Box:
    """One physical computer.

    Units: nano-dollars per GPU-hour and per GB-month, lines in Mbit/s, disk in GB, its speed in MB/s, traffic in
    dollars per GB; cores and RAM are for each GPU. `free` is its model's free part, `liking` how much renters like it.
    """

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
    verification: str = ""
    static_ip: bool | None = None
    open_ports: int | None = None
    cores: int = 16
    ram_mb: int = 64_000
    disk_bw: float = 2876.0
    up_cost: float = 0.0
    down_cost: float = 0.0
    free: float = 0.5
    liking: float = 1.0
    oddities: tuple[str, ...] = ()

    def slices(self) -> tuple[tuple[int, ...], ...]:
        """Return the groups of GPU positions that are let: sizes double from the smallest up to the whole box."""
        return _slices(self.gpus, self.smallest)

    @property
    def country(self) -> str | None:
        """The country's two letters, however the host wrote the place."""
        return country_of(self.place)

    def disk_rate(self, gigabytes: float) -> int:
        """Nano-dollars per hour for that much disk; a month has 720 hours."""
        return round(self.storage_month * gigabytes / 720)

    def disk_of(self, gpus: tuple[int, ...]) -> float:
        """Gigabytes of disk that come with a slice."""
        return round(self.disk * len(gpus) / self.gpus, 1)


@cache
def _slices(gpus: int, smallest: int) -> tuple[tuple[int, ...], ...]:
    sizes = []
    size = smallest
    while size <= gpus:
        sizes.append(size)
        size *= 2
    return tuple(tuple(range(at, at + size)) for size in sizes for at in range(0, gpus, size))


@dataclass(frozen=True, slots=True)
class Offer:
    """Something to rent: some GPUs of a box, at this moment's price, under a number that changes at each listing.

    Units: `gpu_rate` and `min_bid`, the lowest bid that would run now, in nano-dollars per hour for all its GPUs.
    """

    id: int
    box: Box
    gpus: tuple[int, ...]
    gpu_rate: int
    min_bid: int


COUNTRY_NAMES = {
    "United States": "US",
    "Canada": "CA",
    "Germany": "DE",
    "France": "FR",
    "United Kingdom": "GB",
    "Netherlands": "NL",
    "Sweden": "SE",
    "Japan": "JP",
}
"""What some hosts write in place of the two letters."""


def country_of(place: str | None) -> str | None:
    """Return the two letters of a place's country, None where the host wrote nothing."""
    last = (place or "").split(",")[-1].strip()
    return COUNTRY_NAMES.get(last, last) or None


_NEWEST = {model.name: model for model in sorted(MODELS.values(), key=lambda model: model.ram_mb)}

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


def fixed() -> list[Box]:
    """Return the small catalogue, the same at each call."""
    return [_box(row) for row in _ROWS]


def _box(row: tuple[object, ...]) -> Box:
    number, host, model, gpus, smallest, hour, month, *rest = row
    names = ("place", "verified", "datacenter", "reliability", "down", "up", "disk", "cuda", "days_left")
    named: dict[str, Any] = dict(zip(names, rest, strict=True))
    return Box(
        int(str(number)),
        int(str(host)),
        _NEWEST[str(model)],
        int(str(gpus)),
        int(str(smallest)),
        nanousd(str(hour)),
        nanousd(str(month)),
        **named,
        oddities=() if named["verified"] else ("cores", "external", "address"),
    )
