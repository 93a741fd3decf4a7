"""Tolerant readers of Vast's JSON values: null, NaN and odd types become None, never zero.

Source: numbers come as int, float or text, and any optional field may be null or absent.
"""

import math
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

from dumont.core import nanousd, storable

Row = Mapping[str, Any]
"""One JSON object of a reply."""


def text(row: Row, *names: str) -> str | None:
    """Return the first of the named fields that holds text, stripped and storable; ids as numbers count as text."""
    for name in names:
        value = row.get(name)
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            continue
        found = storable(str(value)).strip()
        if found:
            return found
    return None


def line(row: Row, *names: str) -> str | None:
    """Return the first of the named texts on one line, without signs that cannot be shown or stored."""
    found = text(row, *names)
    if found is None or (found.isprintable() and "  " not in found):
        return found
    return " ".join("".join(sign if sign.isprintable() else " " for sign in found).split()) or None


def number(row: Row, *names: str) -> float | None:
    """Return the first of the named fields that holds a finite number."""
    for name in names:
        found = finite(row.get(name))
        if found is not None:
            return found
    return None


def finite(value: Any) -> float | None:
    """Return a value as a finite float, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def whole(row: Row, *names: str) -> int | None:
    """Return the first of the named fields that holds a number, rounded down."""
    found = number(row, *names)
    return None if found is None else math.floor(found)


def money(row: Row, *names: str) -> int | None:
    """Return the first of the named dollar amounts that is finite and not negative, in nano-dollars."""
    for name in names:
        value = row.get(name)
        found = finite(value)
        if found is not None and found >= 0:
            return _nano(value)
    return None


@lru_cache(8192)
def _nano(dollars: float | str) -> int:
    """Turn dollars into nano-dollars; the prices of a market come again with each look at it."""
    return nanousd(str(dollars))


def moment(row: Row, *names: str) -> datetime | None:
    """Return the first of the named Unix times as an aware UTC datetime."""
    found = number(row, *names)
    if found is None or not 0 < found < 253_402_300_800:
        return None
    return datetime.fromtimestamp(found, tz=timezone.utc)


def inner(row: Row, name: str) -> Row:
    """Return a nested object, or an empty one."""
    value = row.get(name)
    return value if isinstance(value, dict) else {}
