"""Does an offer fit a query: the one judgement on what offers state, whoever offers.

Guarantees: compares the values that are shown; a value that an offer does not state fits no wish about it.
"""

import re
from collections.abc import Callable
from functools import lru_cache

from dumont.providers.contract import Offer, OfferQuery

Check = Callable[[Offer], bool]

_BID_WORDS = frozenset({"bid", "interruptible", "spot"})
_CUDA = re.compile(r"(\d{1,3})(?:\.(\d{1,3}))?")


def machine_type_of(query: OfferQuery) -> str:
    """Return the query's machine type in our two words: on-demand or interruptible."""
    return "interruptible" if query.machine_type in _BID_WORDS else "on-demand"


def fits(offer: Offer, query: OfferQuery) -> bool:
    """Tell whether an offer, priced for the query's disk, is what was asked for."""
    return all(check(offer) for check in checks(query))


def checks(query: OfferQuery) -> list[Check]:
    """Return one test for each wish of a query."""
    kind, room = machine_type_of(query), query.disk_gb
    found: list[Check] = [
        lambda offer: offer.machine_type == kind,
        lambda offer: offer.disk_gb is None or offer.disk_gb >= room,
    ]
    machine = query.machine_id
    if machine is not None:
        found.append(lambda offer: offer.machine_id == machine)
    if query.verified_only:
        found.append(lambda offer: offer.verified)
    if query.static_ip is not None:
        wanted = query.static_ip
        found.append(lambda offer: offer.static_ip is wanted)
    if query.countries:
        countries = frozenset(code.upper() for code in query.countries)
        found.append(lambda offer: offer.country in countries)
    return [*found, *_gpu_checks(query), *_limits(query)]


def _gpu_checks(query: OfferQuery) -> list[Check]:
    found: list[Check] = []
    count = query.num_gpus
    if count is not None:
        found.append(lambda offer: offer.num_gpus == count)
    if query.gpu_name is not None:
        name = plain_name(query.gpu_name)
        found.append(lambda offer: plain_name(offer.gpu_name) == name)
    if query.gpu_names and query.gpu_exact:
        names = frozenset(plain_name(name) for name in query.gpu_names)
        found.append(lambda offer: plain_name(offer.gpu_name) in names)
    elif query.gpu_names:
        phrases = query.gpu_names
        found.append(lambda offer: any(has_words(offer.gpu_name, phrase) for phrase in phrases))
    return found


def _limits(query: OfferQuery) -> list[Check]:
    cuda = query.min_cuda
    found = [
        _at_least(query.min_gpu_ram_gb, lambda offer: offer.gpu_ram_gb),
        _at_most(query.max_gpu_ram_gb, lambda offer: offer.gpu_ram_gb),
        _at_least(query.min_cpu_cores, lambda offer: offer.cpu_cores),
        _at_least(query.min_cpu_ram_gb, lambda offer: offer.cpu_ram_gb),
        _at_least(query.min_disk_gb, lambda offer: offer.disk_gb),
        _at_least(query.min_inet_down_mbps, lambda offer: offer.inet_down_mbps),
        _at_least(query.min_inet_up_mbps, lambda offer: offer.inet_up_mbps),
        _at_least(query.min_reliability, lambda offer: offer.reliability),
        _at_least(query.min_price_hour_nano, lambda offer: offer.shown_price_nano),
        _at_most(query.max_price_hour_nano, lambda offer: offer.shown_price_nano),
    ]
    kept = [check for check in found if check is not None]
    return kept if cuda is None else [*kept, lambda offer: cuda_version(offer.cuda_version) >= cuda_version(cuda)]


def _at_least(limit: float | None, value: Callable[[Offer], float | None]) -> Check | None:
    if limit is None:
        return None

    def check(offer: Offer) -> bool:
        stated = value(offer)
        return stated is not None and stated >= limit

    return check


def _at_most(limit: float | None, value: Callable[[Offer], float | None]) -> Check | None:
    if limit is None:
        return None

    def check(offer: Offer) -> bool:
        stated = value(offer)
        return stated is not None and stated <= limit

    return check


@lru_cache(1024)
def plain_name(name: str) -> str:
    """Return a GPU's name as names are compared: lower case, `_` as a space, single spaces."""
    return " ".join(name.replace("_", " ").lower().split())


@lru_cache(4096)
def has_words(name: str, phrase: str) -> bool:
    """Tell whether a GPU's name holds a phrase as whole consecutive words: `A100` is in `A100 SXM4`, not in `A1000`."""
    words = plain_name(phrase)
    return bool(words) and f" {words} " in f" {plain_name(name)} "


@lru_cache(256)
def cuda_version(text: str | None) -> tuple[int, int]:
    """Read a CUDA version such as 12.8; (-1, 0), which is less than any, where it cannot be read."""
    found = _CUDA.match(text or "")
    return (int(found[1]), int(found[2] or 0)) if found else (-1, 0)
