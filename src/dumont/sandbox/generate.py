"""A market made from a seed: as many computers as it takes to show about as many offers as were wished for.

Source: prices, shares and the distribution of every column follow public snapshots of the real market of 2025-12 and
2026-01; countries, machine sizes and what is not in them are chosen. Shares of models are flattened (to the power of
0.6), so that a market of 300 offers still has every model.
"""

import math
import random
import re
from bisect import bisect
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from itertools import accumulate
from typing import Any, Generic, TypeVar

from dumont.core import nanousd
from dumont.sandbox.catalogue import COUNTRY_NAMES, Box
from dumont.sandbox.gpus import SHARES, Share
from dumont.sandbox.weather import host_price

_P10_TO_SIGMA = 1.2816
_SPREAD = 0.7
"""How much of a model's spread is drawn: with all of it, a market this small has larger jumps of its cheapest price."""
T = TypeVar("T")


class _Table(Generic[T]):
    """Values with weights to draw from."""

    def __init__(self, rows: dict[T, float]) -> None:
        self._values = list(rows)
        self._edges = list(accumulate(rows.values()))

    def pick(self, chance: random.Random) -> T:
        """Draw one value."""
        return self._values[bisect(self._edges, chance.random() * self._edges[-1], 0, len(self._edges) - 1)]


_COUNTRY_SHARES = (
    "US 32 CN 8 CA 5 GB 3 DE 3 FR 3 NL 2 SE 2 NO 3 FI 2 ES 2 PT 1 IT 2 PL 2 CZ 2 BG 2 RO 1 UA 2 HU 1 IL 1 AE 1 IN 2 "
    "VN 1 TH 1 TW 3 KR 2 JP 2 HK 1 SG 1 AU 2 NZ 1 BR 1 AR 1 ZA 1"
)
_COUNTRIES = _Table({name: float(share) for name, share in re.findall(r"(\w+) (\d+)", _COUNTRY_SHARES)})
_RELIABILITIES = _Table({(0.6, 0.9): 5, (0.9, 0.98): 20, (0.98, 0.995): 35, (0.995, 0.9998): 40})
_TRAFFIC = _Table({(0.0, 0.0): 35, (1.0, 5.0): 35, (5.0, 20.0): 22, (20.0, 50.0): 8})
_LINES = _Table({(100.0, 900.0): 6, (1000.0, 9000.0): 4})
_OPEN_PORTS = _Table({(0, 0): 4, (1, 20): 16, (20, 250): 60, (250, 1000): 20})
_CUDA = _Table({12.2: 6, 12.4: 14, 12.6: 15, 12.8: 35, 13.0: 30})
_PLACE_FORMS = _Table({"region": 82, "comma": 8, "letters": 5, "parts": 2, "name": 1, "none": 2})
_LOTS = _Table({1: 88, 2: 8, 3: 4})
_SIZES = _Table({1: 40, 2: 20, 4: 24, 8: 16})
_DATACENTER_SIZES = _Table({1: 1, 2: 8, 4: 10, 8: 60})
_SMALLEST = _Table({1: 60, 2: 20, 4: 12, 8: 8})
_REGIONS = {
    "US": ("Texas", "California", "Washington", "Virginia", "Ohio", "Utah", "Oregon", "New York", "Nevada"),
    "CN": ("Guangxi", "Sichuan", "Guangdong"),
    "CA": ("Quebec", "Ontario", "Alberta"),
    "GB": ("England", "Scotland"),
    "DE": ("Hesse", "Bavaria", "Saxony"),
    "FR": ("Île-de-France", "Hauts-de-France"),
    "NL": ("North Holland", "Utrecht"),
    "SE": ("Stockholm", "Norrbotten"),
    "NO": ("Oslo", "Rogaland"),
    "PL": ("Mazovia", "Silesia"),
    "CZ": ("Prague", "South Moravia"),
    "JP": ("Tokyo", "Osaka"),
    "TW": ("Taipei", "Hsinchu"),
    "KR": ("Seoul", "Gyeonggi"),
    "BR": ("São Paulo", "Minas Gerais"),
    "AU": ("Victoria", "New South Wales"),
}
_NAMES = {letters: name for name, letters in COUNTRY_NAMES.items()}
_ALL_DATACENTER = ("H200", "B200", "H200 NVL")
_HALF_DATACENTER = ("H100 SXM", "H100 NVL", "A100 SXM4", "A100 PCIE", "L40S")
_ODDITIES = ("address", "cores", "ram", "external", "twice")


def generate(seed: int, offers: int, presence: Callable[[Box], float]) -> list[Box]:
    """Return computers that show about `offers` offers in all, where `presence` says how many each shows on average.

    Guarantees: the same arguments give the same computers; more offers only add to them.
    """
    chance = random.Random(seed)
    fewest = [(0.0, at) for at in range(len(SHARES))]
    found: list[Box] = []
    shown = 0.0
    while shown < offers:
        relative, at = heappop(fewest)
        lot = _lot(chance, SHARES[at], len(found))
        more = sum(presence(box) for box in lot)
        heappush(fewest, (relative + more / SHARES[at].gpus ** 0.6, at))
        found += lot
        shown += more
    return found


def _lot(chance: random.Random, share: Share, before: int) -> list[Box]:
    """Return the like computers of one host: one place, one price level."""
    datacenter = _is_datacenter(chance, share)
    verified = datacenter or chance.random() < share.verified
    level = _level(chance, share) * (1.0 if verified else 0.95)
    common = {
        "host": 10_000 + 7 * before + chance.randrange(7),
        "model": share.model,
        "free": share.free,
        "place": _place(chance),
        "verified": verified,
        "datacenter": datacenter,
        "static_ip": datacenter or chance.random() < 0.5,
    }
    numbers = range(before, before + _LOTS.pick(chance))
    return [_box(chance, 20_011 + 13 * number, level, level / share.median, common) for number in numbers]


def _box(chance: random.Random, number: int, level: float, to_median: float, common: dict[str, Any]) -> Box:
    gpus = (_DATACENTER_SIZES if common["datacenter"] else _SIZES).pick(chance)
    reliability = round(chance.uniform(*_RELIABILITIES.pick(chance)), 4)
    dearer = (1.05 if gpus == 8 else 1.0) * (1.04 if reliability > 0.995 else 1.0)
    down = chance.uniform(*_LINES.pick(chance))
    return Box(
        id=number,
        gpus=gpus,
        smallest=min(gpus, _SMALLEST.pick(chance)),
        gpu_hour=host_price(level * dearer),
        storage_month=nanousd(_storage(chance)),
        reliability=reliability,
        down=round(down, 1),
        up=round(down * chance.uniform(0.3, 1.0), 1),
        disk=float(round(min(2000.0, max(30.0, chance.lognormvariate(math.log(250), 0.8))) * gpus)),
        cuda=_CUDA.pick(chance),
        days_left=_days(chance),
        bid_share=_around(chance, 0.35, 0.60, 0.95),
        verification="deverified" if not common["verified"] and chance.random() < 0.05 else "",
        open_ports=chance.randint(*_OPEN_PORTS.pick(chance)),
        cores=chance.choice((4, 6, 8, 12, 16)),
        ram_mb=chance.choice((16_000, 24_000, 32_000, 48_000, 64_000)),
        disk_bw=float(round(chance.uniform(400, 7000))),
        up_cost=_traffic(chance),
        down_cost=_traffic(chance),
        liking=_liking(to_median * dearer, common["verified"], reliability),
        oddities=tuple(word for word in _ODDITIES if chance.random() < 0.005),
        **common,
    )


def _is_datacenter(chance: random.Random, share: Share) -> bool:
    name = share.model.name
    likely = 1.0 if name in _ALL_DATACENTER else 0.5 if name in _HALF_DATACENTER else 0.08
    return chance.random() < likely


def _around(chance: random.Random, p10: float, median: float, p90: float) -> float:
    """Draw a log-normal number with those percentiles, its two halves fitted apart."""
    draw = chance.gauss(0, 1)
    edge = p90 if draw > 0 else p10
    return float(median * math.exp(abs(draw) * _SPREAD * math.log(edge / median) / _P10_TO_SIGMA))


def _level(chance: random.Random, share: Share) -> float:
    return max(share.p10 * 0.8, min(share.p90 * 1.5, _around(chance, share.p10, share.median, share.p90)))


def _storage(chance: random.Random) -> str:
    draw = chance.random()
    if draw < 0.03:
        return "0"
    return f"{chance.uniform(1.0, 2.0) if draw < 0.06 else chance.triangular(0.10, 0.20, 0.15):.3f}"


def _traffic(chance: random.Random) -> float:
    """Dollars per GB."""
    return round(chance.uniform(*_TRAFFIC.pick(chance)), 1) / 1024


def _days(chance: random.Random) -> int:
    if chance.random() < 0.04:
        return chance.randint(1, 2)
    return round(min(400.0, max(3.0, chance.lognormvariate(math.log(60), 0.8))))


def _place(chance: random.Random) -> str | None:
    country = _COUNTRIES.pick(chance)
    regions: Sequence[str] = _REGIONS.get(country, ("",))
    region = chance.choice(regions)
    form = _PLACE_FORMS.pick(chance)
    if form == "none":
        return chance.choice((None, ""))
    if form == "name" and country in _NAMES and region:
        return f"{region}, {_NAMES[country]}"
    if form == "parts" and region:
        return f"District 4, {region}, {country}"
    return country if form == "letters" or not region else f", {country}" if form == "comma" else f"{region}, {country}"


def _liking(price_to_median: float, verified: bool, reliability: float) -> float:
    """Return how much more often than others a computer is rented: renters look for cheap, verified, reliable."""
    cheap = min(3.0, max(0.3, 1.0 / price_to_median))
    return cheap * (1.1 if verified else 0.7) * (1.0 if reliability > 0.95 else 0.6)
