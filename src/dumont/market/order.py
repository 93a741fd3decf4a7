"""Orders and pages of offers: unknown values last, ties by id, and cursors that name the listings they go through."""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dumont.core import is_id
from dumont.http import problems
from dumont.market.listing import Listed, Status
from dumont.providers import OfferQuery

Order = tuple[tuple[str, bool], ...]
"""Names of `SORTS` and whether each is descending."""

SORTS: dict[str, Callable[[Listed], float | None]] = {
    "price_hour": lambda listed: listed.offer.shown_price_nano,
    "reliability": lambda listed: listed.offer.reliability,
    "gpu_ram": lambda listed: listed.offer.gpu_ram_gb,
    "cpu_ram": lambda listed: listed.offer.cpu_ram_gb,
    "cpu_cores": lambda listed: listed.offer.cpu_cores,
    "disk_space": lambda listed: listed.offer.disk_gb,
    "inet_down": lambda listed: listed.offer.inet_down_mbps,
    "inet_up": lambda listed: listed.offer.inet_up_mbps,
    "performance_per_usd": lambda listed: listed.offer.performance_per_usd,
    "num_gpus": lambda listed: listed.offer.num_gpus,
}


@dataclass(frozen=True)
class Cursor:
    """Where a page begins: `sources` are (provider, id of its listing or None, status) as on the first page."""

    start: int
    sources: tuple[tuple[str, str | None, Status], ...]


def read_order(text: str) -> Order:
    """Read `a,-b`.

    Errors: InvalidRequest for an unknown name, or one that stands there twice.
    """
    order = tuple((part.strip().removeprefix("-"), part.strip().startswith("-")) for part in text.split(","))
    names = [name for name, _ in order]
    if any(name not in SORTS for name in names) or len(set(names)) < len(names):
        detail = f"Sort by one or more of: {', '.join(SORTS)}; each at most once, a minus sign for descending."
        raise problems.InvalidRequest([problems.field_error("/query/sort", detail, "unknown-sort")])
    return order


def in_order(rows: Iterable[Listed], order: Order) -> list[Listed]:
    """Return the offers in order; what does not state a value comes last in either direction, ties are by id."""
    found = sorted(rows, key=lambda listed: listed.id)
    for name, descending in reversed(order):
        value = SORTS[name]
        known = [(stated, listed) for listed in found if (stated := value(listed)) is not None]
        unknown = [listed for listed in found if value(listed) is None]
        known.sort(key=lambda pair: pair[0], reverse=descending)
        found = [listed for _, listed in known] + unknown
    return found


def write_cursor(cursor: Cursor, query: OfferQuery, order: Order) -> str:
    """Return the opaque text of a cursor, which goes with one query in one order."""
    content = [_fingerprint(query, order), cursor.start, cursor.sources]
    return base64.urlsafe_b64encode(json.dumps(content, separators=(",", ":")).encode()).decode().rstrip("=")


def read_cursor(text: str, query: OfferQuery, order: Order) -> Cursor:
    """Read a cursor back.

    Errors: InvalidRequest for one that was not made here for this query and order.
    """
    try:
        content = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
        mark, start, sources = content
        found = Cursor(_whole(start), tuple(_source(*source) for source in sources))
    except (binascii.Error, ValueError, TypeError, RecursionError) as error:
        raise bad_cursor("Must be the next_cursor of the page before.") from error
    if mark != _fingerprint(query, order):
        raise bad_cursor("Must be the next_cursor of the page before, with the same filters and the same sort.")
    return found


def bad_cursor(detail: str) -> problems.InvalidRequest:
    """Say why a cursor cannot be used."""
    return problems.InvalidRequest([problems.field_error("/query/cursor", detail, "invalid-cursor")])


def _source(provider: Any, listing: Any, status: Any) -> tuple[str, str | None, Status]:
    known = status in ("ok", "stale", "unreachable") and isinstance(provider, str)
    if not known or not (listing is None or is_id(listing, "lst")):
        raise ValueError("not a source")
    return provider, listing, status


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 10**9:
        raise ValueError("not a place in a list")
    return value


def _fingerprint(query: OfferQuery, order: Sequence[tuple[str, bool]]) -> str:
    return hashlib.sha256(repr((query, tuple(order))).encode()).hexdigest()[:12]
