"""The marketplace's search language: filters with typed comparison, aliases, order, and the cap of 64 rows."""

import math
from collections.abc import Callable, Collection
from typing import Any

from dumont.sandbox.catalogue import country_of

_CAP = 64
_ALIASES = {
    "dph": "dph_total",
    "cuda_vers": "cuda_max_good",
    "dlperf_usd": "dlperf_per_dphtotal",
    "flops_usd": "flops_per_dphtotal",
    "display_active": "gpu_display_active",
    "ubuntu_version": "os_version",
    "driver_version": "driver_vers",
}
_VIRTUAL: dict[str, Callable[[dict[str, Any]], Any]] = {
    "verified": lambda offer: offer["verification"] == "verified",
    "datacenter": lambda offer: offer["hosting_type"] == 1,
    "external": lambda offer: bool(offer["external"]),
    "geolocation": lambda offer: country_of(offer["geolocation"]) or "",
    "gpu_name": lambda offer: offer["gpu_name"].replace("_", " "),
    "id": lambda offer: None,
}
_NOT_FILTERS = ("order", "type", "limit", "allocated_storage", "client_id", "q", "disable_bundling", "extra_ids")
_BIDS = ("bid", "interruptible")
_TYPES = ("on-demand", "ondemand", "reserved", *_BIDS)


class BadQuery(ValueError):
    """A search that the marketplace refuses; the message is its own wording."""


def wants_bids(query: dict[str, Any]) -> bool:
    """Tell whether the search is for interruptible rentals.

    Errors: BadQuery for an unknown type.
    """
    kind = query.get("type", "on-demand")
    if kind not in _TYPES:
        raise BadQuery("Error in query parameters: type must be on-demand, bid or reserved")
    return kind in _BIDS


def storage(query: dict[str, Any]) -> float:
    """Return the gigabytes of disk that prices are to include; 8 where nothing is said.

    Errors: BadQuery when it is not a number above zero.
    """
    size = _number(query.get("allocated_storage", 8), "allocated_storage")
    if size < 0:
        raise BadQuery("Error in query parameters: allocated_storage must not be negative")
    return size


def only_machine(query: dict[str, Any]) -> int | None:
    """Return the one machine that a search asks for in the plainest form, None where it may want others."""
    wish = query.get("machine_id")
    number = wish.get("eq") if isinstance(wish, dict) and set(wish) == {"eq"} else None
    return number if isinstance(number, int) else None


def select(offers: list[dict[str, Any]], query: dict[str, Any], fields: Collection[str]) -> list[dict[str, Any]]:
    """Return the offers that pass every filter, in order, at most 64; `fields` are the names that an offer has.

    Errors: BadQuery for unknown keys, operators and unreadable values.
    """
    if "offset" in query:
        raise BadQuery("Error in query parameters: offset is not supported")
    tests = [_test(name, wish, fields) for name, wish in query.items() if name not in _NOT_FILTERS]
    found = list(offers)
    for test in tests:
        found = [offer for offer in found if test(offer)]
    for name, direction in reversed(_order(query)):
        found.sort(key=lambda offer, name=name: _sortable(offer.get(name)), reverse=direction)  # type: ignore[misc]
    return found[: _limit(query)]


def _limit(query: dict[str, Any]) -> int:
    if query.get("limit") is None:
        return _CAP
    return max(0, min(_CAP, int(_number(query["limit"], "limit"))))


def _order(query: dict[str, Any]) -> list[tuple[str, bool]]:
    wishes = query.get("order") or [["score", "desc"]]
    try:
        return [(_ALIASES.get(name, name), str(direction).lower() == "desc") for name, direction in wishes]
    except (TypeError, ValueError) as error:
        raise BadQuery("Error in query parameters: order must be a list of [field, direction]") from error


def _sortable(value: Any) -> tuple[int, Any]:
    if value is None:
        return (0, 0)
    return (1, float(value)) if isinstance(value, (bool, int, float)) else (2, str(value))


def _test(name: str, wish: Any, fields: Collection[str]) -> Callable[[dict[str, Any]], bool]:
    field = _ALIASES.get(name, name)
    if field not in _VIRTUAL and field not in fields:
        raise BadQuery(f"Error in query parameters: {name} is not a valid search key")
    virtual, passes = _VIRTUAL.get(field), matcher(wish, name)
    if virtual is not None:
        return lambda offer: passes(virtual(offer))
    return lambda offer: passes(offer.get(field))


def matcher(wish: Any, name: str) -> Callable[[Any], bool]:
    """Return the test of a value that `{operator: wanted, ...}` means; a bare value means equality.

    Errors: BadQuery for unknown operators; the test raises it for values that cannot be compared.
    """
    wishes = wish if isinstance(wish, dict) else {"eq": wish}
    checks = [(_operator(name, operator), value) for operator, value in wishes.items()]

    def passes(have: Any) -> bool:
        for check, value in checks:  # noqa: SIM110 - a generator for each of some thousand values costs twice as much
            if not check(have, value, name):
                return False
        return True

    return passes


def _operator(name: str, operator: str) -> Callable[[Any, Any, str], bool]:
    try:
        return _OPERATORS[operator]
    except KeyError as error:
        raise BadQuery(f"Error in query parameters: {operator} is not a valid operator for {name}") from error


def _like(have: Any, value: Any, name: str) -> Any:
    """Turn a wanted value into the type of the field."""
    if isinstance(have, bool):
        if isinstance(value, str):
            return value.lower() in ("true", "1", "yes")
        return bool(value)
    if isinstance(have, (int, float)):
        return _number(value, name)
    text = str(value)
    return text.replace("_", " ") if name == "gpu_name" else text


def _number(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise BadQuery(f"Error in query parameters: {name} must be a number") from error
    if math.isnan(number):
        raise BadQuery(f"Error in query parameters: {name} must be a number")
    return number


def _equal(have: Any, value: Any, name: str) -> bool:
    if have is None or value is None:
        return have is None and value is None and name != "id"
    return bool(have == _like(have, value, name))


def _among(have: Any, value: Any, name: str) -> bool:
    if not isinstance(value, list):
        raise BadQuery(f"Error in query parameters: {name} needs a list")
    return any(_equal(have, one, name) for one in value)


def _compare(verdict: Callable[[Any, Any], bool]) -> Callable[[Any, Any, str], bool]:
    def check(have: Any, value: Any, name: str) -> bool:
        return have is not None and value is not None and verdict(have, _like(have, value, name))

    return check


_OPERATORS: dict[str, Callable[[Any, Any, str], bool]] = {
    "eq": _equal,
    "neq": lambda have, value, name: not _equal(have, value, name),
    "gt": _compare(lambda have, value: have > value),
    "gte": _compare(lambda have, value: have >= value),
    "lt": _compare(lambda have, value: have < value),
    "lte": _compare(lambda have, value: have <= value),
    "in": _among,
    "notin": lambda have, value, name: not _among(have, value, name),
    "nin": lambda have, value, name: not _among(have, value, name),
}
