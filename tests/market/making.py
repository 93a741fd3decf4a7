"""Markets and queries made from a seed, odd and with gaps as marketplaces are; values repeat, so ties are common."""

from dataclasses import replace
from datetime import datetime, timezone
from random import Random
from typing import Any

from hypothesis import strategies as st

from dumont.core import new_id
from dumont.market.cache import Source
from dumont.market.listing import Listing
from dumont.market.order import SORTS, Order
from dumont.providers import Offer, OfferQuery

AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=timezone.utc)
SEEDS = st.integers(0, 2**32 - 1)
ANY = Offer(
    *("sandbox", "1", "1", None, "RTX 4090", 1, 24_564, 8.0, None, 64.0, 500.0, 900.0, 800.0),
    *(350_833_333, 346_666_666, 4_166_667, 150_000_000, "on-demand", 200_000_000, "Texas, US", "US", 0.99),
    *(True, False, "12.8", None, 98.6, 82.6, None),
)
"""An offer with nothing odd."""

_VALUES: dict[str, tuple[Any, ...]] = {
    "gpu_name": ("RTX 4090", "RTX 4090D", "A100 SXM4", "A100 PCIE", "RTX A1000", "H100_NVL", "L4", "RTX PRO 6000 WS"),
    "num_gpus": (1, 2, 8),
    "gpu_memory_mib": (12_288, 24_564, 24_576, 81_559, 81_920),
    "cpu_cores": (4.0, 8.0, 31.5, None),
    "cpu_ram_gb": (16.0, 64.401, None),
    "disk_gb": (20.0, 100.0, 900.5, None),
    "inet_down_mbps": (100.0, 905.0, None),
    "inet_up_mbps": (50.0, 812.25, None),
    "gpu_hour_nano": (100_000_000, 346_666_670, 346_666_499, 346_666_500, 2 * 10**9),
    "storage_gb_month_nano": (0, 100_000_000, 149_333_333),
    "machine_type": ("on-demand", "on-demand", "interruptible"),
    "country": ("US", "BR", "SE", None),
    "reliability": (0.9, 0.95, 0.999, None),
    "verified": (True, False),
    "static_ip": (True, False),
    "cuda_version": ("12.2", "12.10", "13.0", "13", None),
    "dlperf": (50.0, 98.6, None),
}
WISHES: dict[str, tuple[Any, ...]] = {
    "gpu_names": (("a100",), ("rtx_4090",), ("RTX", "L4"), ("h100 NVL",), ("A100_SXM4", "6000"), ("A1",)),
    "num_gpus": (0, 1, 2),
    "min_gpu_ram_gb": (12, 23.5, 24, 80),
    "max_gpu_ram_gb": (12, 24, 79.9),
    "min_cpu_cores": (0, 8),
    "min_cpu_ram_gb": (0, 64.401),
    "min_disk_gb": (0, 100),
    "min_inet_down_mbps": (905,),
    "min_inet_up_mbps": (0, 812.25),
    "min_cuda": ("12.2", "12.9", "13", "13.1"),
    "static_ip": (True, False),
    "min_price_hour_nano": (0, 346_666_000, 350_814_000),
    "max_price_hour_nano": (346_667_000, 350_814_000, 10**9),
    "min_reliability": (0, 0.95),
    "verified_only": (True,),
    "countries": (("US",), ("br", "SE"), ("nowhere",)),
}
"""What can be asked for; every value decides between some of the offers above."""


def offer(dice: Random, machine: int) -> Offer:
    """Make an offer, priced for 20 GB."""
    return replace(ANY, machine_id=str(machine), **{name: dice.choice(v) for name, v in _VALUES.items()}).with_disk(20)


def query(seed: int) -> OfferQuery:
    """Make a query with a few wishes."""
    dice = Random(seed)
    named = dice.sample(sorted(WISHES), dice.choice((0, 1, 1, 2, 3)))
    wishes = {name: dice.choice(WISHES[name]) for name in named}
    kind = dice.choice(("on-demand", "on-demand", "interruptible"))
    exact = dice.random() < 0.3
    return OfferQuery(**wishes, gpu_exact=exact, disk_gb=dice.choice((8.0, 20.0, 250.0)), machine_type=kind)


def order(seed: int) -> Order:
    """Make an order of one to three sorts."""
    dice = Random(seed)
    return tuple((name, dice.random() < 0.5) for name in dice.sample(sorted(SORTS), dice.randint(1, 3)))


def sources(seed: int) -> list[Source]:
    """Make one or two marketplaces with their listings."""
    dice = Random(seed)
    found = []
    for provider in dice.choice((("sandbox",), ("sandbox", "vast"))):
        rows = tuple((new_id("off"), offer(dice, machine)) for machine in range(dice.choice((0, 1, 15, 60))))
        found.append(Source(provider, "ok", Listing(new_id("lst"), provider, AT, True, rows)))
    return found


MARKETS = SEEDS.map(sources)
QUERIES = SEEDS.map(query)
ORDERS = SEEDS.map(order)
